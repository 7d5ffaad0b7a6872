"""Exported models where they are to run: llama.cpp, mlx-lm and transformers give the same ids, text and numbers."""

import json
import os
import shutil
import urllib.request

import numpy as np
import pytest
import torch
import xllamacpp
from helpers import mlxrlhf
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mlxrlhf.data import corpora
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.models.adapters import write_adapters
from mlxrlhf.models.gguf_files import _LLAMA3, write_gguf

TEXTS = [
    "def f(x):\n    return [y ** 2 for y in x if y % 2 == 0]\n",
    "naïve café 🦜\U0001f469\u200d\U0001f4bb parrots",
    "中文字符，日本語のテキスト、한국어",
    "a\tb\r\nc\r\n\r\n\td",
    "  leading and trailing  ",
    " ",
    "\n\n\n    x",
    "1234567 3.14e-10",
    "x" * 40,
    "don't we'll I'M",
    "Ünïcödé Ελληνικά Русский עברית العربية",
    "\ufeff\u200b",
    "https://example.org/a?b=c&d=%20",
    "<|user|>text<|end|><tool_call>{}</tool_call>",
    "<|im_start|>user\nhi<|im_end|>",
    "<|end|",
    "<tool_cal",
]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And  3 + 3?\n"},
]
SHAPE = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    initializer_range=0.2,
)
#: what llama-family checkpoints differ in
VARIANTS = {
    "grouped, tied": dict(tie_word_embeddings=True, rope_theta=10_000.0),
    "untied, biases": dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_theta=5e5),
    "wide heads, llama3 rope": dict(
        tie_word_embeddings=False,
        head_dim=32,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "linear rope": dict(
        tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
}


class LlamaCpp:
    """llama.cpp's own server on a GGUF file."""

    def __init__(self, file):
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = str(file), 512, 1
        params.verbosity, params.warmup = 0, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # its default rounds to f16
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        self.server = xllamacpp.Server(params)

    def post(self, path, **body):
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def ids(self, text, special=True):
        return self.post("/tokenize", content=text, add_special=special, parse_special=True)["tokens"]

    def greedy(self, prompt, count):
        """Ids of the continuation, and the log-probability of the first."""
        answer = self.post(
            "/completion",
            prompt=prompt,
            n_predict=count,
            temperature=0,
            return_tokens=True,
            n_probs=1,
            cache_prompt=False,
            ignore_eos=True,
        )
        return answer["tokens"], answer["completion_probabilities"][0]["top_logprobs"][0]["logprob"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tokenizer of ours."""
    folder = tmp_path_factory.mktemp("export") / "tokenizer"
    tokenizers.train([text for _, (_, text) in zip(range(40), corpora.stdlib())], 800, folder)
    return folder


def checkpoint(folder, tokenizer, **shape):
    """A random checkpoint as transformers writes it, its biases random too."""
    torch.manual_seed(0)
    kept = AutoTokenizer.from_pretrained(tokenizer)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=len(kept) + 8, eos_token_id=kept.eos_token_id, **shape))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def transformers_greedy(folder, prompt, count):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    with torch.no_grad():
        logp = model(ids).logits[0, -1].log_softmax(-1).max().item()
        return model.generate(ids, max_new_tokens=count, do_sample=False)[0, len(prompt) :].tolist(), logp


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_continues_as_transformers_does(variant, house, tmp_path):
    source = checkpoint(tmp_path / "model", house, **VARIANTS[variant])
    write_gguf(source, tmp_path / "model.gguf", "f32")
    prompt = AutoTokenizer.from_pretrained(source).encode("def parrot(x):\n    return x * 2\n" * 3)
    expected, logp = transformers_greedy(source, prompt, 20)
    tokens, found = LlamaCpp(tmp_path / "model.gguf").greedy(prompt, 20)
    assert tokens == expected and len(set(expected)) > 5
    assert found == pytest.approx(logp, abs=1e-4)


def byte_level(folder, pre_tokenizer):
    """A tokenizer as other makers train them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizer, decoders.ByteLevel()
    texts = [text for _, (_, text) in zip(range(10), corpora.stdlib())]
    trained.train_from_iterator(
        [*texts, *TEXTS[:5]],
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["ours", "gpt-2", "smollm", "llama-bpe"])
def test_llama_cpp_gives_the_same_ids_and_writes_dialogues_alike(kind, house, tmp_path):
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    made = {
        "gpt-2": ByteLevel(add_prefix_space=False),
        "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
        "llama-bpe": Sequence([Split(Regex(_LLAMA3), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]),
    }
    folder = house if kind == "ours" else byte_level(tmp_path / "tokenizer", made[kind])
    source = checkpoint(tmp_path / "model", folder, tie_word_embeddings=True)
    write_gguf(source, tmp_path / "model.gguf", "q8_0")
    stock, llama_cpp = AutoTokenizer.from_pretrained(source), LlamaCpp(tmp_path / "model.gguf")
    texts = [*TEXTS, *(text[:2_000] for _, (_, text) in zip(range(20), corpora.python_docs()))]
    for text in texts:
        assert llama_cpp.ids(text) == stock.encode(text), text
    rendered = stock.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert llama_cpp.post("/apply-template", messages=TURNS)["prompt"] == rendered


def test_a_tokenizer_that_puts_a_space_in_front_keeps_it(house, tmp_path):
    """As Llama 2's does: the same vocabulary with another normalizer."""
    shutil.copytree(house, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, content["normalizer"]],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    source = checkpoint(tmp_path / "model", tmp_path / "tokenizer", tie_word_embeddings=True)
    write_gguf(source, tmp_path / "model.gguf", "f16")
    stock, llama_cpp = AutoTokenizer.from_pretrained(source), LlamaCpp(tmp_path / "model.gguf")
    for text in TEXTS[:5]:
        assert llama_cpp.ids(text) == stock.encode(text) != AutoTokenizer.from_pretrained(house).encode(text), text


@pytest.mark.parametrize("gguf_type,error", [("f16", 5e-3), ("bf16", 5e-2), ("q8_0", 0.3)])
def test_smaller_gguf_types_stay_close(gguf_type, error, house, tmp_path):
    source = checkpoint(tmp_path / "model", house, tie_word_embeddings=False)
    write_gguf(source, tmp_path / "model.gguf", gguf_type)
    prompt = AutoTokenizer.from_pretrained(source).encode("import os\n")
    (first, *_), logp = transformers_greedy(source, prompt, 1)
    (token, *_), found = LlamaCpp(tmp_path / "model.gguf").greedy(prompt, 1)
    assert token == first and found == pytest.approx(logp, abs=error)
    whole = sum(p.stat().st_size for p in source.glob("model*.safetensors"))
    assert (tmp_path / "model.gguf").stat().st_size < whole * {"f16": 0.6, "bf16": 0.6, "q8_0": 0.4}[gguf_type]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(house, tmp_path_factory):
    """A folder as transformers 5 writes it, with adapters beside it."""
    folder = checkpoint(tmp_path_factory.mktemp("trained") / "model", house, tie_word_embeddings=True, rope_theta=5e4)
    rng = np.random.default_rng(0)
    weights = {
        f"model.layers.{i}.mlp.up_proj.lora_{side}": rng.normal(0, 0.1, shape).astype(np.float32)
        for i in range(2)
        for side, shape in (("a", (64, 4)), ("b", (4, 96)))
    }
    write_adapters(folder.parent / "adapters", weights, scale=2.0, num_layers=2)
    (folder.parent / "held_out.txt").write_text("".join(text for _, (_, text) in zip(range(3), corpora.stdlib())))
    return folder


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.double()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_folder_and_what_it_cost(bits, trained, tmp_path):
    """By transformers on the weights of the folder, unpacked by hand: value = scale * code + bias."""
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    said = mlxrlhf(
        tmp_path,
        "export",
        "--to",
        f"mlx-{bits}bit",
        "--model",
        str(trained),
        "--out",
        "q",
        "--text",
        str(trained.parent / "held_out.txt"),
        "--eval-tokens",
        "200",
        "--group-size",
        "32",
    )
    figures = {line.split()[0]: line.split()[-1] for line in said.out.splitlines()}
    before = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    packed = mx.load(str(tmp_path / "q" / "model.safetensors"))
    packed = {k: np.array(v if v.dtype == mx.uint32 else v.astype(mx.float32)) for k, v in packed.items()}
    for name, weight in after.named_parameters():
        value = packed[name]
        if value.dtype == np.uint32:
            codes = value[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & (2**bits - 1)
            groups = codes.reshape(weight.shape[0], -1, 32)
            scales, biases = (packed[name.replace("weight", part)][..., None] for part in ("scales", "biases"))
            value = (groups * scales + biases).reshape(weight.shape)
        weight.data = torch.tensor(value, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    ids = tokenizer.encode((trained.parent / "held_out.txt").read_text())[:200]
    a, b = (logits(model, [ids])[0, :-1].log_softmax(-1) for model in (before, after))
    picked = torch.tensor(ids[1:])[:, None]
    for name, logp in (("perplexity_before", a), ("perplexity_after", b)):
        assert float(figures[name]) == pytest.approx(torch.exp(-logp.gather(1, picked).mean()).item(), rel=2e-3)
    assert float(figures["kl_nats_per_token"]) == pytest.approx((a.exp() * (a - b)).sum(-1).mean().item(), rel=2e-2)
    # As mlx_lm.generate does it.
    model, stock = load(str(tmp_path / "q"))
    assert [r.token for r in stream_generate(model, stock, ids[:30], max_tokens=4)]
    assert stock.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    mlxrlhf(tmp_path, "export --to gguf --model q --out q.gguf")  # unpacked on its way
    assert (tmp_path / "q.gguf").stat().st_size > (tmp_path / "q" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("dtype,error", [("float32", 1e-5), ("bfloat16", 0.2)])
def test_adapters_are_merged_into_a_plain_folder(dtype, error, trained, tmp_path):
    """W + scale * (A B)^T, worked out here."""
    from safetensors.numpy import load_file

    mlxrlhf(
        tmp_path,
        "export",
        "--to",
        "hf",
        "--model",
        str(trained),
        "--adapter",
        str(trained.parent / "adapters"),
        "--out",
        "plain",
        "--dtype",
        dtype,
    )
    assert not (tmp_path / "plain" / "adapters").exists()
    expected = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    adapters = load_file(trained.parent / "adapters" / "adapters.safetensors")
    for i, layer in enumerate(expected.model.layers):
        a, b = (adapters[f"model.layers.{i}.mlp.up_proj.lora_{side}"] for side in "ab")
        layer.mlp.up_proj.weight.data += torch.tensor(2.0 * (a @ b).T)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert found.dtype == getattr(torch, dtype)
    ids = [[5, 80, 300, 7, 501, 90]]
    plain = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    assert (logits(plain, ids) - logits(expected, ids)).abs().max() > 0.5
    torch.testing.assert_close(logits(found, ids), logits(expected, ids), atol=error, rtol=0)


def test_a_gguf_file_holds_the_merged_weights(trained, tmp_path):
    from gguf import GGUFReader

    mlxrlhf(
        tmp_path,
        "export",
        "--model",
        str(trained),
        "--adapter",
        str(trained.parent / "adapters"),
        "--out",
        "new/m.gguf",
        "--gguf-type",
        "f32",
    )
    assert os.listdir(tmp_path / "new") == ["m.gguf"]
    tensors = {t.name: t.data for t in GGUFReader(tmp_path / "new" / "m.gguf").tensors}
    before = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).model.layers[0].mlp
    assert np.abs(tensors["blk.0.ffn_up.weight"] - before.up_proj.weight.detach().numpy()).max() > 0.05
    np.testing.assert_array_equal(tensors["blk.0.ffn_gate.weight"], before.gate_proj.weight.detach().numpy())


def test_other_families_are_quantised_by_mlx_lm_and_gguf_names_llama_cpp(house, tmp_path):
    from mlx_lm import load
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "qwen"
    Qwen3ForCausalLM(Qwen3Config(**SHAPE, vocab_size=800, head_dim=16, eos_token_id=2)).save_pretrained(folder)
    for file in house.iterdir():
        shutil.copy(file, folder)
    assert "convert_hf_to_gguf.py" in mlxrlhf(tmp_path, "export --model qwen --out q.gguf", code=2).err
    said = mlxrlhf(tmp_path, "export", "--to", "mlx-8bit", "--model", "qwen", "--out", "q8", "--eval-tokens", "0").out
    # Rows of 96 weights are no multiple of 64: what stays as it was is said.
    assert "2 matrices are not quantised (model.layers.0.mlp.down_proj.weight, ...)" in said
    assert type(load(str(tmp_path / "q8"))[0]).__module__ == "mlx_lm.models.qwen3"
    assert sorted(os.listdir(tmp_path)) == ["q8", "qwen"]


def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(trained, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for said, *arguments in (
        ("export needs --out", "--model", str(trained)),
        ("no run of mlxrlhf export wrote (notes.txt)", "--to", "hf", "--model", str(trained), "--out", "full"),
        ("is there already", "--model", str(trained), "--out", "full/notes.txt"),
        ("is a folder", "--model", str(trained), "--out", "full"),
        (
            "full/adapter_config.json cannot be read",
            "--to",
            "hf",
            "--model",
            str(trained),
            "--adapter",
            "full",
            "--out",
            "x",
        ),
        ("cannot be read", "--to", "mlx-4bit", "--model", str(trained), "--out", "x", "--text", "nowhere.txt"),
        ("--group-size is 33; choose one of 32, 64, 128", "--to", "mlx-4bit", "--model", str(trained), "--out", "x")
        + ("--group-size", "33"),
        ("divide no matrix", "--to", "mlx-4bit", "--model", str(trained), "--out", "x", "--eval-tokens", "0")
        + ("--group-size", "128"),
        ("fewer than 512", "--to", "mlx-4bit", "--model", str(trained), "--out", "x", "--text", "full/notes.txt"),
    ):
        error = mlxrlhf(tmp_path, "export", *arguments, code=2).err
        assert said in error and error.count("\n") == 1, error
    assert os.listdir(tmp_path) == ["full"]
