"""The reward head: cached features, learning, accuracy per criterion."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.algorithms import losses
from mlxrlhf.config import ModelConfig, RewardConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.models.identity import trunk_digest
from mlxrlhf.preferences.encoded import EncodedPair, _that_fit, by_criterion, encode_pair
from mlxrlhf.preferences.pairs import Pair
from mlxrlhf.rewards.head import accuracy, features, train_head, unfreeze
from mlxrlhf.rewards.model import Normaliser, RewardModel

mlx = backends.load("mlx")
TOY = ModelConfig(50, 32, 2, 2, 1, 64, head_dim=16)
LETTERS = SimpleNamespace(fingerprint="letters", folder="letters", pad_id=0)


def sequences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 50, rng.integers(3, 70)).tolist() for _ in range(count)]


def test_features_are_the_mean_over_the_answer_whatever_the_padding():
    base, items = mlx.Model(TOY, seed=0), sequences(40)
    starts = [1 + len(item) // 3 for item in items]
    batched = features(base, items, starts, pad_id=0, batch_size=16)
    for i in (0, 17, 39):
        np.testing.assert_allclose(batched[i], features(base, [items[i]], [starts[i]], pad_id=0)[0], atol=1e-5)
    twice = features(base, items[:3] + items[:3][::-1], starts[:3] + [starts[2], starts[1], 1], pad_id=0)
    np.testing.assert_array_equal(twice[2], twice[3])  # equal sequences are read once,
    assert np.abs(twice[0] - twice[5]).max() > 1e-3  # unless their answers begin elsewhere
    # By hand: the mean of the states from the start on; "hidden" holds the state to the left of each column.
    tokens = np.array([[*items[0], 0]], np.int32)
    states = base.evaluate({"tokens": tokens, "start": np.int32(1)}, ("hidden",))["hidden"][0]
    np.testing.assert_allclose(batched[0], states[starts[0] :].mean(axis=0), atol=1e-5)
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
    train_head(
        head,
        chosen[:300],
        rejected[:300],
        RewardConfig(loss=loss, num_epochs=15),
        on_step=lambda step, metrics: rows.append(metrics),
    )
    assert rows[0]["grad_norm"] > 1e-3
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert accuracy(head, chosen[300:], rejected[300:]).mean() > 0.95
    assert all(np.array_equal(before[k], v) for k, v in base.state().items()), "the base is frozen"


def test_the_pair_objective_by_hand():
    import mlx.core as mx

    # Differences 2 - 1 = 1 and 0 - 2 = -2 of four pairs in all; margin 1.5 falls short by 0.5 and 3.5.
    out, batch = {"score": mx.array([2.0, 1.0, 0.0, 2.0])}, {"total": mx.array(4.0), "weight": mx.array([1.0, 1.0])}
    value, metrics = losses.pair_objective("margin", 1.5)(mx, out, batch)
    assert float(value) == pytest.approx((0.5 + 3.5) / 4)
    assert float(metrics["accuracy"]) == 0.25 and float(metrics["margin"]) == pytest.approx(-0.25)
    value, _ = losses.pair_objective("bradley-terry", 0.0)(mx, out, batch)
    assert float(value) == pytest.approx((np.log(1 + np.exp(-1)) + np.log(1 + np.exp(2))) / 4)
    value, _ = losses.pair_objective("margin", 1.5)(mx, out, {**batch, "weight": mx.array([0.5, 1.5])})
    assert float(value) == pytest.approx((0.5 * 0.5 + 1.5 * 3.5) / 4)


def order_pairs(count):
    """The preferred answer has a 7 before an 8, the other has them the other way round."""
    return [EncodedPair([*s, 7, 9, 8, 9], [*s, 8, 9, 7, 9], "order", len(s)) for s in sequences(count)]


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_an_unfrozen_base_learns_and_its_trunk_stays_as_it_was(name):
    library, pairs = backends.load(name), order_pairs(240)
    model = library.Model(TOY, seed=0, lora_rank=8, value_head=True)
    frozen = features(model, [p.chosen for p in pairs[200:]], [p.start for p in pairs[200:]], 0)
    head = library.Head(TOY.hidden_size, seed=0)
    weights = {k.replace("weights/", "weights/value_head."): v for k, v in head.state().items() if "weights/" in k}
    model.load_state({**model.state(), **weights})
    rows = []
    config = RewardConfig(unfreeze_epochs=6, unfreeze_learning_rate=1e-2, unfreeze_batch_size=20)
    unfreeze(model, pairs[:200], config, 0, on_step=lambda step, metrics: rows.append(metrics))
    assert rows[0]["grad_norm"] > 1e-3 and rows[-1]["accuracy"] > 0.9
    again = features(model, [p.chosen for p in pairs[200:]], [p.start for p in pairs[200:]], 0)
    np.testing.assert_array_equal(frozen, again, "the base without its adapters is as it was")
    changed = features(model, [p.chosen for p in pairs[200:]], [p.start for p in pairs[200:]], 0, adapters=True)
    assert np.abs(changed - frozen).max() > 1e-2


def test_both_backends_take_the_same_unfrozen_step(tmp_path):
    torch = backends.load("torch")
    first = mlx.Model(TOY, seed=0, lora_rank=4, value_head=True)
    first.save(tmp_path, pad_id=0, end_id=1)
    second = torch.Model(TOY, folder=tmp_path, lora_rank=4, value_head=True)
    head = {
        f"weights/value_head.{k.removeprefix('weights/')}": v
        for k, v in mlx.Head(32, seed=1).state().items()
        if k.startswith("weights/")
    }
    weights = {k: v for k, v in first.state().items() if k.startswith("weights/")} | head
    steps = []
    for model in (first, second):
        model.load_state({**model.state(), **weights})
        rows = []
        unfreeze(
            model,
            order_pairs(12),
            RewardConfig(unfreeze_batch_size=6, micro_batch_size=4),
            0,
            on_step=lambda step, metrics, rows=rows: rows.append(metrics),
        )
        steps.append(rows)
        assert len(rows) == 2
    for ours, other in zip(*steps):
        assert ours["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert ours["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def reward_model(folder, base, head, **changes):
    """A reward model's folder: `head` on the hidden states of the checkpoint `base`."""
    folder.mkdir(exist_ok=True)
    checkpoint.save_arrays(folder / "head.safetensors", head.state())
    description = {
        "base": str(base),
        "base_digest": trunk_digest(base),
        "hidden_size": TOY.hidden_size,
        "normaliser": {"mean": 0.4, "std": 0.05},
        "tokenizer": LETTERS.fingerprint,
        "lora_rank": 0,
    }
    (folder / "reward.json").write_text(json.dumps({**description, **changes}))
    return RewardModel.open(folder, LETTERS)


