"""What saves memory or time changes nothing else: the sampled text and one update are equal with it and without it."""

import dataclasses
import json

import numpy as np
import pytest

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import advantages, losses, rollout
from mlxrlhf.backends.protocol import ModelSettings
from mlxrlhf.config import DPOConfig, FinetuneConfig, GRPOConfig, ModelConfig, PPOConfig, PretrainConfig, RewardConfig
from mlxrlhf.models.checkpoint import read_config

SMALL = ModelConfig(97, 64, 2, 4, 2, 128, head_dim=16)
#: of what the plan may advise, what may not change the text or the update, and what is meant to
EQUAL = {"batch_size", "gradient_accumulation_steps", "micro_batch_size", "gradient_checkpointing"}
MEANT = {"dtype", "optimizer_dtype", "lora_rank", "quantize"}


def trunk(kind, tmp_path):
    """The backend, the shape and the folder of a small model: ours on either backend, or one of mlx-lm's families."""
    backend = backends.load("torch" if kind == "torch" else "mlx", "cpu")
    if kind != "qwen3":
        # Scaled up: a near-uniform model would hide a difference.
        model = backend.Model(SMALL, ModelSettings(seed=0))
        model.load_state({k: v * 4 if v.ndim == 2 else v for k, v in model.state().items()})
        model.save(tmp_path, pad_id=0, end_id=1)
        return backend, SMALL, tmp_path
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models import qwen3

    shape = dict(hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4, head_dim=16)
    shape |= dict(num_key_value_heads=2, vocab_size=97, rms_norm_eps=1e-5, max_position_embeddings=512, rope_theta=1e4)
    shape |= dict(model_type="qwen3", tie_word_embeddings=True)
    mx.random.seed(0)
    weights = tree_map(
        lambda w: w * 4 if w.ndim == 2 else w, qwen3.Model(qwen3.ModelArgs.from_dict(shape)).parameters()
    )
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (tmp_path / "config.json").write_text(json.dumps(shape))
    return backend, read_config(tmp_path), tmp_path


def pairs_batch(model, rng):
    """Four rows as the stages arrange them: chosen and rejected answers of two pairs."""
    prompts = [rng.integers(3, 97, n).tolist() for n in (5, 5, 9, 9)]
    answers = [rng.integers(3, 97, n).tolist() for n in (7, 3, 11, 6)]
    return rollout.arrange(prompts, answers, 0)


def objectives(model, reference):
    """The objective of every stage, its outputs and one batch."""
    rng = np.random.default_rng(0)
    batch = pairs_batch(model, rng)
    mask = batch["mask"]
    old = model.evaluate(batch, ("logp", "value"))
    frozen = reference.evaluate(batch, ("logp", "hidden"), adapters=False)
    noise = lambda scale=0.3: (rng.normal(size=mask.shape) * scale * mask).astype(np.float32)  # noqa: E731
    batch |= {
        "old_logp": old["logp"] + noise(),
        "old_value": old["value"] + noise(),
        "advantages": noise(1.0),
        "returns": noise(1.0),
        "kl_coef": np.float32(0.3),
        "reference_hidden": frozen["hidden"],
        "total": np.float32(mask.sum()),
    }
    ppo = dict(clip=0.2, value_clip=0.2, vf_coef=0.5, entropy_coef=0.02)
    yield "pretrain, finetune", losses.language_modelling, ("logp",), batch
    yield "ppo", losses.ppo_objective(**ppo, kl_in_loss=False), ("logp", "value", "entropy"), batch
    yield "ppo --kl-in-loss", losses.ppo_objective(**ppo, kl_in_loss=True), ("logp", "value", "entropy", "kl"), batch
    weight = advantages.token_weights(mask, "grpo", 16)
    grpo = {**batch, "ref_logp": frozen["logp"], "weight": weight}
    yield "grpo", losses.grpo_objective(clip=0.2, entropy_coef=0.0), ("logp",), grpo
    two = {"weight": np.array([0.5, 1.5], np.float32), "total": np.float32(2)}
    sums = (frozen["logp"] * mask).sum(axis=1).astype(np.float32)
    yield "dpo", losses.dpo_objective(beta=0.1, label_smoothing=0.0), ("logp",), {**batch, **two, "ref_logp": sums}
    yield "reward --unfreeze-rank", losses.pair_objective("margin", 1.0), ("score",), {**batch, **two}


def halves(name, batch):
    """The batch as two micro-batches; a pair stays together, dpo's chosen answers before its rejected ones."""
    parts = []
    for i in range(2):
        rows, pair = np.array([i, i + 2] if name == "dpo" else [2 * i, 2 * i + 1]), [i]
        part = {}
        for key, value in batch.items():
            if np.ndim(value) == 0:
                part[key] = value
            else:
                part[key] = value[pair] if np.ndim(value) == 1 and len(value) == 2 else value[rows]
        parts.append(part)
    return parts


def sampled(model, adapters=True):
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 6, 7]]
    uniforms = np.random.default_rng(0).random((4, 24))
    settings = dict(max_tokens=24, temperature=1.0, stop_ids=[1, 2, 3], pad_id=0)
    mixed = model.generate(prompts, uniforms=uniforms, adapters=adapters, **settings)
    # Prompts of one length take another path: nothing is padded.
    return mixed, model.generate(prompts[:1] * 4, uniforms=uniforms, adapters=adapters, **settings)


def close(ours, other, name):
    for key in other:
        scale = max(np.abs(other[key]).max(), 1e-9)
        np.testing.assert_allclose(ours[key], other[key], atol=2e-5 * scale, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["mlx", "torch", "qwen3"])
