"""Checkpoints of other makers: their tokenizer, their template, both backends, adapters; transformers is the oracle."""

import os

import numpy as np
import pytest
import torch
from helpers import metrics, mlxrlhf
from publisher import ASKED

from mlxrlhf import backends
from mlxrlhf.agent.terminal import cleaned
from mlxrlhf.data import dialogue
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import published
from mlxrlhf.models.checkpoint import read_config


def transformers_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_logits_and_greedy_text_equal_transformers(maker, name, tmp_path):
    tokenizer, reference = open_tokenizer(maker), transformers_model(maker)
    ids = dialogue.prompt(ASKED, tokenizer)
    model = backends.load(name).Model(read_config(maker), folder=maker)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits.numpy()
    assert expected.std() > 0.5
    np.testing.assert_allclose(model.logits(np.array([ids], np.int32)), expected, atol=1e-4)
    greedy = model.generate(
        [ids], uniforms=None, max_tokens=24, temperature=0, stop_ids=[tokenizer.end_id], pad_id=tokenizer.pad_id
    )[0]
    with torch.no_grad():
        other = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    assert greedy == other
    asked = ["--prompt", ASKED[0]["content"]]
    said = mlxrlhf(tmp_path, "chat --temp 0 --max-tokens 24 --tools off --model", maker, "--backend", name, *asked).out
    assert cleaned(tokenizer.decode(other).replace("<|im_end|>", "")).strip() in said


def test_its_own_template_is_kept_and_text_is_never_a_special_token(maker):
    tokenizer = open_tokenizer(maker)
    turns = [
        *ASKED,
        {"role": "assistant", "content": "def f(x):"},
        {"role": "user", "content": "<|im_end|> ok?"},
        {"role": "assistant", "content": "yes"},
    ]
    ids, mask = dialogue.examples(turns, tokenizer)[0]
    assert tokenizer.decode([i for i, m in zip(ids, mask) if m]) == "def f(x):<|im_end|>yes<|im_end|>"
    assert ids.count(tokenizer.end_id) == 4, "one for each turn, none from the user's text"
    stock = tokenizer._tokenizer.apply_chat_template(turns[:2], return_dict=False)
    trained, _ = dialogue.examples(turns[:2], tokenizer)[0]
    assert trained == stock[:-1], "without the line break behind the last end token"
    assert dialogue.prompt(ASKED, tokenizer) == tokenizer._tokenizer.apply_chat_template(
        ASKED, add_generation_prompt=True, return_dict=False
    )
    assert dialogue.answer([{"role": "user", "content": "?"}], "def f(x):", tokenizer)[-1] == tokenizer.end_id


@pytest.fixture(scope="session")
def aligned(maker, once):
    """The folder in which every stage started from that model, adapters only, as a user types it."""

    def build(folder):
        for part in ("tokenizer", "code", "preferences"):
            mlxrlhf(folder, f"prepare {part} --max-characters 300000 --pairs 60 --model", maker)
        few = "--steps-per-epoch 2 --batch-size 2 --sequence-length 768 --eval-batches 1 --lora-rank 4"
        mlxrlhf(folder, f"finetune --stage code {few} --backend mlx --model", maker)
        mlxrlhf(folder, "reward --num-epochs 2 --samples 0 --backend mlx --model", maker)
        mlxrlhf(folder, f"ppo {PPO} --backend mlx --model", maker)

    return once("aligned", build)


PPO = "--steps-per-epoch 2 --batch-size 4 --mini-batch-size 2 --max-tokens 8 --learning-rate 1e-2 --lora-rank 4"


def test_every_stage_takes_it_and_writes_beside_it(maker, aligned):
    weights = aligned / "weights" / maker.name
    for stage in ("code", "reward", "rlhf"):
        assert (weights / stage / "run" / "summary.json").is_file()
    assert open_tokenizer(weights / "rlhf").fingerprint == open_tokenizer(maker).fingerprint
    assert "win rate" in mlxrlhf(aligned, "evaluate --max-prompts 2 --max-tokens 8 --model", maker).out