@pytest.fixture
def trunks(tmp_path):
    """A checkpoint, and the same language model with its hidden units in another order."""
    model = mlx.Model(TOY, seed=0)
    for name in ("base", "other"):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name, pad_id=0, end_id=1)
        state = model.state()
        order = np.random.default_rng(0).permutation(TOY.hidden_size)
        model.load_state({key: permuted(key, array, order) for key, array in state.items()})
    return tmp_path / "base", tmp_path / "other"


def permuted(name, array, order):
    """A weight where the hidden units stand in another order: the language model computes the same."""
    if "norm" in name:
        return array[order]
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return array[order]
    return array[:, order] if array.ndim == 2 else array


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_a_value_head_starts_as_the_score_of_the_answer_so_far(tmp_path, trunks, name):
    library, start = backends.load(name), 4
    head = library.Head(TOY.hidden_size, seed=3)
    found = reward_model(tmp_path / "reward", trunks[0], head)
    value_start = found.critic_start(trunks[0], 1.5)
    model = library.Model(TOY, folder=trunks[0], seed=0, value_head=True, value_start=value_start)
    batch = {"tokens": np.random.default_rng(1).integers(0, 50, (3, 12), dtype=np.int32), "start": np.int32(start)}
    out = model.evaluate(batch, ("value", "hidden"))
    # By hand: each value is the head on the mean state of the tokens before it, from the answer's first on.
    for seen in range(1, 12 - start):
        mean = out["hidden"][:, 1 : seen + 1].mean(axis=1)
        np.testing.assert_allclose(out["value"][:, seen], 1.5 * (head.scores(mean) - 0.4) / 0.05, atol=1e-3)
    np.testing.assert_allclose(out["value"][:, 0], 1.5 * (head.scores(out["hidden"][:, 0]) - 0.4) / 0.05, atol=1e-3)
    # As the reward model sees a whole answer of seven tokens.
    whole = model.evaluate({**batch, "mask": np.tile(np.arange(8) < 7, (3, 1)).astype(np.float32)}, ("features",))
    np.testing.assert_allclose(out["value"][:, 7], 1.5 * (head.scores(whole["features"]) - 0.4) / 0.05, atol=1e-3)
    assert out["value"].std() > 0.1, "a constant would pass for anything"
    assert found.critic_start(trunks[1]) is None, "that head knows another trunk's states"
    adapted = reward_model(tmp_path / "reward", trunks[0], head, lora_rank=8)
    assert adapted.critic_start(trunks[0]) is None, "its adapters change the states"


