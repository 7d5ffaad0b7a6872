"""The MLX model against transformers, and the invariants training stands on."""

import json
import weakref

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.algorithms import losses
from mlxrlhf.backends import doctor
from mlxrlhf.config import SIZES, ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, savepoints
from mlxrlhf.models.savepoints import SavePoints

mlx = backends.load("mlx")
SMALL = ModelConfig(97, 64, 2, 4, 2, 128, head_dim=16)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def tokens(rows=3, length=20, seed=0):
    return np.random.default_rng(seed).integers(0, SMALL.vocab_size, (rows, length), dtype=np.int32)


def lm_batch(ids, mask=None):
    mask = np.ones((ids.shape[0], ids.shape[1] - 1), np.float32) if mask is None else mask
    return {"tokens": ids, "start": 1, "mask": mask, "total": np.float32(mask.sum())}


def ppo_batch(model, ids, start=8):
    out = model.evaluate({"tokens": ids, "start": start}, ("logp", "value"))
    rng = np.random.default_rng(1)
    shape = out["logp"].shape
    return {
        "tokens": ids,
        "start": start,
        "mask": np.ones(shape, np.float32),
        "total": np.float32(np.prod(shape)),
        "old_logp": out["logp"],
        "old_value": out["value"],
        "kl_coef": np.float32(0.1),
        "advantages": rng.normal(size=shape).astype(np.float32),
        "returns": rng.normal(size=shape).astype(np.float32),
    }


PPO = losses.ppo_objective(clip=0.2, value_clip=0.2, vf_coef=0.1, entropy_coef=0.01, kl_in_loss=False)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False}, {"attention_bias": True}, {"rope_scaling": LLAMA3, "rope_theta": 5e5}],
    ids=str,
)
def test_logits_equal_transformers(tmp_path, changes):
    import torch
    from transformers import AutoModelForCausalLM

    config = ModelConfig(**{**vars(SMALL), **changes})
    model = mlx.Model(config, seed=3)
    if config.attention_bias:  # zero biases would hide a bias that is never added
        state = model.state()
        model.load_state({k: v + 0.1 if k.endswith("bias") else v for k, v in state.items()})
    model.save(tmp_path, pad_id=0, end_id=1)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = tokens(2, 60)
    with torch.no_grad():
        expected = reference(torch.tensor(ids).long()).logits.numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(model.logits(ids), expected, atol=1e-4)
    again = mlx.Model(checkpoint.read_config(tmp_path), folder=tmp_path)
    np.testing.assert_array_equal(again.logits(ids), model.logits(ids))


def test_logprobs_equal_a_plain_log_softmax():
    model, ids = mlx.Model(SMALL, seed=0), tokens()
    logits = model.logits(ids).astype(np.float64)[:, 6:-1] / 0.7
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    out = model.evaluate({"tokens": ids, "start": 7}, ("logp", "entropy"), temperature=0.7)
    np.testing.assert_allclose(out["logp"], np.take_along_axis(logprobs, ids[:, 7:, None], -1)[..., 0], atol=1e-5)
    np.testing.assert_allclose(out["entropy"], -(np.exp(logprobs) * logprobs).sum(-1), atol=1e-5)


def test_chunked_logits_change_nothing(monkeypatch):
    from mlxrlhf.backends.mlx import network as module

    model, batch = mlx.Model(SMALL, seed=0), lm_batch(tokens())
    whole = gradients(model, batch)
    monkeypatch.setattr(module, "LOGITS_CHUNK", 97 * 7)
    chunked = gradients(mlx.Model(SMALL, seed=0), batch)
    for a, b in zip(whole, chunked):
        np.testing.assert_allclose(a, b, atol=1e-6)


def gradients(model, *batches, objective=losses.language_modelling, want=("logp",)):
    """Summed gradients over micro-batches, as NumPy arrays."""
    total = None
    for batch in batches:
        gradient, _ = model.gradient(objective, batch, want)
        arrays = list(gradient.values())
        total = arrays if total is None else [a + b for a, b in zip(total, arrays)]
    assert max(np.abs(g).max() for g in total) > 1e-4, "a gradient of zero trains nothing"
    return total


