"""Trunks whose weights MLX packed into 4 or 8 bits: what they compute is mlx-lm's, and adapters are trained on them."""

import dataclasses
import json

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

from mlxrlhf import backends, plan  # noqa: E402
from mlxrlhf.backends.mlx import model as mlx_model  # noqa: E402
from mlxrlhf.backends.mlx import network  # noqa: E402
from mlxrlhf.config import DPOConfig, ModelConfig, PPOConfig  # noqa: E402
from mlxrlhf.errors import UserError  # noqa: E402
from mlxrlhf.models import checkpoint, identity  # noqa: E402
from mlxrlhf.models.adapters import load_model, save_adapters  # noqa: E402

MLX = backends.load("mlx")
SHAPE = ModelConfig(96, 64, 2, 4, 2, 128, head_dim=16, max_positions=64)
UNTIED = dataclasses.replace(SHAPE, tie_word_embeddings=False, attention_bias=True)
COMPILED = ("MLXRLHF_COMPILE", "1")
TOKENS = np.random.default_rng(0).integers(3, 96, (2, 12), dtype=np.int32)


def whole(folder, shape=SHAPE):
    """A tiny random Llama on disk, float32."""
    folder.mkdir(parents=True, exist_ok=True)
    MLX.Model(shape, seed=1).save(folder, pad_id=0, end_id=2)
    return folder


def packed(folder, bits=4, shape=SHAPE):
    """The same, packed by mlx-lm as its converter does it, but for the tokenizer."""
    from mlx_lm.utils import load_model, quantize_model, save_model

    source = whole(folder.parent / "whole", shape)
    model, config = load_model(source)
    model, config = quantize_model(model, config, 64, bits)
    folder.mkdir()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def stock(folder):
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    return np.array(model(mx.array(TOKENS)).astype(mx.float32))