def test_a_reward_model_scores_the_states_of_its_own_base_whatever_the_policy_is(tmp_path, trunks, capsys):
    base, other = trunks
    head = mlx.Head(TOY.hidden_size, seed=3)
    found = reward_model(tmp_path / "reward", base, head)
    prompts, responses = [[2, 3, 4], [5, 6]], [[7, 8, 1], [9, 1]]
    own = mlx.Model(TOY, folder=base)
    sequences = [[*p, *r] for p, r in zip(prompts, responses)]
    right = features(own, sequences, list(map(len, prompts)), 0)
    wrong = features(mlx.Model(TOY, folder=other), sequences, list(map(len, prompts)), 0)
    expected = (head.scores(right) - 0.4) / 0.05
    np.testing.assert_allclose(found.scorer(mlx, LETTERS, base)(prompts, responses, right), expected, rtol=1e-5)
    assert not capsys.readouterr().out
    scores = found.scorer(mlx, LETTERS, other)(prompts, responses, wrong)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert np.abs((head.scores(wrong) - head.scores(right)) / 0.05).max() > 1, "the states differ, so the check matters"
    assert f"runs its own base {base}" in capsys.readouterr().out


def test_a_base_that_has_changed_or_gone_is_named(tmp_path, trunks):
    base, other = trunks
    found = reward_model(tmp_path / "reward", base, mlx.Head(TOY.hidden_size, seed=3))
    mlx.Model(TOY, seed=5).save(base, pad_id=0, end_id=1)  # trained again
    with pytest.raises(UserError, match=f"hidden states of {base} as it was .* those of {other} are too"):
        found.scorer(mlx, LETTERS, other)
    with pytest.raises(UserError, match="as it was"):
        found.scorer(mlx, LETTERS, base)
    (base / "config.json").unlink()
    with pytest.raises(UserError, match="which is not there"):
        found.scorer(mlx, LETTERS, other)


class EveryLetter:
    """A tokenizer of ours with a token for every letter."""

    end_id = 0

    def special(self, name):
        return 1

    def encode(self, text):
        return [ord(letter) for letter in text]


def test_pairs_beyond_the_longest_length_are_left_out_aloud(capsys):
    tokenizer = EveryLetter()
    pairs = [Pair("p", "a" * n, "b", place=f"pairs.jsonl:{n}") for n in (1, 3, 8)]
    encoded = [encode_pair(pair, tokenizer) for pair in pairs]
    lengths = [pair.longest for pair in encoded]
    assert _that_fit(pairs, tokenizer, lengths[1]) == encoded[:2]
    said = f"left out 1 of 3 pairs, longer than {lengths[1]} tokens (the first: pairs.jsonl:8)"
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=f"the shortest {lengths[0]};"):
        _that_fit(pairs, tokenizer, lengths[0] - 1)


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
