"""PPO learns what it is paid for, from a random model, and stops with a cause when an invariant breaks."""

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig, PPOConfig
from mlxrlhf.errors import UserError
from mlxrlhf.stages import ppo as stage
from mlxrlhf.stages.ppo import PPO

mlx = backends.load("mlx")
TOY = ModelConfig(24, 32, 2, 2, 1, 64, head_dim=16)
END = 1


def share_of_sevens(prompts, responses, features):
    """A score the policy can raise in one way only."""
    return {"scores": np.array([4.0 * np.mean([token == 7 for token in r]) for r in responses], np.float32)}


def always(value):
    return lambda prompts, responses, features: {"scores": np.full(len(responses), value, np.float32)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A random checkpoint whose embeddings are large enough for adapters to move its tied output distribution."""
    model, folder = mlx.Model(TOY, seed=0), tmp_path_factory.mktemp("toy")
    scaled = {k: v * 5 if "embed_tokens" in k else v for k, v in model.state().items()}
    model.load_state(scaled)
    model.save(folder, pad_id=0, end_id=END)
    return folder


def build(folder, score=share_of_sevens, **changes):
    settings = dict(
        batch_size=16,
        mini_batch_size=8,
        max_tokens=12,
        lora_rank=0,
        learning_rate=3e-3,
        kl_coef=0.02,
        missing_end_penalty=0.0,
    )
    config = PPOConfig(**{**settings, **changes})
    shared = dict(folder=folder, dtype=config.dtype)
    policy = mlx.Model(
        TOY,
        **shared,
        seed=0,
        lora_rank=config.lora_rank,
        value_head=True,
        head_learning_rate=3e-3,
        keep_reference_head=config.kl_in_loss,
    )
    reference = policy if config.lora_rank else mlx.Model(TOY, **shared)
    return PPO(config, policy, reference, score, end_ids=[END], pad_id=0)


def run(ppo, updates):
    rows = []
    for step in range(updates):
        rng = np.random.default_rng([0, step])
        prompts = [rng.integers(2, 24, rng.integers(2, 6)).tolist() for _ in range(ppo.config.batch_size)]
        rows.append(ppo.update(prompts, rng, ppo.config.rate))
    return rows


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_rank": 8, "learning_rate": 1e-2}, {"kl_in_loss": True, "lora_rank": 8, "learning_rate": 1e-2}],
    ids=["full", "lora", "kl-in-loss"],
)
def test_ppo_learns_what_it_is_paid_for(toy, changes):
    rows = run(build(toy, **changes), 25)
    scores = [row["objective/scores"] for row in rows]
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 1.0
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4) and rows[-1]["objective/kl"] > 0.1
    assert all(row["grad_norm"] > 0 for row in rows if not row["skipped"])


def test_a_strong_penalty_holds_the_policy_to_its_reference(toy):
    free = run(build(toy, kl_coef=0.0), 12)[-1]["objective/kl"]
    held = run(build(toy, kl_coef=5.0), 12)[-1]["objective/kl"]
    assert held < 0.3 * free


def test_no_signal_is_no_update(toy):
    # Zero scores, no penalty and a value head at zero: every advantage is zero.
    ppo = build(toy, score=always(0), kl_coef=0.0)
    before = ppo.policy.state()
    assert run(ppo, 1)[0]["skipped"] == 1
    assert all(np.array_equal(before[k], v) for k, v in ppo.policy.state().items())


@pytest.mark.parametrize("dtype, least", [("float32", 0.01), ("bfloat16", 0.1)])
def test_a_policy_that_differs_from_its_rollout_is_stopped(toy, dtype, least):
    run(build(toy, dtype=dtype), 1)
    ppo = build(toy, dtype=dtype)
    evaluate = ppo.policy.evaluate

    def shifted(batch, want, **settings):
        out = evaluate(batch, want, **settings)
        return {k: v + least if k == "logp" else v for k, v in out.items()}

    ppo.policy.evaluate = shifted
    before = ppo.policy.state()
    with pytest.raises(UserError, match="must be 1"):
        run(ppo, 1)
    after = ppo.policy.state()
    assert all(np.array_equal(before[name], array) for name, array in after.items()), "the step was not taken"


def test_runaway_and_nan_are_stopped_with_their_cause(toy):
    with pytest.raises(UserError, match="kl-limit"):
        run(build(toy, kl_limit=0.01, kl_coef=0.0), 12)
    with pytest.raises(UserError, match="not finite"):
        run(build(toy, score=always(np.nan)), 1)


def test_a_penalty_of_zero_cannot_be_raised():
    with pytest.raises(UserError, match="--kl-target 8 .* cannot start at 0"):
        stage.run(PPOConfig(kl_target=8, kl_coef=0))


def test_a_missing_end_costs_its_penalty(toy):
    ppo = build(toy, missing_end_penalty=3.0, score=always(0), kl_coef=0.0)
    prompts = [[2, 3]] * 64
    _, metrics = ppo.collect(prompts, np.random.default_rng(0))
    assert 0 < metrics["response/truncated"] < 1
    assert metrics["objective/rlhf_reward"] == pytest.approx(-3.0 * metrics["response/truncated"], rel=1e-5)
