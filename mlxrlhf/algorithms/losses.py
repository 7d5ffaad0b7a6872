"""Objectives, written once for both array libraries.

Every function takes the array module as `xp` (`mlx.core` or `torch`) and stays inside the names both spell alike:
abs exp minimum maximum clip where square sum mean logsumexp logaddexp. Masks count 1 and ignore 0.

Sums are divided by `total`, the number of counted tokens of the *whole* batch, so that splitting a batch into
micro-batches and adding their gradients changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any


def masked_mean(x: Array, mask: Array, total: Array) -> Array:
    """sum(x * mask) / total; x and mask (B, T), total a scalar."""
    # The last axis first: a naive float32 sum over a whole large array loses digits.
    return (x * mask).sum(axis=-1).sum() / total


def language_modelling(xp, out: dict[str, Array], batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Token-weighted cross-entropy, in nats per counted token: -mean(log p(token)).

    out: logp (B, T). batch: mask (B, T), total ().
    """
    loss = -masked_mean(out["logp"], batch["mask"], batch["total"])
    return loss, {"loss": loss}


def weighted_mean(x: Array, weights: Array | None) -> Array:
    """mean(w x): the weights average 1 over the data, not over each batch; None counts all alike. x and w (B,)."""
    return x.mean() if weights is None else (x * weights).mean()


def margin_ranking(xp, chosen: Array, rejected: Array, margin: float, weights: Array | None = None) -> Array:
    """Hinge on the score difference: mean(max(0, m - (r_chosen - r_rejected))); scores and the pairs' weights (B,)."""
    shortfall = margin - (chosen - rejected)
    return weighted_mean(xp.where(shortfall > 0, shortfall, shortfall * 0.0), weights)


def bradley_terry(xp, chosen: Array, rejected: Array, weights: Array | None = None) -> Array:
    """Negative log-likelihood of the preference (Bradley and Terry 1952): mean(log(1 + exp(r_rejected - r_chosen)));
    scores and the pairs' weights (B,)."""
    difference = rejected - chosen
    return weighted_mean(xp.logaddexp(difference * 0.0, difference), weights)


def ranking(xp, loss: str, margin: float, chosen: Array, rejected: Array, weights: Array | None = None) -> Array:
    """The reward model's loss by its name: "margin" or "bradley-terry"."""
    if loss == "margin":
        return margin_ranking(xp, chosen, rejected, margin, weights)
    return bradley_terry(xp, chosen, rejected, weights)


def pair_objective(loss: str, margin: float) -> Callable:
    """`ranking` over rows chosen, rejected, chosen, ...

    out: score (2N,). batch: weight (N,) of the pairs; total (), the pairs of the whole batch.
    """

    def objective(xp, out, batch):
        chosen, rejected = out["score"][0::2], out["score"][1::2]
        value = ranking(xp, loss, margin, chosen, rejected, batch["weight"]) * (chosen.shape[0] / batch["total"])
        right = xp.where(chosen > rejected, chosen * 0.0 + 1.0, chosen * 0.0)
        return value, {
            "loss": value,
            "accuracy": right.sum() / batch["total"],
            "margin": (chosen - rejected).sum() / batch["total"],
        }

    return objective


