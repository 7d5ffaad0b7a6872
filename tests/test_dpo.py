"""DPO: the loss by hand and by TRL's formula, and a policy that comes to prefer what the pairs prefer."""

import importlib

import numpy as np
import pytest
from test_ppo import TOY, toy  # noqa: F401  (toy is a fixture)

from mlxrlhf import backends
from mlxrlhf.algorithms import losses
from mlxrlhf.config import DPOConfig
from mlxrlhf.preferences.encoded import EncodedPair, EncodedPairs
from mlxrlhf.stages.dpo import DPO


def pairs(count=48, seed=0):
    """The preferred answer has 7s where the other has 8s; prompts and lengths differ."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        prompt, answer = (rng.integers(9, 24, rng.integers(2, 9)).tolist() for _ in range(2))
        made.append(EncodedPair(*(prompt + answer + [token] * 3 + [1] for token in (7, 8)), "x", len(prompt)))
    return made


def build(folder, backend="mlx", **changes):
    config = DPOConfig(**{**dict(batch_size=8, micro_batch_size=4, lora_rank=0, learning_rate=1e-3), **changes})
    policy = backends.load(backend).Model(TOY, folder=folder, seed=0, lora_rank=config.lora_rank)
    return DPO(config, policy, EncodedPairs(pairs(), [], 0.5), pad_id=0)


def test_loss_by_hand():
    # m = 0.5 * (2 - (-1)) = 1.5: log(1 + exp(-1.5)) = 0.2014; a wrong label costs log(1 + exp(1.5)) = 1.7014.
    one, two = np.array([2.0]), np.array([-1.0])
    assert losses.dpo(np, one, two, 0.5)[0] == pytest.approx(0.201413, abs=1e-6)
    assert losses.dpo(np, one, two, 0.5, 0.1)[0] == pytest.approx(0.9 * 0.201413 + 0.1 * 1.701413, abs=1e-6)
    assert losses.dpo(np, one, one, 0.5)[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("library", ["mlx.core", "torch"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_objective_by_trls_formula(library, smoothing):
    """`dpo_loss` of trl 0.9, sigmoid: -logsigmoid(beta * logits) * (1 - e) - logsigmoid(-beta * logits) * e."""
    import torch
    import torch.nn.functional as F

    backends.load("mlx")
    xp, rng, beta = importlib.import_module(library), np.random.default_rng(0), 0.3
    logp, mask = -rng.random((6, 5)) * 3, (rng.random((6, 5)) < 0.7).astype(float)
    reference = rng.normal(size=6) - 4
    array = xp.array if library == "mlx.core" else xp.tensor
    weight = np.array([0.5, 1.5, 1.0])
    batch = {k: array(np.float32(v)) for k, v in dict(mask=mask, ref_logp=reference, weight=weight, total=3).items()}
    loss, metrics = losses.dpo_objective(beta=beta, label_smoothing=smoothing)(
        xp, {"logp": array(np.float32(logp))}, batch
    )

    policy = torch.tensor((logp * mask).sum(1))
    reference = torch.tensor(reference)
    logits = (policy[:3] - policy[3:]) - (reference[:3] - reference[3:])
    each = -F.logsigmoid(beta * logits) * (1 - smoothing) - F.logsigmoid(-beta * logits) * smoothing
    expected = (each * torch.tensor(weight)).mean()
    chosen, rejected = beta * (policy[:3] - reference[:3]), beta * (policy[3:] - reference[3:])
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    for name, value in (
        ("chosen", chosen.mean()),
        ("rejected", rejected.mean()),
        ("margins", (chosen - rejected).mean()),
        ("accuracies", (chosen > rejected).double().mean()),
    ):
        assert float(metrics[f"rewards/{name}"]) == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"backend": "torch"}, {"lora_rank": 8, "learning_rate": 1e-2}], ids=["full", "torch", "lora"]
)
def test_dpo_learns_what_is_preferred(toy, changes):  # noqa: F811
    dpo = build(toy, **changes)
    train, held_out = np.arange(40), np.arange(40, 48)
    assert np.abs(dpo.margins(held_out)).max() < 1e-4, "the policy is its own reference before the first step"
    rows = [dpo.update(train[i % 5 * 8 :][:8], dpo.config.rate) for i in range(20)]
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and rows[0]["grad_norm"] > 1e-3
    assert rows[-1]["rewards/margins"] > 0.5 and rows[-1]["loss"] < 0.5
    assert (dpo.margins(held_out) > 0).all()


def test_a_pair_of_more_weight_moves_the_policy_more(toy):  # noqa: F811
    """Two pairs that contradict each other: the heavier one wins."""
    one, *_ = pairs(1)
    other = EncodedPair(one.rejected, one.chosen, one.criterion, one.start, 3.0)
    config = DPOConfig(batch_size=2, micro_batch_size=1, lora_rank=0, learning_rate=1e-3)
    dpo = DPO(
        config, backends.load("mlx").Model(TOY, folder=toy, seed=0), EncodedPairs([one, other], [], 0.5), pad_id=0
    )
    for _ in range(5):
        dpo.update(np.arange(2), 1e-3)
    light, heavy = dpo.margins(np.arange(2))
    assert heavy > 0.01 and light == pytest.approx(-heavy, abs=1e-5)


def test_micro_batches_and_their_padding_change_nothing(toy):  # noqa: F811
    whole, parts = (
        [dpo.update(np.arange(8), 1e-3) for _ in range(2)]
        for dpo in (build(toy, micro_batch_size=size) for size in (8, 3))
    )
    for name in ("loss", "rewards/margins", "grad_norm"):
        assert whole[0][name] == pytest.approx(parts[0][name], abs=1e-5)
    # In the first update both policies are the same, and rounding decides which answer is ahead.
    assert whole[1]["rewards/accuracies"] == parts[1]["rewards/accuracies"] > 0


def test_log_probabilities_are_those_of_the_answer_alone(toy):  # noqa: F811
    dpo = build(toy)
    pair = dpo.everything[3]
    logits = dpo.policy.logits(np.array([pair.chosen], np.int32))[0].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = sum(logp[t - 1, pair.chosen[t]] for t in range(pair.start, len(pair.chosen)))
    assert dpo.reference[0, 3] == pytest.approx(expected, abs=1e-4)
