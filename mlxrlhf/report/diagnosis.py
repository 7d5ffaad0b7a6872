"""What a run's metrics say in words: what moved, what did not, and which setting to try.

Rows of metrics.jsonl in, findings out; nothing else is looked at. A change counts as one when the mean of the last
quarter of the run (3 to 10 rows) differs from that of the first by more than twice its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: fewer rows than this say nothing about a trend
SHORTEST = 6


@dataclass(frozen=True)
class Finding:
    """severity: note or warning. remedy: what to try, empty where nothing is wrong."""

    severity: str
    sentence: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.sentence}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Trend:
    """The mean of a metric over the first and the last rows, and the standard error of their difference."""

    first: float
    last: float
    error: float

    @property
    def change(self) -> float:
        return self.last - self.first

    def moved(self, least: float = 0.0) -> int:
        """1 or -1 where the metric rose or fell by more than its noise and than `least`, else 0."""
        return int(np.sign(self.change)) if abs(self.change) > max(2 * self.error, least, 1e-12) else 0


def trend(rows: Sequence[dict], key: str) -> Trend | None:
    """First against last quarter of a metric; None where too few rows have it."""
    values = _values(rows, key)
    if len(values) < SHORTEST:
        return None
    size = min(10, max(3, len(values) // 4))
    first, last = values[:size], values[-size:]
    error = math.sqrt((np.var(first, ddof=1) + np.var(last, ddof=1)) / size)
    return Trend(float(np.mean(first)), float(np.mean(last)), error)


def _values(rows: Sequence[dict], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _mean(rows: Sequence[dict], key: str) -> float | None:
    """Mean over the second half of the run."""
    values = _values(rows[len(rows) // 2 :], key)
    return float(np.mean(values)) if values else None


def rollouts(rows: Sequence[dict], *, reward_accuracy: float | None = None) -> list[Finding]:
    """Findings about a PPO or GRPO run.

    reward_accuracy: the reward model's own share of held-out pairs right, where it was optimised.
    """
    findings = _reward_model(reward_accuracy)
    score = trend(rows, "objective/scores")
    if score is None:
        return [*findings, _too_short(rows), *_optimizer(rows)]
    rate, clipped = max(_values(rows, "lr"), default=0.0), _mean(rows, "policy/clipfrac_avg")
    direction = score.moved()
    said = f"the score went from {score.first:.2f} to {score.last:.2f} (noise {2 * score.error:.2f})"
    if direction > 0:
        findings.append(Finding("note", said))
    elif direction < 0:
        findings.append(
            Finding("warning", f"{said}: it fell", f"lower --learning-rate from {rate:.2g} or raise --batch-size")
        )
    else:
        findings.append(
            Finding(
                "warning",
                f"{said}: it is flat within its noise",
                "train for more updates, raise "
                "--batch-size or --responses-per-prompt, or optimise something finer, such as "
                "--reward model:1,tests:1",
            )
        )
    if clipped is not None and clipped > 0.4:
        findings.append(
            Finding(
                "warning",
                f"{clipped:.0%} of tokens met the clip: steps are too large (2 to 25% is healthy)",
                f"lower --learning-rate from {rate:.2g} to about {rate / 3:.1g}",
            )
        )
    elif clipped is not None and clipped < 0.005 and direction <= 0:
        findings.append(
            Finding(
                "warning",
                f"{clipped:.1%} of tokens met the clip: the policy hardly moves",
                f"raise --learning-rate from {rate:.2g} to about {rate * 3:.1g}",
            )
        )
    findings += _against_the_score(rows, direction)
    findings += _divergence(rows) + _entropy(rows) + _lengths(rows) + _critic(rows) + _groups(rows) + _optimizer(rows)
    return findings


def language_model(rows: Sequence[dict]) -> list[Finding]:
    """Findings about pretraining or fine-tuning: the validation loss, and whether it rises while training goes on."""
    losses = _values(rows, "val_loss")
    if not losses:
        return _optimizer(rows)
    if len(losses) == 1:
        return [Finding("note", f"the validation loss is {losses[0]:.3f} nats a token"), *_optimizer(rows)]
    best, last = min(losses), losses[-1]
    said = f"the validation loss went from {losses[0]:.3f} to {last:.3f} nats a token"
    if last > 1.02 * best:
        remedy = "take the checkpoint in best/, train for fewer steps or add data"
        finding = Finding(
            "warning", f"{said}; its best was {best:.3f}: it now learns its training data by heart", remedy
        )
    elif last >= losses[0]:
        remedy = "change --learning-rate, or check that the data holds what it should learn"
        finding = Finding("warning", f"{said}: it did not fall", remedy)
    else:
        finding = Finding("note", said)
    return [finding, *_optimizer(rows)]


def preference_pairs(rows: Sequence[dict]) -> list[Finding]:
    """Findings about a DPO run."""
    margin, right = trend(rows, "rewards/margins"), trend(rows, "rewards/accuracies")
    if margin is None or right is None:
        return [_too_short(rows), *_optimizer(rows)]
    findings, rate = [], max(_values(rows, "lr"), default=0.0)
    said = f"the margin between chosen and rejected went from {margin.first:.3f} to {margin.last:.3f}"
    if margin.moved() > 0:
        findings.append(Finding("note", f"{said}; {right.last:.0%} of training pairs are right"))
    else:
        findings.append(
            Finding(
                "warning",
                f"{said}: it did not rise",
                f"raise --learning-rate from {rate:.2g} to about {rate * 3:.1g}, or --num-epochs",
            )
        )
    held_out = _values(rows, "val_accuracy")
    if held_out:
        if held_out[-1] < 0.55:
            findings.append(
                Finding(
                    "warning",
                    f"{held_out[-1]:.0%} of held-out pairs are right: chance is 50%",
                    "train longer or on more pairs, and check that the labels of --data agree",
                )
            )
        elif right.last - held_out[-1] > 0.2:
            findings.append(
                Finding(
                    "warning",
                    f"{right.last:.0%} of training pairs are right but {held_out[-1]:.0%} of "
                    "held-out pairs: it memorises",
                    "lower --num-epochs, raise --beta or add pairs",
                )
            )
        else:
            findings.append(Finding("note", f"{held_out[-1]:.0%} of held-out pairs are right"))
    chosen = trend(rows, "rewards/chosen")
    if chosen and chosen.moved() < 0 and chosen.last < -1:
        findings.append(
            Finding(
                "warning",
                f"the chosen answers became less likely too (rewards/chosen "
                f"{chosen.last:.2f}): probability leaves both sides of the pairs",
                "raise --beta, lower --learning-rate or set --label-smoothing 0.1",
            )
        )
    return findings + _optimizer(rows)


# --- one cause each ------------------------------------------------------------------------------------------------


def _too_short(rows: Sequence[dict]) -> Finding:
    return Finding(
        "note", f"{len(rows)} steps are too few to tell a trend from noise", f"run at least {SHORTEST}, better 40"
    )


def _reward_model(accuracy: float | None) -> list[Finding]:
    if accuracy is None or accuracy >= 0.55:
        return []
    return [
        Finding(
            "warning",
            f"the reward model is right on {accuracy:.0%} of held-out pairs: chance is 50%, so its score means little",
            "train it on more pairs (mlxrlhf reward), or take --reward tests",
        )
    ]


def _against_the_score(rows: Sequence[dict], direction: int) -> list[Finding]:
    """The pass rate and every component, told; and hacking, where one falls while the score rises."""
    findings = []
    keys = sorted({k for row in rows for k in row if k.startswith("objective/reward/")})
    for key in ["objective/pass_rate", *(keys if len(keys) > 1 else [])]:
        part = trend(rows, key)
        if part is None:
            continue
        name = (
            "the share of answers that pass their tests"
            if key == "objective/pass_rate"
            else f"the part {key.removeprefix('objective/reward/')}"
        )
        moved = part.moved(0.01)
        said = f"{name} went from {part.first:.2f} to {part.last:.2f}"
        if moved < 0 < direction:
            findings.append(
                Finding(
                    "warning",
                    f"{said} while the score rose: the reward is being gamed",
                    "raise --kl-coef, stop earlier, or pay for it: --reward model:1,tests:2",
                )
            )
        elif moved < 0 and key == "objective/pass_rate":
            findings.append(
                Finding(
                    "warning", f"{said}: the policy unlearns what it knew", "lower --learning-rate or raise --kl-coef"
                )
            )
        else:
            findings.append(Finding("note", said + ("" if moved else ": within its noise")))
    return findings


def _divergence(rows: Sequence[dict]) -> list[Finding]:
    kl = trend(rows, "objective/kl")
    if kl is None:
        return []
    beta = (_values(rows, "kl_coef") or [0.0])[-1]
    if kl.last < -max(0.1, 2 * kl.error):
        return [
            Finding(
                "warning",
                f"the KL estimate is {kl.last:.2f} nats an answer: it cannot be negative on "
                "average, so rollouts are not drawn from the policy that is scored",
                "check --temp and the precision (--dtype float32)",
            )
        ]
    if kl.last > 30 or (kl.last > 10 and kl.last > 2 * max(_values(rows, "objective/kl")[: len(rows) // 2])):
        return [
            Finding(
                "warning",
                f"KL reached {kl.last:.1f} nats an answer: the policy runs away from its reference",
                f"raise --kl-coef from {beta:.2g}, set --kl-target 6, or lower --learning-rate",
            )
        ]
    return [Finding("note", f"the policy is {max(kl.last, 0):.1f} nats an answer away from its reference")]


def _entropy(rows: Sequence[dict]) -> list[Finding]:
    entropy = trend(rows, "objective/entropy")
    if entropy is None:
        return []
    if entropy.last < 0.02 or (entropy.last < 0.25 * entropy.first and entropy.moved() < 0):
        return [
            Finding(
                "warning",
                f"entropy fell from {entropy.first:.2f} to {entropy.last:.2f} nats a token: answers "
                "become all the same",
                "set --entropy-coef 0.01, raise --kl-coef or lower --learning-rate",
            )
        ]
    return []


def _lengths(rows: Sequence[dict]) -> list[Finding]:
    length, cut = trend(rows, "response/length"), trend(rows, "response/truncated")
    findings: list[Finding] = []
    if length is None or cut is None:
        return findings
    if cut.last > 0.3:
        share = "every answer is" if cut.last > 0.99 else f"{cut.last:.0%} of answers are"
        findings.append(
            Finding(
                "warning",
                f"{share} cut off at --max-tokens",
                "raise --max-tokens, or --missing-end-penalty so that it pays to end",
            )
        )
    if length.last > 1.5 * length.first and length.moved() > 0:
        findings.append(
            Finding(
                "warning",
                f"answers grew from {length.first:.0f} to {length.last:.0f} tokens: length may be what is paid for",
                "read some, and compare the reward model with its length baseline (mlxrlhf reward)",
            )
        )
    return findings


def _critic(rows: Sequence[dict]) -> list[Finding]:
    explained = trend(rows, "value/explained_variance")
    if explained is None or explained.last + explained.error >= 0:
        return []
    return [
        Finding(
            "warning",
            f"the value head explains {explained.last:.2f} of the variance of returns: below 0 it "
            "is worse than no baseline",
            "change --value-learning-rate, or use mlxrlhf grpo, which has none",
        )
    ]


def _groups(rows: Sequence[dict]) -> list[Finding]:
    tied = _mean(rows, "frac_reward_zero_std")
    if tied is None or tied <= 0.5:
        return []
    return [
        Finding(
            "warning",
            f"in {tied:.0%} of groups all responses score alike: they teach nothing",
            "raise --responses-per-prompt or --temp, or pay for something finer, such as --reward tests,lint",
        )
    ]


def _optimizer(rows: Sequence[dict]) -> list[Finding]:
    skipped = [row for row in rows if row.get("skipped")]
    # Without a signal there is no step, so its row has no gradient; a row whose gradient is null was not finite.
    idle, broken = [r for r in skipped if "grad_norm" not in r], [r for r in skipped if "grad_norm" in r]
    findings = []
    if idle:
        findings.append(
            Finding(
                "warning",
                f"{len(idle)} of {len(rows)} updates had no signal: all answers were worth the same",
                "choose a --reward that tells answers apart, or raise --batch-size or --temp",
            )
        )
    if broken:
        findings.append(
            Finding(
                "warning",
                f"{len(broken)} of {len(rows)} updates had a gradient that was not finite and were skipped in part",
                "lower --learning-rate, or use --dtype float32",
            )
        )
    norms = _values(rows, "grad_norm")
    if norms and max(norms) == 0:
        findings.append(
            Finding(
                "warning",
                "every gradient was zero: nothing was trained",
                "check --learning-rate, --lora-rank and the data",
            )
        )
    return findings