def policy_loss(
    xp, logp: Array, old_logp: Array, advantages: Array, mask: Array, total: Array, clip: float
) -> tuple[Array, Array, Array]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), to be minimised.

    logp, old_logp, advantages, mask (B, T). Returns the loss, the ratio (B, T) and the share of tokens clipped.
    """
    ratio = xp.exp(logp - old_logp)
    unclipped = -advantages * ratio
    clipped = -advantages * xp.clip(ratio, 1.0 - clip, 1.0 + clip)
    loss = masked_mean(xp.maximum(unclipped, clipped), mask, total)
    fraction = masked_mean(xp.where(clipped > unclipped, mask, mask * 0.0), mask, total)
    return loss, ratio, fraction


def value_loss(
    xp, value: Array, old_value: Array, returns: Array, mask: Array, total: Array, clip: float
) -> tuple[Array, Array]:
    """Clipped squared error of the value head, factor 0.5 (Schulman et al. 2017; TRL).

    value, old_value, returns, mask (B, T). Returns the loss and the share of tokens clipped.
    """
    near = xp.minimum(xp.maximum(value, old_value - clip), old_value + clip)
    error, error_near = xp.square(value - returns), xp.square(near - returns)
    loss = 0.5 * masked_mean(xp.maximum(error, error_near), mask, total)
    fraction = masked_mean(xp.where(error_near > error, mask, mask * 0.0), mask, total)
    return loss, fraction


def ppo_objective(*, clip: float, value_clip: float, vf_coef: float, entropy_coef: float, kl_in_loss: bool) -> Callable:
    """The whole PPO objective: policy + vf_coef * value - entropy_coef * entropy (+ beta * KL when `kl_in_loss`).

    out: logp, value, and entropy or kl where used, each (B, T).
    batch: old_logp, old_value, advantages, returns, mask (B, T); total and kl_coef ().
    """

    def objective(xp, out, batch):
        mask, total = batch["mask"], batch["total"]
        policy, metrics = _clipped_policy(xp, out["logp"], batch, batch["advantages"], total, clip)
        value, value_clipped = value_loss(
            xp, out["value"], batch["old_value"], batch["returns"], mask, total, value_clip
        )
        loss = policy + vf_coef * value
        metrics |= {"loss/value_avg": value, "val/clipfrac_avg": value_clipped}
        if entropy_coef:
            loss = loss - entropy_coef * masked_mean(out["entropy"], mask, total)
        if kl_in_loss:
            divergence = masked_mean(out["kl"], mask, total)
            metrics["loss/kl"] = divergence
            loss = loss + batch["kl_coef"] * divergence
        metrics["loss"] = loss
        return loss, metrics

    return objective


def grpo_objective(*, clip: float, entropy_coef: float) -> Callable:
    """GRPO (Shao et al. 2024, eq. 3 and 4): clipped policy loss + beta * KL by the k3 estimate, no value function.

    sum_t w_t * (max(-A_t r_t, -A_t clip(r_t)) + beta * (ref/p - log(ref/p) - 1)), with r = p / p_old.

    out: logp, and entropy where used, (B, T).
    batch: old_logp, ref_logp, advantages, mask (B, T); weight (B, T), which sums to 1 over the whole batch: see
    `advantages.token_weights`; total and kl_coef ().
    """

    def objective(xp, out, batch):
        mask, weight = batch["mask"], batch["weight"]
        policy, metrics = _clipped_policy(xp, out["logp"], batch, batch["advantages"] * weight, 1.0, clip)
        log_ratio = batch["ref_logp"] - out["logp"]
        divergence = masked_mean((xp.exp(log_ratio) - log_ratio - 1.0) * weight, mask, 1.0)
        loss = policy + batch["kl_coef"] * divergence
        if entropy_coef:
            loss = loss - entropy_coef * masked_mean(out["entropy"] * weight, mask, 1.0)
        return loss, {**metrics, "loss/kl": divergence, "loss": loss}

    return objective


def _clipped_policy(
    xp, logp: Array, batch: dict[str, Array], advantages: Array, total: Array | float, clip: float
) -> tuple[Array, dict[str, Array]]:
    """`policy_loss` divided by `total`, and what PPO's and GRPO's steps report, each a mean over tokens."""
    old_logp, mask, tokens = batch["old_logp"], batch["mask"], batch["total"]
    policy, ratio, clipped = policy_loss(xp, logp, old_logp, advantages, mask, total, clip)
    return policy, {
        "loss/policy_avg": policy,
        "policy/clipfrac_avg": clipped * total / tokens,
        "val/ratio": masked_mean(ratio, mask, tokens),
        "val/ratio_error": masked_mean(xp.square(ratio - 1.0), mask, tokens),
        "policy/approxkl_avg": 0.5 * masked_mean(xp.square(logp - old_logp), mask, tokens),
    }


def dpo(xp, chosen: Array, rejected: Array, beta: float, label_smoothing: float = 0.0) -> Array:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), one loss for each pair.

    -(1 - e) log sigmoid(m) - e log sigmoid(-m), with m = beta * (chosen - rejected) and e the share of wrong labels
    (Mitchell 2023). chosen, rejected (B,): log p(answer) - log p_ref(answer), summed over the answer's tokens.
    """
    margin = beta * (chosen - rejected)
    zero = margin * 0.0
    return (1 - label_smoothing) * xp.logaddexp(zero, -margin) + label_smoothing * xp.logaddexp(zero, margin)


def dpo_objective(*, beta: float, label_smoothing: float) -> Callable:
    """Weighted mean of `dpo` over the pairs of a batch, with TRL's metrics.

    out: logp (2B, T), the chosen answers before the rejected ones. batch: mask (2B, T); ref_logp (2B,), sums over each
    answer; weight (B,) of the pairs, 1 on average; total (), the number of pairs of the whole batch.
    """

    def objective(xp, out, batch):
        gain = (out["logp"] * batch["mask"]).sum(axis=-1) - batch["ref_logp"]
        pairs, total = gain.shape[0] // 2, batch["total"]
        chosen, rejected = gain[:pairs], gain[pairs:]
        loss = (dpo(xp, chosen, rejected, beta, label_smoothing) * batch["weight"]).sum() / total
        margin = beta * (chosen - rejected)
        right = xp.where(margin > 0, margin * 0.0 + 1.0, margin * 0.0)
        return loss, {
            "loss": loss,
            "rewards/chosen": beta * chosen.sum() / total,
            "rewards/rejected": beta * rejected.sum() / total,
            "rewards/margins": margin.sum() / total,
            "rewards/accuracies": right.sum() / total,
        }

    return objective
