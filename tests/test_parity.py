"""The numerical contract: MLX and PyTorch, which share only `algorithms/`, held to each other by numbers.

Every comparison goes through `close`, whose tolerances stand in one table. `python tests/test_parity.py` runs the file
and prints that table with the largest difference seen. tests/test_mutants.py shows that these tests can fail.
"""

import importlib
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.algorithms import advantages, losses
from mlxrlhf.config import SIZES, ModelConfig

mlx, torch = (importlib.import_module(f"mlxrlhf.backends.{name}") for name in ("mlx", "torch"))
mlx_generate, torch_generate = (
    importlib.import_module(f"mlxrlhf.backends.{name}.generate") for name in ("mlx", "torch")
)
torch.use_device("cpu")
if mlx.describe_device()["device"].endswith("cpu, 0)"):
    mlx.use_device("cpu")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES = {
    "tied": ModelConfig(97, 64, 2, 4, 2, 128, head_dim=16),
    "untied, biases": ModelConfig(
        97, 64, 2, 4, 1, 128, head_dim=16, tie_word_embeddings=False, attention_bias=True, mlp_bias=True
    ),
    "llama3 rope": ModelConfig(97, 64, 2, 4, 4, 128, head_dim=16, rope_scaling=LLAMA3, rope_theta=5e5),
    "nano": SIZES["nano"],
}
#: absolute, except for gradients and moved weights: relative to the largest entry. Log-probabilities reach -13 here,
#: where float32 is 1e-6 apart, and the two libraries' kernels differ from CPU to CPU: by 0.9e-5 to 1.1e-5.
TOLERANCE = {
    "logits": 1e-4,
    "logp": 2e-5,
    "entropy": 1e-4,
    "kl": 1e-4,
    "value": 1e-5,
    "score": 1e-5,
    "features": 1e-5,
    "hidden": 1e-4,
    "loss": 1e-5,
    "gradient": 2e-5,
    "weights after 10 AdamW steps": 2e-5,
}
SEEN: dict[str, float] = {}


def close(quantity, ours, other, relative=False):
    """Assert agreement within the table's tolerance, and remember the largest difference."""
    ours, other = np.asarray(ours, np.float64), np.asarray(other, np.float64)
    assert ours.shape == other.shape and np.isfinite(ours).all() and np.isfinite(other).all()
    scale = max(np.abs(other).max(), 1e-12) if relative else 1.0
    difference = float(np.abs(ours - other).max() / scale)
    SEEN[quantity] = max(SEEN.get(quantity, 0.0), difference)
    assert difference <= TOLERANCE[quantity], f"{quantity}: {difference:.2e} > {TOLERANCE[quantity]:.0e}"