def test_packing_and_padding_change_nothing():
    model, ids = mlx.Model(SMALL, seed=0), tokens(2, 12)
    alone = model.evaluate({"tokens": ids, "start": 1}, ("logp",))["logp"]
    packed = {"tokens": ids.reshape(1, -1), "segments": np.repeat([[1, 2]], 12, axis=1).astype(np.int32), "start": 1}
    together = model.evaluate(packed, ("logp",))["logp"][0]
    np.testing.assert_allclose(together[:11], alone[0], atol=1e-5)
    np.testing.assert_allclose(together[12:], alone[1], atol=1e-5)
    padded = np.concatenate([np.zeros((2, 5), np.int32), ids], axis=1)
    segments = np.concatenate([np.zeros((2, 5), np.int32), np.ones_like(ids)], axis=1)
    left = model.evaluate({"tokens": padded, "segments": segments, "start": 6}, ("logp",))["logp"]
    np.testing.assert_allclose(left, alone, atol=1e-5)


def test_gradient_checkpointing_and_accumulation_change_nothing():
    ids = tokens(4, 16)
    mask = np.random.default_rng(0).integers(0, 2, (4, 15)).astype(np.float32)  # uneven token counts
    whole = lm_batch(ids, mask)
    expected = gradients(mlx.Model(SMALL, seed=0), whole)
    halves = [{**lm_batch(ids[i : i + 2], mask[i : i + 2]), "total": whole["total"]} for i in (0, 2)]
    for a, b in zip(expected, gradients(mlx.Model(SMALL, seed=0), *halves)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(expected, gradients(mlx.Model(SMALL, seed=0, gradient_checkpointing=True), whole)):
        np.testing.assert_allclose(a, b, atol=1e-6)


#: elements moved at once and those of a small array: all in one vector, or in several; every weight whole; five rows
#: of most of them at once
CHUNKS = [(2**22, 2**18), (2**14, 2**12), (2**22, 0), (5 * 64, 0)]


@pytest.mark.parametrize("chunk,small", CHUNKS)
def test_adamw_equals_torch_over_ten_steps(chunk, small, monkeypatch):
    import torch

    monkeypatch.setattr(mlx.train, "UPDATE_CHUNK", chunk)
    monkeypatch.setattr(mlx.train, "SMALL", small)
    model, batch = mlx.Model(SMALL, seed=0, weight_decay=0.1, max_grad_norm=0.5), lm_batch(tokens())
    name = "trunk.model.layers.0.mlp.up_proj.weight"
    start = {k.removeprefix("weights/"): v for k, v in model.state().items() if k.startswith("weights/")}
    parameters = {k: torch.tensor(v.copy(), requires_grad=True) for k, v in start.items()}
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-5)
    for step in range(10):
        gradient, _ = model.gradient(losses.language_modelling, batch, ("logp",))
        for key, value in gradient.items():
            parameters[key].grad = torch.tensor(value)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3 * (step + 1) / 10
        optimizer.step()
        model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-3 * (step + 1) / 10)
    after = model.state()
    assert np.abs(after["weights/" + name] - start[name]).max() > 1e-3
    for key, value in parameters.items():
        np.testing.assert_allclose(after["weights/" + key], value.detach().numpy(), atol=2e-6, err_msg=key)


def test_masters_updated_in_portions_are_the_same_bit_for_bit(monkeypatch):
    states = []
    for chunk, small in [*CHUNKS, (7 * 64, 0)]:
        monkeypatch.setattr(mlx.train, "UPDATE_CHUNK", chunk)
        monkeypatch.setattr(mlx.train, "SMALL", small)
        # Not clipped: a norm summed in other portions may differ in its last digit.
        settings = dict(dtype="bfloat16", weight_decay=0.1, optimizer_dtype="bfloat16", max_grad_norm=0)
        model = mlx.Model(SMALL, seed=0, **settings)
        for _ in range(3):
            model.step(losses.language_modelling, [lm_batch(tokens())], want=("logp",), learning_rate=1e-3)
        states.append(model.state())
    for other in states[1:]:
        assert states[0].keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(states[0][name], other[name], err_msg=name)


