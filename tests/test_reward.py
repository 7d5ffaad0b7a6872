"""The reward head: cached features, learning, accuracy per criterion."""

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig, RewardConfig
from mlxrlhf.stages.reward import EncodedPair, Normaliser, accuracy, by_criterion, features, train_head

mlx = backends.load("mlx")
TOY = ModelConfig(50, 32, 2, 2, 1, 64, head_dim=16)


def sequences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 50, rng.integers(3, 70)).tolist() for _ in range(count)]


def test_features_are_the_mean_over_the_answer_whatever_the_padding():
    base, items = mlx.Model(TOY, seed=0), sequences(40)
    starts = [1 + len(item) // 3 for item in items]
    batched = features(base, items, starts, pad_id=0, batch_size=16)
    for i in (0, 17, 39):
        np.testing.assert_allclose(batched[i], features(base, [items[i]], [starts[i]], pad_id=0)[0], atol=1e-5)
    # By hand: the mean of the states from the start on; "hidden" holds the state to the left of each column.
    tokens = np.array([[*items[0], 0]], np.int32)
    states = base.evaluate({"tokens": tokens, "start": np.int32(1)}, ("hidden",))["hidden"][0]
    np.testing.assert_allclose(batched[0], states[starts[0]:].mean(axis=0), atol=1e-5)
    changed = features(base, [items[0][:-1] + [(items[0][-1] - 1) % 48 + 2]], starts[:1], pad_id=0)[0]
    assert np.abs(changed - batched[0]).max() > 1e-2


@pytest.mark.parametrize("loss", ["margin", "bradley-terry"])
def test_the_head_learns_a_preference_it_has_not_seen(loss):
    base = mlx.Model(TOY, seed=0)
    before = base.state()
    # The preferred answer ends in token 7, the other in token 8; the rest is noise.
    items = sequences(400)
    chosen = features(base, [s + [7] for s in items], list(map(len, items)), pad_id=0)
    rejected = features(base, [s + [8] for s in items], list(map(len, items)), pad_id=0)
    head = mlx.Head(TOY.hidden_size, seed=0)
    rows = []
    train_head(head, chosen[:300], rejected[:300], RewardConfig(loss=loss, num_epochs=15),
               on_step=lambda step, metrics: rows.append(metrics))
    assert rows[0]["grad_norm"] > 1e-3
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert accuracy(head, chosen[300:], rejected[300:]).mean() > 0.95
    assert all(np.array_equal(before[k], v) for k, v in base.state().items()), "the base is frozen"


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("loss", ["margin", "bradley-terry"])
def test_the_heavier_of_two_contradicting_pairs_wins(backend, loss):
    one, other = np.random.default_rng(0).normal(size=(2, 1, 32)).astype(np.float32)
    chosen, rejected = np.concatenate([one, other]), np.concatenate([other, one])
    for weights in ([0.9, 0.3], [0.3, 0.9]):
        head = backends.load(backend).Head(32, seed=0)
        train_head(head, chosen, rejected, RewardConfig(loss=loss, num_epochs=30), weights=np.float32(weights))
        expected = [1, 0] if weights[0] > weights[1] else [0, 1]
        np.testing.assert_array_equal(accuracy(head, chosen, rejected), expected)


def test_accuracy_by_criterion_counts_ties_as_half():
    pairs = [EncodedPair([], [], c) for c in ("style", "style", "correctness")]
    assert by_criterion(np.array([1.0, 0.5, 0.0]), pairs) == {"correctness": 0.0, "style": 0.75}


def test_normalised_scores_have_mean_zero_and_deviation_one():
    normalise = Normaliser.fit(np.array([1.0, 3.0]))  # mean 2, deviation 1
    np.testing.assert_allclose(normalise(np.array([1.0, 2.0, 5.0])), [-1, 0, 3])
