"""GRPO: group advantages and token weights by hand, and a policy that learns without a critic."""

import importlib

import numpy as np
import pytest
from test_ppo import END, TOY, always, run, share_of_sevens, toy  # noqa: F401  (toy is a fixture)

from mlxrlhf import backends
from mlxrlhf.algorithms import advantages, losses
from mlxrlhf.config import GRPOConfig
from mlxrlhf.stages.grpo import GRPO


def build(folder, score=share_of_sevens, backend="mlx", **changes):
    settings = dict(
        batch_size=4,
        responses_per_prompt=4,
        mini_batch_size=8,
        max_tokens=12,
        lora_rank=0,
        ppo_epochs=4,
        learning_rate=3e-3,
        kl_coef=0.02,
        missing_end_penalty=0.0,
    )
    config, library = GRPOConfig(**{**settings, **changes}), backends.load(backend)
    policy = library.Model(TOY, folder=folder, seed=0, lora_rank=config.lora_rank)
    reference = policy if config.lora_rank else library.Model(TOY, folder=folder)
    return GRPO(config, policy, reference, score, end_ids=[END], pad_id=0)


def test_group_advantages_by_hand():
    # Two prompts with two responses: means 2 and 5; deviations 1 and 0.
    scores = np.array([1.0, 3.0, 5.0, 5.0], np.float32)
    np.testing.assert_allclose(advantages.group_advantages(scores, 2), [-1, 1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(advantages.group_advantages(scores * 7, 2, scale=False), [-7, 7, 0, 0])


def test_token_weights_by_hand():
    mask = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(advantages.token_weights(mask, "grpo", 8), [[1 / 2, 0, 0, 0], [1 / 6, 1 / 6, 1 / 6, 0]])
    np.testing.assert_allclose(advantages.token_weights(mask, "dapo", 8), mask / 4)
    np.testing.assert_allclose(advantages.token_weights(mask, "dr_grpo", 8), mask / 16)


@pytest.mark.parametrize("library", ["mlx.core", "torch"])
def test_objective_by_hand(library):
    """Ratios 2 and 1/2 at advantages 1 and -1, clip 0.2: -1.2 and 0.8. p_ref / p = 3 and 1: k3 = 2 - log 3 and 0."""
    backends.load("mlx")
    xp = importlib.import_module(library)
    array = xp.array if library == "mlx.core" else xp.tensor
    old, logp = np.log([[0.2, 0.8]]), np.log([[0.4, 0.4]])
    batch = {
        "old_logp": old,
        "ref_logp": logp + np.log([[3.0, 1.0]]),
        "advantages": np.array([[1.0, -1.0]]),
        "mask": np.ones((1, 2)),
        "weight": np.array([[0.25, 0.75]]),
        "total": np.array(2.0),
        "kl_coef": np.array(0.5),
    }
    batch = {k: array(v.astype(np.float32)) for k, v in batch.items()}
    loss, metrics = losses.grpo_objective(clip=0.2, entropy_coef=0.0)(
        xp, {"logp": array(logp.astype(np.float32))}, batch
    )
    assert float(loss) == pytest.approx(0.25 * -1.2 + 0.75 * 0.8 + 0.5 * 0.25 * (2 - np.log(3)), abs=1e-6)
    assert float(metrics["policy/clipfrac_avg"]) == 1 and float(metrics["val/ratio"]) == pytest.approx(1.25)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backend": "torch"},
        {"lora_rank": 8, "learning_rate": 1e-2},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ],
    ids=["full", "torch", "lora", "dr-grpo"],
)
def test_grpo_learns_what_it_is_paid_for(toy, changes):  # noqa: F811
    rows = run(build(toy, **changes), 20)
    scores = [row["objective/scores"] for row in rows]
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 1.0
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4) and rows[-1]["objective/kl"] > 0.1
    assert all(row["grad_norm"] > 0 for row in rows if not row["skipped"])
    assert not any(key.startswith(("val/clip", "value/", "loss/value")) for key in rows[0])


def test_responses_to_one_prompt_are_adjacent_and_ties_teach_nothing(toy):  # noqa: F811
    seen = []

    def score(rows, responses, features):
        seen.extend(rows)
        return always(1.0)(rows, responses, features)

    metrics = build(toy, score=score, batch_size=2, kl_coef=0.0).update(
        [[2, 3], [4]], np.random.default_rng(0), 1e-3, ["first", "second"]
    )
    assert seen == ["first"] * 4 + ["second"] * 4
    assert metrics["skipped"] == 1 and metrics["frac_reward_zero_std"] == 1
