"""DPO (Rafailov et al. 2023): preference pairs straight into the policy, without a reward model and without sampling.

The reference is the checkpoint that training starts from. Its log-probabilities of every answer are computed once,
before the first step, and kept with the save points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mlxrlhf import backends, parallel, plan
from mlxrlhf.algorithms import losses, rollout
from mlxrlhf.algorithms.schedule import cosine_with_warmup
from mlxrlhf.config import DPOConfig
from mlxrlhf.data.batches import pick
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import folders
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.preferences.encoded import EncodedPair, by_criterion, encoded_pairs, longest, pair_weights
from mlxrlhf.report import diagnosis
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.settings import to_json
from mlxrlhf.stages.run import loop, resume_from


class DPO:
    """A policy and the pairs it learns from.

    policy: `protocol.Model`, not yet trained: as it is now, it is the reference. reference: log-probabilities (2, N) of
    chosen and rejected answers from an earlier run of the same, to save computing them.
    """

    def __init__(
        self,
        config: DPOConfig,
        policy,
        pairs: Sequence[EncodedPair],
        *,
        pad_id: int,
        reference: np.ndarray | None = None,
    ):
        self.config, self.policy, self.pairs, self.pad_id = config, policy, pairs, pad_id
        self.weights = pair_weights(pairs)
        self.objective = losses.dpo_objective(beta=config.beta, label_smoothing=config.label_smoothing)
        everything = np.arange(len(pairs))
        self.reference = self.log_probabilities(everything, adapters=False) if reference is None else reference

    def log_probabilities(self, rows: np.ndarray, adapters: bool = True) -> np.ndarray:
        """log p(answer | prompt) of the policy, or of its trunk without adapters, (2, len(rows)): chosen, rejected."""
        out = np.zeros((2, len(rows)), np.float32)
        for part in self._micro(rows):
            batch = self._batch(rows[part])
            logp = self.policy.evaluate(batch, ("logp",), adapters=adapters)["logp"]
            out[:, part] = (logp * batch["mask"]).sum(axis=1).reshape(2, -1)
        return out

    def update(self, rows: np.ndarray, learning_rate: float) -> dict[str, float]:
        """One optimizer step on the pairs numbered `rows`."""
        total = np.float32(len(rows))
        parts = [
            {
                **self._batch(rows[part]),
                "ref_logp": self.reference[:, rows[part]].reshape(-1),
                "weight": self.weights[rows[part]],
                "total": total,
            }
            for part in self._micro(rows)
        ]
        return {
            **self.policy.step(self.objective, parts, want=("logp",), learning_rate=learning_rate),
            "lr": learning_rate,
            "time/traces": self.policy.traces,
        }

    def margins(self, rows: np.ndarray) -> np.ndarray:
        """beta * (log p / p_ref of the chosen answer - that of the rejected one), (len(rows),)."""
        gain = self.log_probabilities(rows) - self.reference[:, rows]
        return self.config.beta * (gain[0] - gain[1])

    def _micro(self, rows: np.ndarray) -> list[np.ndarray]:
        """Positions in `rows` of micro-batches of at most `micro_batch_size` pairs of similar length."""
        order = np.argsort([self._length(self.pairs[i]) for i in rows], kind="stable")
        return np.array_split(order, -(-len(rows) // self.config.micro_batch_size))

    @staticmethod
    def _length(pair: EncodedPair) -> int:
        return max(len(pair.chosen), len(pair.rejected))

    def _batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The pairs as the backend takes them: chosen answers, then rejected ones."""
        pairs = [self.pairs[i] for i in rows]
        sequences = [p.chosen for p in pairs] + [p.rejected for p in pairs]
        starts = [p.start for p in pairs] * 2
        return rollout.arrange(
            [s[:n] for s, n in zip(sequences, starts)], [s[n:] for s, n in zip(sequences, starts)], self.pad_id
        )


# --- the stage -----------------------------------------------------------------------------------------------------


def run(config: DPOConfig) -> dict:
    """Align the tools checkpoint and write weights/SIZE/dpo. Returns the figures of summary.json."""
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    train_pairs, val_pairs, length_baseline = encoded_pairs(config, tokenizer, model_config.max_positions)
    pairs = train_pairs + val_pairs
    backend = backends.load(config.backend, config.device)
    parallel.alone(backend, "mlxrlhf dpo")
    plan.check(config, model_config, backend, *longest(pairs))
    out = folders.output(config, "dpo")
    points = SavePoints(out)
    found = resume_from(points, config, print)
    policy = backend.Model(
        model_config,
        folder=source,
        seed=config.seed,
        dtype=config.dtype,
        lora_rank=config.lora_rank,
        lora_scale=config.lora_scale,
        max_grad_norm=config.max_grad_norm,
        optimizer_dtype=config.optimizer_dtype,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if not found:
        print(f"dpo: the reference's log-probabilities of {len(pairs):,} pairs")
    dpo = DPO(config, policy, pairs, pad_id=tokenizer.pad_id, reference=found[0]["reference"] if found else None)
    start = 0
    if found:
        policy.load_state(found[0])
        start = found[1]["step"]
    size = min(config.batch_size, len(train_pairs))
    total = config.num_epochs * -(-len(train_pairs) // size)
    held_out = np.arange(len(train_pairs), len(pairs))

    def keep(step: int) -> None:
        arrays = itertools.chain(policy.named_arrays(), [("reference", dpo.reference)])
        points.save(step, arrays, {"config": to_json(config)})

    def update(step: int) -> tuple[dict, int]:
        rows = pick(len(train_pairs), size, config.seed, step)
        rate = cosine_with_warmup(step, peak=config.rate, warmup=config.warmup_steps, total=total)
        metrics = dpo.update(rows, rate)
        if (step + 1) % config.eval_every == 0 or step + 1 == total:
            margins = dpo.margins(held_out)
            metrics["val_loss"] = float(losses.dpo(np, margins / config.beta, margins * 0, config.beta).mean())
            metrics["val_accuracy"] = float(((np.sign(margins) + 1) / 2).mean())
        return metrics, sum(len(pairs[i].chosen) + len(pairs[i].rejected) for i in rows)

    def summarise(rows: list[dict]) -> dict:
        last = [row for row in rows if not row["skipped"]][-10:]
        figures = {
            name.removeprefix("rewards/"): float(np.mean([row[name] for row in last])) if last else None
            for name in ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
        }
        correct = (np.sign(dpo.margins(held_out)) + 1) / 2
        return {
            "steps": len(rows),
            **figures,
            "val_accuracy": float(correct.mean()),
            "val_accuracy_by_criterion": by_criterion(correct, val_pairs),
            "length_baseline": length_baseline,
            "pairs": len(train_pairs),
            "val_pairs": len(val_pairs),
            "seconds": float(np.sum([row["time/seconds"] for row in rows])),
        }

    log = RunLog(out / "run", "dpo", total, to_json(config), start=start, memory=backend.peak_memory)
    figures = loop(config, log, start, total, update, keep, summarise, diagnosis.preference_pairs)
    with atomic_folder(out) as folder:
        folders.save_checkpoint(policy, folder, tokenizer)
    return figures
