"""The commands on a published model in 4 bits, as a user types them, and other families in 4 bits."""

import numpy as np
import pytest
from helpers import metrics, mlxrlhf

from mlxrlhf import backends
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.models.adapters import load_model
from mlxrlhf.models.checkpoint import read_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PPO = "--steps-per-epoch 1 --batch-size 4 --mini-batch-size 2 --max-tokens 8 --learning-rate 1e-2 --lora-rank 4"


@pytest.fixture(scope="module")
def place(maker, tmp_path_factory):
    """A folder with the model in 4 bits (groups of 32: its MLP has rows of 96), prompts and pairs."""
    folder = tmp_path_factory.mktemp("quantised")
    asked = ["--model", maker, "--group-size", "32", "--eval-tokens", "0"]
    mlxrlhf(folder, "export --to mlx-4bit --out q", *asked)
    (folder / "prompts.txt").write_text("Add two numbers.\nSort a list.\n")
    (folder / "score.py").write_text(
        "def score(prompts, responses, **_):\n    return [float(len(r)) for r in responses]\n"
    )
    pair = '{"prompt": "Add %d.", "chosen": "def add(a, b):\\n    return a + b", "rejected": "no"}\n'
    (folder / "pairs.jsonl").write_text("".join(pair % i for i in range(8)))
    row = '{"prompt": "Add %d.", "completion": "def add(a, b):\\n    return a + b"}\n'
    (folder / "rows.jsonl").write_text("".join(row % i for i in range(8)))
    return folder


def moved(folder, out):
    """The largest difference between the packed model and the same with the adapters of a run."""
    mlx = backends.load("mlx")
    tokens = np.arange(3, 19, dtype=np.int32)[None]
    before = load_model(mlx, folder / "q").logits(tokens)
    return np.abs(load_model(mlx, folder / "q", str(out / "adapters")).logits(tokens) - before).max()


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_rollouts_and_updates(command, place, tmp_path):
    more = "--reward score.py:score --prompts prompts.txt --no-pass-rate --responses-per-prompt 2"
    mlxrlhf(place, f"{command} {PPO} {more} --backend mlx --model q --out", tmp_path / "out")
    assert metrics(tmp_path / "out")[0]["grad_norm"] > 1e-4
    assert moved(place, tmp_path / "out") > 1e-3
    whole = read_config(tmp_path / "out")
    assert whole.bits == 0
    said = mlxrlhf(place, "chat --tools off --max-tokens 4 --prompt hi --model", tmp_path / "out").out
    assert isinstance(said, str)


def test_pairs_rows_and_a_reward_model(place, tmp_path):
    dpo = "dpo --data pairs.jsonl --batch-size 4 --lora-rank 4 --learning-rate 1e-2 --backend mlx --model q --out"
    mlxrlhf(place, dpo, tmp_path / "dpo")
    assert moved(place, tmp_path / "dpo") > 1e-3
    rows = "--data rows.jsonl --steps-per-epoch 1 --batch-size 2 --sequence-length 64 --eval-batches 1"
    mlxrlhf(place, f"finetune {rows} --learning-rate 1e-2 --backend mlx --model q --out", tmp_path / "sft")
    assert moved(place, tmp_path / "sft") > 1e-4
    mlxrlhf(place, "reward --data pairs.jsonl --num-epochs 2 --backend mlx --model q --out", tmp_path / "reward")
    more = "--prompts prompts.txt --no-pass-rate --backend mlx --model q --reward-model"
    said = mlxrlhf(place, f"ppo {PPO} {more}", tmp_path / "reward", "--out", tmp_path / "ppo")
    assert "runs its own base" not in said.all, "its base is the trunk: one forward gives both"
    assert metrics(tmp_path / "ppo")[0]["objective/kl"] == pytest.approx(0, abs=1e-3)


def test_packing_at_loading_is_another_trunk_to_a_reward_model(maker, place, tmp_path):
    more = "--prompts prompts.txt --no-pass-rate --backend mlx --model"
    mlxrlhf(place, "reward --data pairs.jsonl --num-epochs 2 --backend mlx --model", maker, "--out", tmp_path / "r")
    given = [maker, "--reward-model", tmp_path / "r", "--out", tmp_path / "ppo"]
    said = mlxrlhf(place, f"ppo {PPO} --quantize 4 {more}", *given)
    assert "runs its own base" in said.all
    refused = mlxrlhf(place, f"ppo {PPO} --quantize 4 {more}", *given, "--lora-rank", "0", code=2).err
    assert "--lora-rank 16" in refused and "Traceback" not in refused