def twins(shape="tied", **settings):
    """The same weights on both backends, scaled away from the near-uniform start, adapters and value head not zero."""
    config, rng = SHAPES[shape], np.random.default_rng(7)
    source = mlx.Model(config, seed=0)
    source.load_state(
        {
            k: v * 4 if v.ndim == 2 else v + (rng.normal(size=v.shape) * 0.1).astype(np.float32)
            for k, v in source.state().items()
            if k.startswith("weights/")
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        source.save(Path(folder), pad_id=0, end_id=1)
        a, b = (backend.Model(config, folder=Path(folder), **settings) for backend in (mlx, torch))
    trained = {
        k: (rng.normal(size=v.shape) * 0.1).astype(np.float32)
        for k, v in a.state().items()
        if k.startswith("weights/") and ("lora_" in k or "value_head" in k)
    }
    for model in (a, b):
        model.load_state({**model.state(), **trained})
    return a, b


def ids(config, rows=3, length=24, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length), dtype=np.int32)


def lm_batch(tokens, seed=0):
    mask = (np.random.default_rng(seed).random((len(tokens), tokens.shape[1] - 1)) < 0.7).astype(np.float32)
    return {"tokens": tokens, "start": 1, "mask": mask, "total": np.float32(mask.sum())}


def ppo_batch(model, tokens, start=8, critic=True):
    """A rollout whose ratios and values leave the clip range in part."""
    rng = np.random.default_rng(1)
    mask = (np.arange(tokens.shape[1] - start)[None, :] < rng.integers(5, 16, (len(tokens), 1))).astype(np.float32)
    out = model.evaluate({"tokens": tokens, "start": start, "mask": mask}, ("logp",) + ("value",) * critic)
    shape = mask.shape
    out.setdefault("value", np.zeros(shape))
    return {
        "tokens": tokens,
        "start": start,
        "mask": mask,
        "total": np.float32(mask.sum()),
        "old_logp": (out["logp"] + rng.normal(size=shape) * 0.3 * mask).astype(np.float32),
        "old_value": (out["value"] + rng.normal(size=shape) * 0.3).astype(np.float32),
        "kl_coef": np.float32(0.3),
        "advantages": rng.normal(size=shape).astype(np.float32),
        "returns": rng.normal(size=shape).astype(np.float32),
    }


def gradients(model, objective, batch, want):
    return model.gradient(objective, batch, want, 0.8)


def agree(a, b, objective, batch, want):
    """Loss, metrics and every gradient of one objective. Returns the metrics and the gradients of the first."""
    ours, metrics = gradients(a, objective, batch, want)
    other, expected = gradients(b, objective, batch, want)
    assert set(ours) == set(other) and set(metrics) == set(expected)
    for name in metrics:
        close("loss", metrics[name], expected[name])
    for name in ours:
        close("gradient", ours[name], other[name], relative=True)
    assert max(np.abs(g).max() for g in ours.values()) > 1e-3, "a gradient of zero trains nothing"
    return metrics, ours


@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape):
    a, b = twins(shape, value_head=True, keep_reference_head=True)
    tokens = ids(a.config)
    logits = b.logits(tokens)
    assert logits.std() > 0.2, "near-uniform logits would hide a difference"
    close("logits", a.logits(tokens), logits)
    batch = {
        **lm_batch(tokens),
        "reference_hidden": np.random.default_rng(3).normal(size=(3, 23, a.config.hidden_size)).astype(np.float32),
    }
    want = ("logp", "entropy", "kl", "value", "hidden", "features")
    ours, other = (m.evaluate(batch, want, temperature=0.7) for m in (a, b))
    assert np.abs(other["value"]).max() > 0.1 and other["kl"].max() > 0.1
    for name in want:
        close(name, ours[name], other[name])


@pytest.mark.parametrize("shape", SHAPES)
def test_language_modelling(shape):
    a, b = twins(shape)
    agree(a, b, losses.language_modelling, lm_batch(ids(a.config)), ("logp",))


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("kl_in_loss", [False, True], ids=["kl in reward", "kl in loss"])
def test_ppo_objective(rank, kl_in_loss):
    a, b = twins(lora_rank=rank, value_head=True, keep_reference_head=True)
    batch = ppo_batch(a, ids(a.config))
    want = ("logp", "value", "entropy") + ("kl",) * kl_in_loss
    if kl_in_loss:
        shape = (*batch["mask"].shape, a.config.hidden_size)
        batch["reference_hidden"] = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    objective = losses.ppo_objective(clip=0.2, value_clip=0.2, vf_coef=0.5, entropy_coef=0.02, kl_in_loss=kl_in_loss)
    metrics, ours = agree(a, b, objective, batch, want)
    assert 0.1 < metrics["policy/clipfrac_avg"] < 0.9 and 0.05 < metrics["val/clipfrac_avg"] < 0.95, "saturated"
    assert max(np.abs(g).max() for k, g in ours.items() if "value_head" in k) > 1e-3
    assert max(np.abs(g).max() for k, g in ours.items() if "value_head" not in k) > 1e-3


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_grpo_objective(rank):
    a, b = twins(lora_rank=rank)
    batch, rng = ppo_batch(a, ids(a.config), critic=False), np.random.default_rng(5)
    batch["ref_logp"] = (batch["old_logp"] + rng.normal(size=batch["mask"].shape) * 0.3).astype(np.float32)
    batch["weight"] = advantages.token_weights(batch["mask"], "grpo", 16)
    objective = losses.grpo_objective(clip=0.2, entropy_coef=0.02)
    metrics, _ = agree(a, b, objective, batch, ("logp", "entropy"))
    assert 0.1 < metrics["policy/clipfrac_avg"] < 0.9 and metrics["loss/kl"] > 0.01


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_dpo_objective(rank):
    a, b = twins(lora_rank=rank)
    batch = ppo_batch(a, ids(a.config, rows=4), critic=False)
    drawn = np.random.default_rng(5).normal(size=4)
    batch |= {
        "ref_logp": ((batch["old_logp"] * batch["mask"]).sum(axis=1) + drawn).astype(np.float32),
        "weight": np.array([0.5, 1.5], np.float32),
        "total": np.float32(2),
    }
    metrics, _ = agree(a, b, losses.dpo_objective(beta=0.1, label_smoothing=0.1), batch, ("logp",))
    assert abs(metrics["rewards/margins"]) > 0.01


