"""DPO (Rafailov et al. 2023): preference pairs straight into the policy, without a reward model and without sampling.

The reference is the checkpoint that training starts from. Its log-probabilities of every answer are computed once,
before the first step, and kept with the save points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import evidence, losses, rollout
from mlxrlhf.algorithms.schedule import cosine_with_warmup
from mlxrlhf.backends.protocol import Batch, Model
from mlxrlhf.config import DPOConfig
from mlxrlhf.data.batches import pick
from mlxrlhf.models import folders
from mlxrlhf.preferences.encoded import EncodedPair, EncodedPairs, by_criterion, encoded_pairs, longest, pair_weights
from mlxrlhf.report import diagnosis
from mlxrlhf.stages.run import Run, Training

#: the last steps of a run, over which its summary averages
LAST_STEPS = 10


def run(config: DPOConfig) -> dict[str, Any]:
    """Align the tools checkpoint and write weights/SIZE/dpo. Returns the figures of summary.json."""
    checkpoint = folders.open_checkpoint(config, "tools", config.checkpoint)
    pairs = encoded_pairs(config, checkpoint.tokenizer, checkpoint.shape.max_positions)
    prompt, answer = longest(pairs.train + pairs.held_out)
    with Run(config, "dpo", checkpoint, uses={"set of pairs": pairs}, prompt=prompt, answer=answer) as run:
        return run.train(DPO(config, run.model(), pairs, pad_id=run.tokenizer.pad_id))


class DPO(Training):
    """A policy and the pairs it learns from.

    policy: `protocol.Model`, not yet trained: as it is now, it is the reference.
    """

    title = "dpo"

    def __init__(self, config: DPOConfig, policy: Model, pairs: EncodedPairs, *, pad_id: int):
        self.config, self.policy, self.model, self.pad_id = config, policy, policy, pad_id
        self.pairs, self.split = pairs, len(pairs.train)
        self.everything: Sequence[EncodedPair] = pairs.train + pairs.held_out
        self.weights = pair_weights(self.everything)
        self.objective = losses.dpo_objective(beta=config.beta, label_smoothing=config.label_smoothing)
        self.batch_size = min(config.batch_size, self.split)
        self.total = config.num_epochs * math.ceil(self.split / self.batch_size)
        self._reference: np.ndarray | None = None

    @property
    def held_out(self) -> np.ndarray:
        """Numbers of the pairs that are validated on."""
        return np.arange(self.split, len(self.everything))

    @property
    def reference(self) -> np.ndarray:
        """The reference's log-probabilities (2, N) of chosen and rejected answers: computed before the first step."""
        if self._reference is None:
            print(f"dpo: the reference's log-probabilities of {len(self.everything):,} pairs")
            self._reference = self.log_probabilities(np.arange(len(self.everything)), adapters=False)
        return self._reference

    def log_probabilities(self, rows: np.ndarray, adapters: bool = True) -> np.ndarray:
        """log p(answer | prompt) of the policy, or of its trunk without adapters, (2, len(rows)): chosen, rejected."""
        sums = np.zeros((2, len(rows)), np.float32)
        number, processes = self.policy.world
        for part in self._micro_batches(rows)[number::processes]:
            batch = self._batch(rows[part])
            logp = self.policy.evaluate(batch, ("logp",), adapters=adapters)["logp"]
            sums[:, part] = (logp * batch["mask"]).sum(axis=1).reshape(2, -1)
        return parallel.gather(self.policy, sums).sum(axis=0)

    def update(self, rows: np.ndarray, learning_rate: float) -> dict[str, float]:
        """One optimizer step on the pairs numbered `rows`."""
        reference = self.reference
        total = np.float32(len(rows))
        own = rows[parallel.share(len(rows), self.policy)]
        parts = []
        for part in self._micro_batches(own):
            batch = self._batch(own[part])
            batch["ref_logp"] = reference[:, own[part]].reshape(-1)
            batch["weight"] = self.weights[own[part]]
            batch["total"] = total
            parts.append(batch)
        metrics = self.policy.step(self.objective, parts, want=("logp",), learning_rate=learning_rate)
        return {**metrics, "lr": learning_rate, "time/traces": self.policy.traces}

    def margins(self, rows: np.ndarray) -> np.ndarray:
        """beta * (log p / p_ref of the chosen answer - that of the rejected one), (len(rows),)."""
        gain = self.log_probabilities(rows) - self.reference[:, rows]
        return self.config.beta * (gain[0] - gain[1])

    def _micro_batches(self, rows: np.ndarray) -> list[np.ndarray]:
        """Positions in `rows` of micro-batches of pairs of similar length."""
        lengths = [self.everything[i].longest for i in rows]
        return rollout.by_tokens(lengths, self.config.micro_batch_tokens, self.config.micro_batch_size)

    def _batch(self, rows: np.ndarray) -> Batch:
        """The pairs as the backend takes them: chosen answers, then rejected ones."""
        pairs = [self.everything[i] for i in rows]
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        return rollout.pad_right(sequences, [pair.start for pair in pairs] * 2, self.pad_id)

    # --- the run ------------------------------------------------------------------------------------------------------

    def step(self, number: int) -> tuple[dict[str, float], int]:
        c = self.config
        rows = pick(self.split, self.batch_size, c.seed, number)
        rate = cosine_with_warmup(number, peak=c.rate, warmup=c.warmup_steps, total=self.total)
        metrics = self.update(rows, rate)
        if (number + 1) % c.eval_every == 0 or number + 1 == self.total:
            margins = self.margins(self.held_out)
            metrics["val_loss"] = float(losses.dpo(np, margins / c.beta, margins * 0, c.beta).mean())
            metrics["val_accuracy"] = float(evidence.wins(margins).mean())
        return metrics, sum(len(self.everything[i].chosen) + len(self.everything[i].rejected) for i in rows)

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        return itertools.chain(self.policy.named_arrays(), [("reference", self.reference)])

    def load_state(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        super().load_state(arrays, state)
        self._reference = arrays["reference"]

    def summary(self, rows: Sequence[dict]) -> dict[str, Any]:
        right = evidence.wins(self.margins(self.held_out))  # in every process: each computes its share
        last = [row for row in rows if not row["skipped"]][-LAST_STEPS:]
        names = ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
        return {
            "steps": len(rows),
            **{name.removeprefix("rewards/"): _mean(last, name) for name in names},
            "val_accuracy": float(right.mean()),
            "val_accuracy_by_criterion": by_criterion(right, self.pairs.held_out),
            "length_baseline": self.pairs.length_baseline,
            "pairs": self.split,
            "val_pairs": len(self.pairs.held_out),
            "seconds": float(np.sum([row["time/seconds"] for row in rows])),
        }

    def verdict(self, rows: Sequence[dict]) -> list[diagnosis.Finding]:
        return diagnosis.preference_pairs(rows)


def _mean(rows: Sequence[dict], name: str) -> float | None:
    return float(np.mean([row[name] for row in rows])) if rows else None