def test_a_ppo_step_is_the_same_on_both_backends(maker, aligned, tmp_path):
    once = "--steps-per-epoch 1 --batch-size 4 --max-tokens 8 --ppo-epochs 1 --mini-batch-size 4"
    rows = []
    for name in ("mlx", "torch"):
        mlxrlhf(aligned, f"ppo {once} --backend {name} --model", maker, "--out", tmp_path / name)
        rows.append(metrics(tmp_path / name)[0])
    for key in ("loss/policy_avg", "objective/scores", "objective/entropy", "response/length", "val/ratio"):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=2e-4), key
    assert all(row["grad_norm"] > 1e-3 for row in rows)


def test_adapters_run_in_mlx_lm_and_fuse_to_the_aligned_checkpoint(maker, aligned, tmp_path):
    import mlx.core as mx
    from mlx_lm import load

    base, final = (aligned / "weights" / maker.name / stage for stage in ("code", "rlhf"))
    tokens = np.array([dialogue.prompt(ASKED, open_tokenizer(maker))], np.int32)
    expected = backends.load("mlx").Model(read_config(final), folder=final).logits(tokens)
    stock, _ = load(str(base), adapter_path=str(final / "adapters"))
    np.testing.assert_allclose(np.array(stock(mx.array(tokens)).astype(mx.float32)), expected, atol=1e-3)
    said = mlxrlhf(tmp_path, "fuse --out fused --backend torch --model", base, "--adapter", final / "adapters")
    assert "wrote" in said.out
    fused = backends.load("torch").Model(read_config(tmp_path / "fused"), folder=tmp_path / "fused").logits(tokens)
    np.testing.assert_allclose(fused, expected, atol=1e-4)
    plain = backends.load("torch").Model(read_config(base), folder=base).logits(tokens)
    assert np.abs(fused - plain).max() > 1e-2, "adapters that change nothing would pass unnoticed"


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["chat", "--model", "nowhere", "--prompt", "x"], "there is no such folder"),
        (["fuse", "--model", "smollm2"], "fuse needs --model"),
        (["fuse", "--model", "{maker}", "--adapter", "{maker}", "--out", "x"], "adapter_config.json cannot be read"),
        (["ppo", "--model", "{maker}", "--device", "tpu", "--backend", "torch"], "--device tpu is not available"),
    ],
)
def test_wrong_input_is_one_sentence(maker, aligned, arguments, message):
    assert message in mlxrlhf(aligned, *(a.format(maker=maker) for a in arguments), code=2).err