@pytest.mark.parametrize("loss", ["margin", "bradley-terry"])
def test_reward_head(loss):
    a, b = (
        mlx.Head(32, seed=0, weight_decay=0.1, max_grad_norm=0.5),
        torch.Head(32, weight_decay=0.1, max_grad_norm=0.5),
    )
    b.load_state(a.state())
    rng = np.random.default_rng(0)
    chosen, rejected = (rng.normal(size=(24, 32)).astype(np.float32) for _ in range(2))
    weights = rng.uniform(0.2, 2.0, 24).astype(np.float32)
    start = a.state()
    for step in range(10):
        ours, other = (
            h.step(loss, 1.0, chosen, rejected, 1e-2 * (step + 1) / 10, weights if step % 2 else None) for h in (a, b)
        )
        for name in ours:
            close("loss", ours[name], other[name])
        close("score", a.scores(chosen), b.scores(chosen))
        assert ours["grad_norm"] > 1e-2
    assert 0 < ours["accuracy"] and np.abs(a.state()["weights/out.weight"] - start["weights/out.weight"]).max() > 1e-3
    other = b.state()
    for name, value in a.state().items():
        close("weights after 10 AdamW steps", value, other[name], relative=True)


def test_adamw_over_ten_steps_with_warmup_clipping_and_accumulation():
    a, b = twins(weight_decay=0.1, max_grad_norm=0.5)
    whole = lm_batch(ids(a.config, rows=4))
    parts = [{**whole, "tokens": whole["tokens"][i : i + 2], "mask": whole["mask"][i : i + 2]} for i in (0, 2)]
    start = a.state()
    for step in range(10):
        ours, other = (
            m.step(losses.language_modelling, parts, want=("logp",), learning_rate=1e-3 * min(1, step / 4))
            for m in (a, b)
        )
        close("loss", ours["loss"], other["loss"])
        assert ours["grad_norm"] > 0.5, "clipping must be at work"
    state, other = a.state(), b.state()
    assert set(state) == set(other)
    for name in state:
        if name.startswith("weights/"):
            close("weights after 10 AdamW steps", state[name], other[name], relative=True)
            if state[name].ndim == 2:
                assert np.abs(state[name] - start[name]).max() > 1e-3, name


def test_generation():
    a, b = twins()
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    settings = dict(max_tokens=40, stop_ids=[1, 2, 3], pad_id=0)
    uniforms = np.random.default_rng(0).random((3, 40))
    sampled = [m.generate(prompts, uniforms=uniforms, temperature=1.0, **settings) for m in (a, b)]
    assert sampled[0] == sampled[1] and len({len(r) for r in sampled[0]}) > 1
    greedy = [m.generate(prompts, uniforms=None, temperature=0, **settings) for m in (a, b)]
    assert greedy[0] == greedy[1] != sampled[0]
    context = list(prompts[1])  # the cache against the full forward
    for token in greedy[1][1]:
        assert token == b.logits(np.array([context], np.int32))[0, -1].argmax()
        context.append(token)