def test_small_arrays_are_moved_as_one_and_the_figures_read_once(monkeypatch):
    """What a device waits for in a step of 28 adapters: one kernel, one transfer."""
    import mlx.core as mx

    model, calls = mlx.Model(SMALL, seed=0, lora_rank=4), {"moved": 0, "read": 0}
    batch, before = lm_batch(tokens()), model.state()
    assert sum("lora_" in name for name in before) == 28

    def counted(what, call):
        def wrapped(*arguments):
            calls[what] += 1
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(mlx.train, "_moved", counted("moved", mlx.train._moved))
    for name in ("item", "tolist", "__array__"):
        if hasattr(mx.array, name):
            monkeypatch.setattr(mx.array, name, counted("read", getattr(mx.array, name)))
    figures = model.step(losses.language_modelling, [batch, batch], want=("logp",), learning_rate=1e-2)
    assert calls == {"moved": 1, "read": 1} and figures["grad_norm"] > 1e-3
    monkeypatch.undo()
    after = model.state()
    assert all(np.abs(after[n] - before[n]).max() > 1e-3 for n in before if n.startswith("weights/") and "lora_b" in n)


@pytest.mark.parametrize("rank", [0, 4])
def test_ppo_step_moves_weights_and_ratio_starts_at_one(rank):
    model = mlx.Model(SMALL, seed=0, lora_rank=rank, value_head=True, head_learning_rate=1e-3)
    batch, before = ppo_batch(model, tokens()), model.state()
    metrics = model.step(PPO, [batch], want=("logp", "value", "entropy"), learning_rate=1e-6)
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["val/ratio_error"] < 1e-10
    assert metrics["grad_norm"] > 1e-3
    after = model.state()
    moved = [k for k in before if k.startswith("weights/") and not np.array_equal(before[k], after[k])]
    assert any("value_head.out" in k for k in moved)
    assert any(("lora_b" if rank else "q_proj") in k for k in moved)


def test_bfloat16_trunk_moves_at_a_small_learning_rate():
    model = mlx.Model(SMALL, seed=0, dtype="bfloat16", value_head=True)
    batch, before = ppo_batch(model, tokens()), model.state()
    for _ in range(3):
        model.step(PPO, [batch], want=("logp", "value", "entropy"), learning_rate=1e-6)
    key = "weights/trunk.model.layers.0.mlp.up_proj.weight"
    moved = np.abs(model.state()[key] - before[key])
    assert 1e-7 < moved.max() < 1e-5


def test_adapters_off_is_the_reference_and_saving_merges_them(tmp_path):
    model, ids = mlx.Model(SMALL, seed=0, lora_rank=4, value_head=True), tokens()
    base = {"tokens": ids, "start": 8}
    before = model.evaluate(base, ("logp",))["logp"]
    batch = ppo_batch(model, ids)
    for _ in range(3):
        model.step(PPO, [batch], want=("logp", "value", "entropy"), learning_rate=1e-2)
    after = model.evaluate(base, ("logp",))["logp"]
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_array_equal(model.evaluate(base, ("logp",), adapters=False)["logp"], before)
    model.save(tmp_path, pad_id=0, end_id=1)
    merged = mlx.Model(SMALL, folder=tmp_path).evaluate(base, ("logp",))["logp"]
    np.testing.assert_allclose(merged, after, atol=1e-5)