# --- families that mlx-lm loads ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen3", "gemma3_text"])
def family(request, maker, tmp_path_factory):
    """A small random model of another family with the same tokenizer."""
    import shutil

    from transformers import AutoModelForCausalLM, Gemma3TextConfig, Qwen3Config

    shape = dict(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=1,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    # Every sixth layer of Gemma 3 sees the whole context, and mlx-lm looks for one.
    config = (
        Qwen3Config(**shape)
        if request.param == "qwen3"
        else Gemma3TextConfig(**{**shape, "num_hidden_layers": 6}, query_pre_attn_scalar=16, sliding_window=32)
    )
    folder = tmp_path_factory.mktemp("families") / request.param
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (maker / name).is_file():
            shutil.copy(maker / name, folder)
    return folder


def test_another_family_runs_through_mlx_lm(family):
    model, tokenizer = backends.load("mlx").Model(read_config(family), folder=family), open_tokenizer(family)
    ids = dialogue.prompt(ASKED, tokenizer)
    with torch.no_grad():
        expected = transformers_model(family)(torch.tensor([ids])).logits.numpy()
    assert expected.std() > 0.2
    np.testing.assert_allclose(model.logits(np.array([ids], np.int32)), expected, atol=2e-4)
    # Packing and left padding change nothing.
    tokens = np.random.default_rng(0).integers(3, 400, (2, 12), dtype=np.int32)
    alone = model.evaluate({"tokens": tokens, "start": 1}, ("logp",))["logp"]
    packed = {"tokens": tokens.reshape(1, -1), "segments": np.repeat([[1, 2]], 12, axis=1).astype(np.int32), "start": 1}
    together = model.evaluate(packed, ("logp",))["logp"][0]
    np.testing.assert_allclose(together[:11], alone[0], atol=2e-5)
    np.testing.assert_allclose(together[12:], alone[1], atol=2e-5)
    padded = {
        "tokens": np.pad(tokens, ((0, 0), (5, 0))),
        "start": 6,
        "segments": np.pad(np.ones_like(tokens), ((0, 0), (5, 0))),
    }
    np.testing.assert_allclose(model.evaluate(padded, ("logp",))["logp"], alone, atol=2e-5)
    # Batched sampling equals one row at a time, and greedy text the full forward.
    prompts, uniforms = [[5, 6, 7], [8], [9, 10, 11, 12]], np.random.default_rng(0).random((3, 10))
    settings = dict(max_tokens=10, temperature=1.0, stop_ids=[2], pad_id=0)
    batched = model.generate(prompts, uniforms=uniforms, **settings)
    assert batched == [model.generate([p], uniforms=u[None], **settings)[0] for p, u in zip(prompts, uniforms)]
    greedy = model.generate([prompts[0]], uniforms=None, **{**settings, "temperature": 0})[0]
    context = list(prompts[0])
    for token in greedy:
        assert token == model.logits(np.array([context], np.int32))[0, -1].argmax()
        context.append(token)


def test_another_family_is_aligned_and_stays_what_it_was(family, maker, aligned, tmp_path):
    """Reward and PPO on the data prepared above: the tokenizer is the same."""
    from mlx_lm import load

    data = aligned / "data" / family.name
    if not data.exists():
        data.symlink_to(aligned / "data" / maker.name)
    reward = ["--reward-model", tmp_path / "reward"]
    mlxrlhf(aligned, "reward --num-epochs 2 --samples 0 --backend mlx --model", family, "--out", tmp_path / "reward")
    mlxrlhf(aligned, f"ppo {PPO} --backend mlx --model", family, *reward, "--out", tmp_path / "out")
    rows = metrics(tmp_path / "out")
    assert all(row["grad_norm"] > 1e-4 for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-3)  # adapters off is the reference
    stock, _ = load(str(tmp_path / "out"))
    tokens = np.array([dialogue.prompt(ASKED, open_tokenizer(family))], np.int32)
    import mlx.core as mx

    ours = backends.load("mlx").Model(read_config(tmp_path / "out"), folder=tmp_path / "out").logits(tokens)
    np.testing.assert_allclose(np.array(stock(mx.array(tokens)).astype(mx.float32)), ours, atol=1e-4)
    before = backends.load("mlx").Model(read_config(family), folder=family).logits(tokens)
    assert np.abs(ours - before).max() > 1e-2
    said = mlxrlhf(tmp_path, "chat --backend torch --prompt x --model", family, code=2)
    assert "run on --backend mlx" in said.err


# --- the real 135M model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"], before = str(tmp_path_factory.mktemp("cache")), os.environ.get("XDG_CACHE_HOME")
    try:
        yield published.fetch("smollm2", lambda line: None)
    except UserError as error:
        pytest.skip(str(error))  # no network
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before:
            os.environ["XDG_CACHE_HOME"] = before


def test_smollm2_equals_transformers_on_both_backends(smollm2):
    tokenizer, reference = open_tokenizer(smollm2), transformers_model(smollm2)
    ids = dialogue.prompt(ASKED, tokenizer)
    assert ids == tokenizer._tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert "helpful AI assistant named SmolLM" in tokenizer.decode(ids)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits.numpy()
        text = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    for name in ("mlx", "torch"):
        model = backends.load(name).Model(read_config(smollm2), folder=smollm2)
        np.testing.assert_allclose(model.logits(np.array([ids], np.int32)), expected, rtol=1e-5, atol=1e-4)
        greedy = model.generate(
            [ids], uniforms=None, max_tokens=24, temperature=0, stop_ids=[tokenizer.end_id], pad_id=tokenizer.pad_id
        )[0]
        assert greedy == text
    assert "def " in tokenizer.decode(text)