def test_sampling_finds_the_token_in_a_flat_tail():
    """A vocabulary of 49,152: most of the mass on one token, the rest spread thin."""
    import mlx.core as mx
    import torch as library

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 49152)).astype(np.float32)
    logits[:, 7] = 10
    uniforms = rng.uniform(0.3, 1, 64)
    exact = np.exp(logits.astype(np.float64))
    exact = (exact / exact.sum(-1, keepdims=True)).cumsum(-1)
    expected = (exact <= uniforms[:, None]).sum(-1)
    ours = np.array(mlx_generate.pick(mx.array(logits), 1.0, mx.array(uniforms.astype(np.float32))))
    other = torch_generate.pick(library.from_numpy(logits), 1.0, library.from_numpy(uniforms).float()).numpy()
    assert len(set(expected)) > 32, "most draws must fall into the tail"
    for picked in (ours, other):
        assert (picked == expected).mean() > 0.9 and np.abs(picked - expected).max() <= 1


def test_a_number_just_below_one_picks_no_token_without_probability():
    """By hand: p = (1/4, 3/4, 0). Numbers above 1 - 2^-25 are 1.0 in float32; 1/4 and more is the second token."""
    import mlx.core as mx
    import torch as library

    from mlxrlhf.backends.sampling import draws

    numbers = draws(np.array([0.0, 0.2499, 0.2501, 1 - 1e-6, 1 - 2**-25, 1 - 1e-12]))
    assert numbers.dtype == np.float32 and (numbers[-2:] == 1 - 2**-24).all()
    logits = np.tile(np.array([np.log(0.25), np.log(0.75), -np.inf], np.float32), (6, 1))
    for picked in (
        mlx_generate.pick(mx.array(logits), 1.0, mx.array(numbers)).tolist(),
        torch_generate.pick(library.from_numpy(logits), 1.0, library.from_numpy(numbers)).tolist(),
    ):
        assert picked == [0, 0, 1, 1, 1, 1]
    # The same at the end of a long vocabulary, whose sums round: the last 100 tokens have no probability.
    long = np.random.default_rng(0).normal(size=(64, 2_000)).astype(np.float32)
    long[:, -100:] = -np.inf
    last = np.full(64, numbers[-1])
    assert max(mlx_generate.pick(mx.array(long), 1.0, mx.array(last)).tolist()) < 1_900
    assert max(torch_generate.pick(library.from_numpy(long), 1.0, library.from_numpy(last)).tolist()) < 1_900


def test_the_largest_number_generates_no_impossible_token():
    """Through `generate`: a row of ones would have picked the last token of the vocabulary at every step."""
    a, b = twins()
    settings = dict(max_tokens=6, temperature=1.0, stop_ids=[], pad_id=0)
    for model in (a, b):
        largest = model.generate([[5, 6]], uniforms=np.full((1, 6), 1 - 1e-16), **settings)
        assert largest == model.generate([[5, 6]], uniforms=np.full((1, 6), 1 - 2**-24), **settings)


def test_padding_packing_and_checkpointing_change_nothing_in_torch():
    _, model = twins()
    tokens = ids(model.config, 2, 12)
    alone = model.evaluate({"tokens": tokens, "start": 1}, ("logp",))["logp"]
    packed = {"tokens": tokens.reshape(1, -1), "segments": np.repeat([[1, 2]], 12, axis=1).astype(np.int32), "start": 1}
    together = model.evaluate(packed, ("logp",))["logp"][0]
    close("logp", together[:11], alone[0])
    close("logp", together[12:], alone[1])
    padded = {
        "tokens": np.pad(tokens, ((0, 0), (5, 0))),
        "start": 6,
        "segments": np.pad(np.ones_like(tokens), ((0, 0), (5, 0))),
    }
    close("logp", model.evaluate(padded, ("logp",))["logp"], alone)
    batch = lm_batch(tokens)
    plain, _ = gradients(model, losses.language_modelling, batch, ("logp",))
    model.trunk.gradient_checkpointing = True
    again, _ = gradients(model, losses.language_modelling, batch, ("logp",))
    for name in plain:
        close("gradient", again[name], plain[name], relative=True)


