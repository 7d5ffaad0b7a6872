"""Losses and advantages against numbers worked by hand."""

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.algorithms import advantages, losses, rollout

backends.load("mlx")
import mlx.core as mx  # noqa: E402  (after the backend: it loads the fast BLAS first)


def test_gae_by_hand():
    # gamma 0.5, lambda 0.5. delta_1 = 2 - 1 = 1; delta_0 = 1 + 0.5 * 1 - 2 = -0.5; A_0 = -0.5 + 0.25 * 1.
    rewards = np.array([[1.0, 2.0, 9.0]], np.float32)
    values = np.array([[2.0, 1.0, 7.0]], np.float32)
    mask = np.array([[1.0, 1.0, 0.0]], np.float32)
    a, r = advantages.gae(rewards, values, mask, 0.5, 0.5)
    np.testing.assert_allclose(a, [[-0.25, 1.0, 0.0]])
    np.testing.assert_allclose(r, [[1.75, 2.0, 0.0]])


def test_whiten_keeps_or_removes_the_mean():
    x, mask = np.array([[1.0, 3.0, 100.0]]), np.array([[1.0, 1.0, 0.0]])  # mean 2, population deviation 1
    np.testing.assert_allclose(advantages.whiten(x, mask, shift_mean=True), [[-1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(advantages.whiten(x, mask, shift_mean=False), [[1, 3, 0]], atol=1e-6)


def test_kl_estimators_by_hand():
    logp, ref = np.log([[0.5]]), np.log([[0.25]])  # r = p_ref / p = 1/2
    assert advantages.kl_estimate(logp, ref, "k1")[0, 0] == pytest.approx(np.log(2))
    assert advantages.kl_estimate(logp, ref, "k2")[0, 0] == pytest.approx(np.log(2) ** 2 / 2)
    assert advantages.kl_estimate(logp, ref, "k3")[0, 0] == pytest.approx(-0.5 + np.log(2))


def test_score_lands_on_the_end_token():
    kl, mask = np.ones((2, 3)), np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = advantages.shaped_rewards(np.array([5.0, 7.0]), kl, mask, 0.1)
    np.testing.assert_allclose(rewards, [[-0.1, 4.9, 0.0], [-0.1, -0.1, 6.9]], rtol=1e-6)


def test_explained_variance():
    returns, mask = np.array([[1.0, 3.0]]), np.ones((1, 2))
    assert advantages.explained_variance(returns, returns, mask) == 1.0
    assert advantages.explained_variance(np.zeros((1, 2)), returns, mask) == 0.0


def test_adaptive_kl_moves_towards_its_target():
    controller = advantages.KLController(0.1, target=10.0, rate=0.5)
    controller.update(20.0)  # clip(20 / 10 - 1, -0.2, 0.2) = 0.2
    assert controller.beta == pytest.approx(0.11)
    controller.update(9.0)  # clip(9 / 10 - 1, -0.2, 0.2) = -0.1: 0.11 * 0.95
    assert controller.beta == pytest.approx(0.1045)
    controller.update(0.0)  # 0.1045 * 0.9 is below where it started
    assert controller.beta == 0.1
    fixed = advantages.KLController(0.1)
    fixed.update(1e6)
    assert fixed.beta == 0.1


def test_policy_loss_by_hand():
    # ratios 1.5 (clipped at 1.2, advantage 1: -1.2), 0.5 (advantage 1, unclipped: -0.5); the third is masked.
    logp, old = mx.log(mx.array([[1.5, 0.5, 9.0]])), mx.zeros((1, 3))
    mask = mx.array([[1.0, 1.0, 0.0]])
    loss, ratio, fraction = losses.policy_loss(mx, logp, old, mx.ones((1, 3)), mask, 2.0, 0.2)
    assert loss.item() == pytest.approx(-0.85)
    assert fraction.item() == pytest.approx(0.5)
    np.testing.assert_allclose(np.array(ratio), [[1.5, 0.5, 9.0]], rtol=1e-5)


def test_value_loss_by_hand():
    # Value 1 is clipped to 0.2, away from 0. Return 0: max(1, 0.04) = 1, halved. Return 1: max(0, 0.64), halved.
    zero, one = mx.zeros((1, 1)), mx.ones((1, 1))
    loss, fraction = losses.value_loss(mx, one, zero, zero, one, 1.0, 0.2)
    assert loss.item() == pytest.approx(0.5)
    assert fraction.item() == 0.0
    loss, fraction = losses.value_loss(mx, one, zero, one, one, 1.0, 0.2)
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert fraction.item() == 1.0


def test_preference_losses_by_hand():
    chosen, rejected = mx.array([2.0, 0.0]), mx.array([0.0, 0.5])
    assert losses.margin_ranking(mx, chosen, rejected, 1.0).item() == pytest.approx(0.75)  # (0 + 1.5) / 2
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert losses.bradley_terry(mx, chosen, rejected).item() == pytest.approx(expected, rel=1e-6)
    weights = mx.array([1.5, 0.5])  # (1.5 * 0 + 0.5 * 1.5) / 2
    assert losses.margin_ranking(mx, chosen, rejected, 1.0, weights).item() == pytest.approx(0.375)


def test_rollout_arrangement():
    batch = rollout.arrange([[5, 6], [7]], [[8, 1], [9]], pad_id=0)
    start = int(batch["start"])
    assert start == 32 and batch["tokens"].shape == (2, 64)
    assert batch["tokens"][0, 30:34].tolist() == [5, 6, 8, 1]
    assert batch["segments"][1, 30:34].tolist() == [0, 1, 1, 0]
    assert batch["mask"].sum(axis=1).tolist() == [2, 1]
    assert rollout.ends([[8, 1], [9]], [1]).tolist() == [True, False]


def test_micro_batches_hold_every_row_once_without_empty_columns():
    batch = rollout.arrange([[5], [5], [5] * 33, [5]], [[8] * 70, [8], [8] * 40, [8] * 3], pad_id=0)
    assert int(batch["start"]) == 64
    batch["old_logp"] = np.arange(4 * 96, dtype=np.float32).reshape(4, 96)
    parts = rollout.by_length(batch, np.arange(4), 2)
    assert [p.tolist() for p in parts] == [[1, 3], [0, 2]], "the long prompt last, else by response"
    short = rollout.cut(batch, parts[0])
    assert short["tokens"].shape == (2, 64) and short["mask"].shape == short["old_logp"].shape == (2, 32)
    assert short["tokens"][1, 31:35].tolist() == [5, 8, 8, 8]
    assert short["segments"][1, 30:36].tolist() == [0, 1, 1, 1, 1, 0]
    assert short["old_logp"][1, 0] == 3 * 96 and int(short["start"]) == 32
    whole = rollout.cut(batch, parts[1])
    assert whole["mask"].shape == (2, 96) and int(whole["start"]) == 64 and int(batch["start"]) == 64
    assert [p.tolist() for p in rollout.by_length(batch, np.array([3, 1]), 8)] == [[1, 3]], "rows by number"


def test_one_long_prompt_does_not_pad_the_others():
    batch = rollout.arrange([[5]] * 7 + [[5] * 200], [[8]] * 8, pad_id=0)
    assert [p.tolist() for p in rollout.by_length(batch, np.arange(8), 8)] == [list(range(7)), [7]]
    lengths = [50, 700, 64, 9, 120, 130, 2000, 60]
    groups = [[lengths[i] for i in part] for part in rollout.of_similar_length(lengths, 64)]
    assert groups == [[50, 64, 9, 60], [120, 130], [700], [2000]]
    assert [p.tolist() for p in rollout.of_similar_length([5, 3, 4], 2)] == [[1, 2], [0]]


def test_long_pairs_go_in_fewer_at_once():
    lengths = [30, 50, 390, 40, 35]
    # Up to 32 tokens a pair takes 64 of the forward, up to 64 it takes 128; the long one goes alone.
    parts = rollout.by_tokens(lengths, 256, 8)
    assert [p.tolist() for p in parts] == [[0, 4], [3, 1], [2]]
    assert [p.tolist() for p in rollout.by_tokens(lengths, 10_000, 8)] == [[0, 4, 3, 1, 2]]
    assert [p.tolist() for p in rollout.by_tokens(lengths, 10_000, 2)] == [[0, 4], [3, 1], [2]]