def test_full_kl_in_the_loss_is_exact():
    model = mlx.Model(SMALL, seed=0, lora_rank=4, value_head=True, keep_reference_head=True)
    batch = ppo_batch(model, tokens())
    for _ in range(3):
        model.step(PPO, [batch], want=("logp", "value", "entropy"), learning_rate=1e-2)
    state = {"tokens": batch["tokens"], "start": 8}
    hidden = model.evaluate(state, ("hidden",), adapters=False)["hidden"]
    kl = model.evaluate({**state, "reference_hidden": hidden}, ("kl",))["kl"]
    model._prepare(adapters=True, training=False)
    policy = log_softmax(model.logits(state["tokens"]))
    model._prepare(adapters=False, training=False)
    reference = log_softmax(model.logits(state["tokens"]))
    expected = (np.exp(policy) * (policy - reference)).sum(-1)[:, 7:-1]
    assert expected.max() > 1e-3
    np.testing.assert_allclose(kl, expected, atol=1e-5)


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_batched_generation_equals_one_at_a_time_and_the_full_forward():
    model = mlx.Model(SMALL, seed=0)
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    uniforms = np.random.default_rng(0).random((3, 20))
    settings = dict(max_tokens=20, stop_ids=[1, 2, 3], pad_id=0)
    together = model.generate(prompts, uniforms=uniforms, temperature=1.0, **settings)
    for i, prompt in enumerate(prompts):
        alone = model.generate([prompt], uniforms=uniforms[i : i + 1], temperature=1.0, **settings)
        assert alone[0] == together[i]
    assert len({len(r) for r in together}) > 1, "rows must end at different lengths for this test to mean anything"
    greedy = model.generate([prompts[0]], uniforms=None, temperature=0, **settings)[0]
    context = list(prompts[0])
    for token in greedy:
        assert token == model.logits(np.array([context], np.int32))[0, -1].argmax()
        context.append(token)


def test_state_resumes_bit_for_bit():
    batch = lm_batch(tokens())
    model, other = mlx.Model(SMALL, seed=0, weight_decay=0.1), mlx.Model(SMALL, seed=9, weight_decay=0.1)
    for _ in range(3):
        model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-3)
    other.load_state(model.state())
    for _ in range(3):
        expected = model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-3)
        assert other.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-3) == expected


def test_a_non_finite_gradient_leaves_the_weights_alone():
    model, batch = mlx.Model(SMALL, seed=0), lm_batch(tokens())
    before = model.state()
    broken = {**batch, "total": np.float32(0)}
    metrics = model.step(losses.language_modelling, [broken], want=("logp",), learning_rate=1)
    assert metrics["skipped"] == 1
    assert all(np.array_equal(before[k], v) for k, v in model.state().items() if k.startswith("weights/"))


def test_device_agrees_with_the_cpu_and_the_gradient_with_the_slope(monkeypatch):
    assert doctor.device_check(mlx) < 1e-3
    assert doctor.gradient_check(mlx) < 1e-2
    honest = losses.language_modelling

    def doubled(xp, out, batch):
        loss, metrics = honest(xp, out, batch)
        return 2 * loss, metrics

    monkeypatch.setattr(losses, "language_modelling", doubled)
    assert doctor.gradient_check(mlx) > 0.4, "a gradient twice too large must be found"


def test_sizes_are_what_their_names_promise():
    millions = {name: config.parameters() / 1e6 for name, config in SIZES.items()}
    bounds = {
        "nano": (1, 3),
        "micro": (10, 15),
        "tiny": (130, 140),
        "medium": (360, 380),
        "large": (1050, 1150),
        "xlarge": (1450, 1550),
    }
    for name, (low, high) in bounds.items():
        assert low <= millions[name] <= high
    model = mlx.Model(SIZES["nano"])
    counted = sum(v.size for k, v in model.state().items() if k.startswith("weights/"))
    assert counted == SIZES["nano"].parameters()


def test_damaged_checkpoints_are_named(tmp_path):
    mlx.Model(SMALL).save(tmp_path, pad_id=0, end_id=1)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(UserError, match="corrupt"):
        mlx.Model(SMALL, folder=tmp_path)
    weights.write_bytes(b"not a safetensors file at all")
    with pytest.raises(UserError, match="corrupt"):
        mlx.Model(SMALL, folder=tmp_path)
    weights.write_bytes(content)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 98}))
    with pytest.raises(UserError, match="embed_tokens"):
        mlx.Model(checkpoint.read_config(tmp_path), folder=tmp_path)