def test_chunked_logits_change_nothing_in_torch(monkeypatch):
    from mlxrlhf.backends.torch import network as module

    _, model = twins()
    batch = lm_batch(ids(model.config))
    whole, _ = gradients(model, losses.language_modelling, batch, ("logp",))
    monkeypatch.setattr(module, "LOGITS_CHUNK", 97 * 7)
    parts, _ = gradients(model, losses.language_modelling, batch, ("logp",))
    for name in whole:
        close("gradient", parts[name], whole[name], relative=True)


def test_adapters_merge_alike():
    a, b = twins(lora_rank=4)
    saved = []
    for model in (a, b):
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder), pad_id=0, end_id=1)
            saved.append(torch.Model(a.config, folder=Path(folder)).logits(ids(a.config)))
    close("logits", saved[0], saved[1])
    close("logits", saved[1], a.logits(ids(a.config)))
    assert np.abs(b.logits(ids(a.config)) - _without_adapters(b, ids(a.config))).max() > 0.1


def _without_adapters(model, tokens):
    model._prepare(adapters=False, training=False)
    logits = model.logits(tokens)
    model._prepare(adapters=True, training=False)
    return logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoints_and_save_points_move_both_ways(tmp_path, dtype):
    config = SHAPES["untied, biases"]
    tokens = ids(config)
    for number, (one, other) in enumerate(((mlx, torch), (torch, mlx))):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = one.Model(config, seed=3, dtype=dtype)
        source.save(folder, pad_id=0, end_id=1)
        moved = other.Model(config, folder=folder, dtype=dtype)
        difference = np.abs(moved.logits(tokens) - source.logits(tokens)).max()
        assert difference < (1e-4 if dtype == "float32" else 2e-2)
    a, b = (backend.Model(config, seed=5, dtype=dtype, lora_rank=2, value_head=True) for backend in (mlx, torch))
    assert set(a.state()) == set(b.state())


@pytest.mark.parametrize("first,second", [(mlx, torch), (torch, mlx)], ids=["mlx to torch", "torch to mlx"])
def test_a_run_continues_on_the_other_backend(first, second):
    a, b = first.Model(SHAPES["tied"], seed=0, weight_decay=0.1), second.Model(SHAPES["tied"], seed=9, weight_decay=0.1)
    batch, settings = lm_batch(ids(a.config)), dict(want=("logp",), learning_rate=1e-3)
    for _ in range(3):
        a.step(losses.language_modelling, [batch], **settings)
    b.load_state(a.state())
    for _ in range(3):
        close(
            "loss",
            a.step(losses.language_modelling, [batch], **settings)["loss"],
            b.step(losses.language_modelling, [batch], **settings)["loss"],
        )


def test_bfloat16_trunk_moves_at_a_small_learning_rate_in_torch():
    model = torch.Model(SHAPES["tied"], seed=0, dtype="bfloat16", value_head=True)
    before, batch = model.state(), lm_batch(ids(model.config))
    for _ in range(3):
        model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-6)
    key = "weights/trunk.model.layers.0.mlp.up_proj.weight"
    assert 1e-7 < np.abs(model.state()[key] - before[key]).max() < 1e-5


def test_either_backend_is_chosen_by_name():
    assert backends.load("torch", "cpu") is torch and backends.load("mlx") is mlx
    with pytest.raises(backends.UserError, match="--device tpu is not available"):
        backends.load("torch", "tpu")
    with pytest.raises(backends.UserError, match="choose auto, mlx or torch"):
        backends.load("jax")


if __name__ == "__main__":
    code = pytest.main([__file__, "-q", "-p", "no:cacheprovider"])
    import sys

    seen = sys.modules["test_parity"].SEEN if "test_parity" in sys.modules else SEEN
    for quantity, tolerance in TOLERANCE.items():
        print(f"{quantity:32} allowed {tolerance:.0e}   largest difference {seen.get(quantity, float('nan')):.1e}")
    raise SystemExit(code)