def test_checkpointing_and_micro_batches_change_neither_text_nor_update(kind, rank, tmp_path):
    backend, shape, folder = trunk(kind, tmp_path)
    settings = ModelSettings(folder=folder, lora_rank=rank, value_head=True, keep_reference_head=True)
    plain = backend.Model(shape, settings)
    saving = backend.Model(shape, dataclasses.replace(settings, gradient_checkpointing=True))
    rng = np.random.default_rng(3)
    shaken = {
        k: v + (rng.normal(size=v.shape) * 0.1).astype(np.float32)
        for k, v in plain.state().items()
        if k.startswith("weights/") and ("lora_b" in k or "value_head.out" in k)
    }
    for model in (plain, saving):
        model.load_state({**model.state(), **shaken})
    text = sampled(plain)
    assert len({len(r) for r in text[0]}) > 1 and text[0] != text[1]
    assert sampled(saving) == text and sampled(saving, adapters=False) == sampled(plain, adapters=False)
    # The reference is frozen by its adapters, or by being another model.
    reference = plain if rank else backend.Model(shape, ModelSettings(folder=folder))
    for name, objective, want, batch in objectives(plain, reference):
        expected, figures = plain.gradient(objective, batch, want)
        assert max(np.abs(g).max() for g in expected.values()) > 1e-4, f"{name}: a gradient of zero trains nothing"
        again, same = saving.gradient(objective, batch, want)
        close(again, expected, f"{name}, checkpointed")
        close(same, figures, f"{name}, checkpointed")
        parts = [saving.gradient(objective, part, want) for part in halves(name, batch)]
        close({k: parts[0][0][k] + parts[1][0][k] for k in expected}, expected, f"{name}, in two micro-batches")
    assert sampled(saving) == text, "a training step must leave the way of sampling alone"


def test_a_family_of_mlx_lm_reads_equal_prompts_once_and_lets_ended_rows_leave(tmp_path, monkeypatch):
    backend, shape, folder = trunk("qwen3", tmp_path)
    from mlx_lm.models.qwen3 import Qwen3Model

    model, seen = backend.Model(shape, ModelSettings(folder=folder)), []
    forward = Qwen3Model.__call__

    def counted(self, inputs, *arguments, **named):
        seen.append(inputs.shape)
        return forward(self, inputs, *arguments, **named)

    prompts = [[5, 6, 7], [8], [5, 6, 7], [8], [5, 6, 7], [8], [5, 6, 7], [8]]
    uniforms = np.random.default_rng(0).random((8, 40))
    settings = dict(max_tokens=40, temperature=1.0, stop_ids=list(range(1, 9)), pad_id=0)
    alone = [model.generate([p], uniforms=u[None], **settings)[0] for p, u in zip(prompts, uniforms)]
    monkeypatch.setattr(Qwen3Model, "__call__", counted)
    assert model.generate(prompts, uniforms=uniforms, **settings) == alone
    longest = max(map(len, alone))
    assert len({tuple(a) for a in alone}) == 8 and len({len(a) for a in alone}) > 2
    assert seen[0] == (2, 3) and seen[1] == (8, 1), "two prompts are read, eight rows are sampled"
    assert seen[-1][0] < 8 and len(seen) <= longest + 1, "rows that have ended leave"


@pytest.mark.parametrize("kind", ["mlx", "torch"])
def test_one_update_is_the_same_in_every_way_of_cutting_it(kind, tmp_path):
    backend, shape, folder = trunk(kind, tmp_path)
    states = []
    for checkpointing in (False, True):
        for cut in (False, True):
            model = backend.Model(
                shape,
                ModelSettings(folder=folder, weight_decay=0.1, gradient_checkpointing=checkpointing, value_head=True),
            )
            _, objective, want, batch = next(objectives(model, model))
            batches = halves("pretrain", batch) if cut else [batch]
            figures = model.step(objective, batches, want=want, learning_rate=1e-3)
            assert figures["grad_norm"] > 1e-3 and figures["skipped"] == 0
            states.append({k: v for k, v in model.state().items() if k.startswith("weights/")})
    moved = max(
        np.abs(states[0][k] - v).max()
        for k, v in backend.Model(shape, ModelSettings(folder=folder)).state().items()
        if k.startswith("weights/")
    )
    assert moved > 5e-4
    for state in states[1:]:
        for name, value in states[0].items():
            np.testing.assert_allclose(state[name], value, atol=2e-6, err_msg=name)


def test_moments_in_bfloat16_leave_sampling_and_the_first_forward_alone(tmp_path):
    backend, shape, folder = trunk("mlx", tmp_path)
    models = [
        backend.Model(shape, ModelSettings(folder=folder, value_head=True, optimizer_dtype=moments))
        for moments in ("float32", "bfloat16")
    ]
    assert sampled(models[0]) == sampled(models[1])
    _, objective, want, batch = next(objectives(models[0], models[0]))
    first, second = (m.step(objective, [batch], want=want, learning_rate=1e-4) for m in models)
    assert first == second


@pytest.mark.parametrize(
    "config",
    [
        PretrainConfig(),
        FinetuneConfig(),
        PPOConfig(),
        PPOConfig(lora_rank=0),
        PPOConfig(model="some/model"),
        GRPOConfig(),
        DPOConfig(),
        RewardConfig(unfreeze_rank=8),
    ],
    ids=lambda c: f"{type(c).__name__} {getattr(c, 'lora_rank', '')}",
)
def test_every_remedy_of_the_plan_is_tested_here_or_meant_to_change_the_run(config):
    for name in ("mlx", "torch"):
        ways = plan._ways(config, backends.load(name, "cpu"))
        assert ways and {flag for way in ways for change in way for flag in change} <= EQUAL | MEANT