@pytest.mark.parametrize("bits,shape", [(4, SHAPE), (8, UNTIED)])
def test_logits_are_those_of_mlx_lm_and_of_packing_at_loading(bits, shape, tmp_path):
    folder = packed(tmp_path / "q", bits, shape)
    found = checkpoint.read_config(folder)
    assert (found.bits, found.group_size) == (bits, 64)
    logits = MLX.Model(found, folder=folder).logits(TOKENS)
    np.testing.assert_allclose(logits, stock(folder), atol=1e-5)
    at_loading = load_model(MLX, tmp_path / "whole", quantize=bits).logits(TOKENS)
    np.testing.assert_allclose(at_loading, logits, atol=1e-5)
    before = load_model(MLX, tmp_path / "whole").logits(TOKENS)
    assert 1e-4 < np.abs(logits - before).max() < 1
    assert len(identity.trunk_digest(folder)) == identity.LENGTH
    assert identity.trunk_digest(folder) != identity.trunk_digest(tmp_path / "whole")
    with pytest.raises(UserError, match=f"in {bits} bits already"):
        checkpoint.read_config(folder, 12 - bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_pytorch_unpacks_it(bits, tmp_path):
    torch = backends.load("torch")
    folder = packed(tmp_path / "q", bits, UNTIED)
    shape = checkpoint.read_config(folder)
    np.testing.assert_allclose(torch.Model(shape, folder=folder).logits(TOKENS), stock(folder), atol=2e-5)
    with pytest.raises(UserError, match="--quantize 4 runs on --backend mlx"):
        load_model(torch, tmp_path / "whole", quantize=4)


def batch():
    mask = np.ones((2, 8), np.float32)
    mask[1, 5:] = 0
    return {"tokens": TOKENS, "start": 4, "mask": mask, "tokens_in_total": np.float32(mask.sum())}


def cross_entropy(xp, outputs, batch):
    loss = -(outputs["logp"] * batch["mask"]).sum() / batch["mask"].sum()
    return loss, {"loss": loss}


@pytest.mark.parametrize("shape", [SHAPE, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_are_trained_on_it_and_nothing_else(shape, checkpointing, tmp_path):
    folder = packed(tmp_path / "q", 4, shape)
    found = checkpoint.read_config(folder)
    model = MLX.Model(found, folder=folder, lora_rank=4, value_head=True, gradient_checkpointing=checkpointing)
    assert len(model.adapters) == 14
    trained = set(model.state())
    assert all("lora_" in name or "value_head" in name or "optimizer/" in name for name in trained)
    gradient, _ = model.gradient(cross_entropy, batch(), ("logp",))
    assert all(np.abs(g).max() > 0 for name, g in gradient.items() if name.endswith("lora_b"))
    before = model.evaluate(batch(), ("logp", "entropy", "value"))
    losses_seen = [model.step(cross_entropy, [batch()], want=("logp",), learning_rate=1e-2)["loss"] for _ in range(4)]
    assert losses_seen[-1] < losses_seen[0] - 0.01
    after = model.evaluate(batch(), ("logp",))["logp"]
    assert np.abs(after - before["logp"]).max() > 1e-2
    reference = model.evaluate(batch(), ("logp",), adapters=False)["logp"]
    np.testing.assert_allclose(reference, before["logp"], atol=1e-5)
    answers = model.generate(
        [[5, 6, 7], [8]], uniforms=np.full((2, 6), 0.5), max_tokens=6, temperature=1.0, stop_ids=[2], pad_id=0
    )
    assert all(0 < len(answer) <= 6 for answer in answers)


def test_logits_in_chunks_and_a_compiled_step_change_nothing(tmp_path, monkeypatch):
    """More than one chunk is recomputed in the backward pass; a GPU compiles the step."""
    folder = packed(tmp_path / "q", 4)
    shape = checkpoint.read_config(folder)

    def trained():
        model = MLX.Model(shape, folder=folder, lora_rank=4, seed=3)
        for _ in range(2):
            seen = model.step(cross_entropy, [batch()], want=("logp", "entropy"), learning_rate=1e-2)
        return seen["loss"], model.evaluate(batch(), ("logp", "entropy"))

    loss, expected = trained()
    for change in (lambda: monkeypatch.setattr(network, "LOGITS_CHUNK", 5 * 96), lambda: monkeypatch.setenv(*COMPILED)):
        change()
        again, found = trained()
        assert again == pytest.approx(loss, abs=1e-5)
        np.testing.assert_allclose(found["logp"], expected["logp"], atol=1e-4)
        np.testing.assert_allclose(found["entropy"], expected["entropy"], atol=1e-4)


def test_gradients_are_those_of_the_unpacked_model(tmp_path):
    """MLX's gradient through a packed product against PyTorch's through the same weights, whole."""
    torch = backends.load("torch")
    folder = packed(tmp_path / "q", 4, UNTIED)
    shape = checkpoint.read_config(folder)
    ours = MLX.Model(shape, folder=folder, lora_rank=4)
    other = torch.Model(shape, folder=folder, lora_rank=4)
    rng = np.random.default_rng(1)
    drawn = {k: rng.normal(0, 0.1, v.shape).astype(np.float32) for k, v in ours.state().items() if "weights/" in k}
    ours.load_state(drawn)
    other.load_state(drawn)
    a, b = (m.gradient(cross_entropy, batch(), ("logp",))[0] for m in (ours, other))
    assert a.keys() == b.keys()
    largest = max(np.abs(g).max() for g in b.values())
    for name, expected in b.items():
        np.testing.assert_allclose(a[name], expected, atol=2e-5 * largest, err_msg=name)


def test_saving_writes_adapters_and_the_whole_model_in_bfloat16(tmp_path, monkeypatch):
    folder = packed(tmp_path / "q", 4, UNTIED)
    model = MLX.Model(checkpoint.read_config(folder), folder=folder, lora_rank=4)
    model.step(cross_entropy, [batch()], want=("logp",), learning_rate=1e-2)
    expected = model.logits(TOKENS)
    monkeypatch.setattr(mlx_model, "FILE_BYTES", 20_000)
    out = tmp_path / "out"
    out.mkdir()
    model.save(out, pad_id=0, end_id=2)
    save_adapters(model, out)
    assert len(list(out.glob("model-*.safetensors"))) > 1
    shape = checkpoint.read_config(out)
    assert shape.bits == 0
    np.testing.assert_allclose(MLX.Model(shape, folder=out).logits(TOKENS), expected, atol=2e-2)
    np.testing.assert_allclose(stock(out), expected, atol=5e-2)
    on_top = load_model(MLX, folder, str(out / "adapters")).logits(TOKENS)
    np.testing.assert_allclose(on_top, expected, atol=1e-5)


def test_mlx_lm_puts_the_adapters_on_the_packed_folder(tmp_path):
    from mlx_lm.utils import load_adapters
    from mlx_lm.utils import load_model as load_stock

    folder = packed(tmp_path / "q", 4)
    model = MLX.Model(checkpoint.read_config(folder), folder=folder, lora_rank=4)
    model.step(cross_entropy, [batch()], want=("logp",), learning_rate=1e-2)
    save_adapters(model, tmp_path)
    theirs = load_adapters(load_stock(folder)[0], str(tmp_path / "adapters"))
    np.testing.assert_allclose(np.array(theirs(mx.array(TOKENS))), model.logits(TOKENS), atol=1e-4)


def test_every_weight_cannot_be_trained_and_the_plan_knows_the_bytes():
    shape = dataclasses.replace(SHAPE, bits=4)
    with pytest.raises(UserError, match="--lora-rank 16"):
        plan.check(PPOConfig(lora_rank=0), shape, MLX)
    with pytest.raises(UserError, match="--lora-rank 16"):
        plan.check(DPOConfig(lora_rank=0, quantize=8), SHAPE, MLX)
    norms = 5 * 64
    matrices = SHAPE.parameters() - norms
    job = plan.Job.of(PPOConfig(), shape)
    # Half a byte for each weight; a scale and a bias of 4 bytes, or 2 in bfloat16, for each 64 of them.
    assert plan.trunk_bytes(job, MLX) == pytest.approx(matrices * (0.5 + 8 / 64) + 4 * norms)
    job = plan.Job.of(PPOConfig(dtype="bfloat16"), shape)
    assert plan.trunk_bytes(job, MLX) == pytest.approx(matrices * (0.5 + 4 / 64) + 2 * norms)
    assert plan.trunk_bytes(job, backends.load("torch")) == 2 * SHAPE.parameters()
    model = MLX.Model(shape, seed=0, dtype="bfloat16")
    held = sum(array.nbytes for _, array in mlx_model.flat(model.trunk.parameters()).items())
    assert plan.trunk_bytes(job, MLX) == held


def test_unpacking_by_hand():
    """Codes from the lowest bits up: 0x76543210 holds 0, 1, ..., 7; scale 2 and bias -1."""
    weight = np.array([[0x76543210] * 8], np.uint32)
    scales, biases = np.array([[2.0]], np.float32), np.array([[-1.0]], np.float32)
    found = checkpoint.unpacked(weight, scales, biases, 4)
    np.testing.assert_array_equal(found, [[-1, 1, 3, 5, 7, 9, 11, 13] * 8])
    with pytest.raises(UserError, match="--backend mlx only"):
        checkpoint.unpacked(weight, scales, biases, 3)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_adapters_of_the_last_blocks_alone(name, tmp_path):
    library = backends.load(name)
    folder = whole(tmp_path / "whole")
    model = library.Model(SHAPE, folder=folder, lora_rank=4, lora_layers=1)
    named = [k for k in model.state() if "weights/" in k and "lora_a" in k]
    assert len(named) == 7 and all(".layers.1." in k for k in named)
    model.step(cross_entropy, [batch()], want=("logp",), learning_rate=1e-2)
    save_adapters(model, tmp_path)
    assert json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())["num_layers"] == 1
    on_top = load_model(library, folder, str(tmp_path / "adapters")).logits(TOKENS)
    np.testing.assert_allclose(on_top, model.logits(TOKENS), atol=1e-5)
    size = sum(v.size for k, v in model.state().items() if k.startswith("weights/") and "lora_" in k)
    assert plan.adapter_weights(SHAPE, 4, 1) == size
    few, many = (
        plan.predict(plan.Job.of(PPOConfig(lora_layers=blocks, batch_size=4), SHAPE), library).peak for blocks in (1, 0)
    )
    assert few < many