def test_it_is_unpacked_where_whole_weights_are_wanted(maker, place, tmp_path):
    mlxrlhf(place, "export --to hf --model q --out", tmp_path / "hf")
    tokens = np.arange(3, 19, dtype=np.int32)[None]
    expected = load_model(backends.load("mlx"), place / "q").logits(tokens)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").float()
    with torch.no_grad():
        np.testing.assert_allclose(reference(torch.tensor(tokens)).logits.numpy(), expected, atol=0.15)
    assert open_tokenizer(tmp_path / "hf").fingerprint == open_tokenizer(maker).fingerprint


SHAPE = dict(
    vocab_size=448,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=128,
    initializer_range=0.2,
    eos_token_id=2,
    pad_token_id=0,
    bos_token_id=1,
)
FAMILIES = {
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 32, "num_hidden_layers": 6, "sliding_window": 8}),
    "phi3": ("Phi3Config", {}),
    "granite": ("GraniteConfig", {"logits_scaling": 4.0, "attention_multiplier": 0.2}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 64, "final_logit_softcapping": 3.0}),
}


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families(name, bits, tmp_path):
    """Logits of transformers, or in 4 bits those of mlx-lm; log-probabilities agree; one update moves the adapters."""
    import mlx.core as mx

    kind, more = FAMILIES[name]
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**{**SHAPE, **more}))
    reference.float().eval().save_pretrained(tmp_path / "a")
    tokens = np.random.default_rng(0).integers(3, 400, (2, 16), dtype=np.int32)
    mlx = backends.load("mlx")
    shape = read_config(tmp_path / "a", bits)
    model = mlx.Model(shape, folder=tmp_path / "a", lora_rank=4)
    logits = model.logits(tokens)
    if bits:
        expected = np.array(model.trunk._model(mx.array(tokens)).astype(mx.float32))
        with torch.no_grad():
            assert np.abs(logits - reference(torch.tensor(tokens)).logits.numpy()).max() > 1e-2
    else:
        with torch.no_grad():
            expected = reference(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-3)
    logp = model.evaluate({"tokens": tokens, "start": 1}, ("logp",))["logp"]
    by_hand = torch.tensor(expected).log_softmax(-1)[:, :-1].gather(-1, torch.tensor(tokens[:, 1:, None]).long())
    np.testing.assert_allclose(logp, by_hand[..., 0].numpy(), atol=3e-3)
    batch = {"tokens": tokens, "start": 1, "mask": np.ones((2, 15), np.float32)}

    def loss(xp, outputs, batch):
        value = -(outputs["logp"] * batch["mask"]).mean()
        return value, {"loss": value}

    seen = [model.step(loss, [batch], want=("logp",), learning_rate=1e-2)["loss"] for _ in range(3)]
    assert seen[-1] < seen[0] - 1e-3
    (tmp_path / "b").mkdir()
    trained = model.logits(tokens)
    model.save(tmp_path / "b", pad_id=0, end_id=2)
    again = mlx.Model(read_config(tmp_path / "b"), folder=tmp_path / "b").logits(tokens)
    np.testing.assert_allclose(again, trained, atol=0.3 if bits else 1e-4)


def test_it_is_compared_with_what_came_of_it_and_fused(place, tmp_path):
    dpo = "dpo --data pairs.jsonl --batch-size 4 --lora-rank 4 --lora-layers 1 --learning-rate 1e-2 --backend mlx"
    said = mlxrlhf(place, f"{dpo} --model q --out", tmp_path / "dpo").out
    assert "of 1 blocks of 2; the trunk in 4 bits is frozen" in said and "written whole, in bfloat16" in said
    more = "--prompts prompts.txt --max-tokens 4 --backend mlx --model q --before q --checkpoint"
    mlxrlhf(place, f"evaluate {more}", tmp_path / "dpo", "--out", tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "samples.json").is_file()
    mlxrlhf(place, "fuse --backend mlx --model q --adapter", tmp_path / "dpo" / "adapters", "--out", tmp_path / "fused")
    tokens, mlx = np.arange(3, 19, dtype=np.int32)[None], backends.load("mlx")
    fused, merged = (load_model(mlx, tmp_path / name).logits(tokens) for name in ("fused", "dpo"))
    np.testing.assert_array_equal(fused, merged)