def test_save_points_fall_back_when_the_last_is_damaged(tmp_path):
    points, said = SavePoints(tmp_path), []
    for step in (1, 2, 3):
        points.save(step, [("x", np.full(3, step, np.float32))], {"beta": step / 10})
    arrays, state = points.latest()
    assert state["step"] == 3 and arrays["x"][0] == 3
    newest = tmp_path / "state" / "step-00000003" / "arrays-00000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    arrays, state = points.latest(said.append)
    assert state["step"] == 2 and state["beta"] == 0.2 and "step-00000003 is damaged" in said[0]
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_a_save_holds_one_file_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(savepoints, "SHARD", 800)
    alive = []

    def arrays():
        for i in range(9):
            array = np.full(100, i, np.float32)  # 400 bytes: two to a file
            alive.append(weakref.ref(array))
            yield f"x{i}", array
            del array
            assert sum(ref() is not None for ref in alive) <= 3

    points = SavePoints(tmp_path)
    points.save(1, arrays(), {})
    found, _ = points.latest()
    assert {name: array[0] for name, array in found.items()} == {f"x{i}": i for i in range(9)}
    assert len(list((tmp_path / "state" / "step-00000001").glob("arrays-*"))) == 5


def test_a_master_is_split_into_a_bfloat16_and_a_remainder_without_loss():
    import mlx.core as mx

    from mlxrlhf.backends.mlx.train import _join, _split

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    bits = bits[(bits >> 23 & 255) < 254]  # finite, and not so large that rounding overflows
    master = mx.array(bits).view(mx.float32)
    weight, lower = _split(master)
    np.testing.assert_array_equal(np.array(_join(weight, lower).view(mx.uint32)), bits)
    rounded = np.array(master.astype(mx.bfloat16).view(mx.uint16)).astype(int)
    assert weight.dtype == mx.bfloat16 and np.abs(np.array(weight.view(mx.uint16)).astype(int) - rounded).max() <= 1
    assert (np.array(weight.view(mx.uint16)) == rounded).mean() > 0.9999, "ties alone may round another way"


def test_bfloat16_moments_follow_the_float32_ones_and_resume_exactly():
    batch, runs = lm_batch(tokens()), []
    for moments in ("float32", "bfloat16"):
        model = mlx.Model(SMALL, seed=0, dtype="bfloat16", weight_decay=0.1, optimizer_dtype=moments)
        losses_seen = [
            model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=3e-3)["loss"]
            for _ in range(12)
        ]
        runs.append(losses_seen)
    assert runs[0] != runs[1] and runs[1][-1] < 0.7 * runs[1][0]
    np.testing.assert_allclose(runs[1], runs[0], rtol=0.02)
    again = mlx.Model(SMALL, seed=9, dtype="bfloat16", weight_decay=0.1, optimizer_dtype="bfloat16")
    again.load_state(model.state())
    for _ in range(2):
        expected = model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=3e-3)
        assert again.step(losses.language_modelling, [batch], want=("logp",), learning_rate=3e-3) == expected


def test_equal_prompts_are_read_once_and_answered_apart():
    model = mlx.Model(SMALL, seed=0)
    prompts = [[5, 6, 7], [8], [5, 6, 7], [8], [5, 6, 7]]
    uniforms = np.random.default_rng(0).random((5, 20))
    settings = dict(max_tokens=20, temperature=1.0, stop_ids=[1, 2, 3], pad_id=0)
    together = model.generate(prompts, uniforms=uniforms, **settings)
    for i, prompt in enumerate(prompts):
        assert together[i] == model.generate([prompt], uniforms=uniforms[i : i + 1], **settings)[0]
    assert len({tuple(r) for r in together}) == 5
