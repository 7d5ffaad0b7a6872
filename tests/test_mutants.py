"""Proof that the contract can fail: each mutant is a mistake people really make, and a named test must find it."""

import numpy as np
import pytest
import test_algorithms
import test_dpo
import test_golden
import test_grpo
import test_parity
import torch
import torch.nn.functional as F

from mlxrlhf.algorithms import advantages, losses
from mlxrlhf.backends import sampling
from mlxrlhf.backends.torch import generate, lora, network, train

_rotate, _statistics, _pick = network.rotate, network.token_statistics, generate.pick
_policy, _value, _gae, _whiten, _kl = (
    losses.policy_loss,
    losses.value_loss,
    advantages.gae,
    advantages.whiten,
    advantages.kl_estimate,
)
_group, _dpo = advantages.group_advantages, losses.dpo


def interleaved(x, cos, sin):
    """RoPE on neighbouring pairs instead of halves."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def no_eps(self, x):
    return F.rms_norm(x, self.weight.shape, eps=1e-2) * self.weight


def crossing(segments):
    """Documents of a packed row see each other."""
    length = segments.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None].expand(len(segments), 1, -1, -1)


def no_temperature(hidden, weight, targets, temperature, **settings):
    return _statistics(hidden, weight, targets, 1.0, **settings)


def not_detached(self, batch, want, temperature, reference_weight=None):
    out = _forward(self, batch, want, temperature, reference_weight)
    if "value" in want:
        hidden = self.trunk(batch["tokens"], batch.get("segments"))
        out["value"] = self.value_head(network.running_mean(hidden[:, batch["start"] - 1 : -1]))
    return out


def one_late(self, batch, want, temperature, reference_weight=None):
    """Log-probabilities of the token after the one that was sampled."""
    out = _forward(self, batch, want, temperature, reference_weight)
    return {k: v.roll(1, dims=1) if k == "logp" else v for k, v in out.items()}


_forward = network.Network.forward


def no_bias_correction(self, gradients, learning_rate):
    _adam_step(self, gradients, learning_rate * 0.316)  # about what leaving it out does to the first steps


_adam_step = train.AdamW.step
PARITY = lambda name, *arguments: lambda: getattr(test_parity, name)(*arguments)  # noqa: E731

#: what is broken, where, the replacement, the test that must notice
MUTANTS = {
    "rope on neighbouring pairs": (network, "rotate", interleaved, PARITY("test_forward", "tied")),
    "norm with another epsilon": (network.RMSNorm, "forward", no_eps, PARITY("test_forward", "tied")),
    "packed documents see each other": (
        network,
        "segment_mask",
        crossing,
        PARITY("test_padding_packing_and_checkpointing_change_nothing_in_torch"),
    ),
    "temperature left out": (network, "token_statistics", no_temperature, PARITY("test_forward", "tied")),
    "value head pulls at the trunk": (network.Network, "forward", not_detached, PARITY("test_ppo_objective", 0, False)),
    "log-probs off by one token": (network.Network, "forward", one_late, PARITY("test_language_modelling", "tied")),
    "optimizer steps too small": (
        train.AdamW,
        "step",
        no_bias_correction,
        PARITY("test_adamw_over_ten_steps_with_warmup_clipping_and_accumulation"),
    ),
    "weight decay on norms": (
        train,
        "_group",
        lambda name, p: "head" if "value_head" in name else "decay",
        PARITY("test_adamw_over_ten_steps_with_warmup_clipping_and_accumulation"),
    ),
    "sampling from the other tail": (
        generate,
        "pick",
        lambda logits, t, u: _pick(logits, t, None if u is None else 1 - u),
        PARITY("test_generation"),
    ),
    "numbers that round up to one": (
        sampling,
        "draws",
        lambda uniforms: uniforms.astype(np.float32),
        PARITY("test_a_number_just_below_one_picks_no_token_without_probability"),
    ),
    "adapters never merged": (
        lora.LoRALinear,
        "merged",
        lambda self: self.linear.weight.float(),
        PARITY("test_adapters_merge_alike"),
    ),
    "ratio upside down": (
        losses,
        "policy_loss",
        lambda xp, logp, old, *rest: _policy(xp, old, logp, *rest),
        lambda: test_golden.test_clipped_losses("torch"),
    ),
    "advantage with the wrong sign": (
        losses,
        "policy_loss",
        lambda xp, logp, old, a, *rest: _policy(xp, logp, old, -a, *rest),
        test_algorithms.test_policy_loss_by_hand,
    ),
    "value loss not clipped": (
        losses,
        "value_loss",
        lambda xp, v, old, r, m, total, clip: _value(xp, v, old, r, m, total, 1e6),
        lambda: test_golden.test_clipped_losses("torch"),
    ),
    "lambda left out of GAE": (
        advantages,
        "gae",
        lambda r, v, m, gamma, lam: _gae(r, v, m, gamma, 1.0),
        lambda: test_golden.test_rewards_and_advantages("k1"),
    ),
    "reward whitening removes the mean": (
        advantages,
        "whiten",
        lambda x, m, shift_mean: _whiten(x, m, shift_mean=True),
        test_golden.test_whitening,
    ),
    "advantage of the whole batch": (
        advantages,
        "group_advantages",
        lambda scores, size, scale=True: _group(scores, len(scores), scale=scale),
        test_grpo.test_group_advantages_by_hand,
    ),
    "chosen and rejected swapped": (
        losses,
        "dpo",
        lambda xp, chosen, rejected, *rest: _dpo(xp, rejected, chosen, *rest),
        test_dpo.test_loss_by_hand,
    ),
    "KL with the wrong sign": (
        advantages,
        "kl_estimate",
        lambda p, q, kind="k1": _kl(q, p, kind),
        lambda: test_golden.test_rewards_and_advantages("k1"),
    ),
    "mask inverted": (
        losses,
        "masked_mean",
        lambda x, mask, total: (x * (1 - mask)).sum() / total,
        lambda: test_golden.test_clipped_losses("torch"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_contract_finds(monkeypatch, name):
    owner, attribute, replacement, notice = MUTANTS[name]
    assert getattr(owner, attribute) is not replacement
    monkeypatch.setattr(owner, attribute, replacement)
    if attribute == "token_statistics":
        monkeypatch.setattr(network, "token_statistics", replacement)
    with pytest.raises((AssertionError, RuntimeError)):
        notice()


def test_every_named_test_passes_without_a_mutant():
    for _, _, _, notice in MUTANTS.values():
        notice()
    assert np.isfinite(list(test_parity.SEEN.values())).all()
