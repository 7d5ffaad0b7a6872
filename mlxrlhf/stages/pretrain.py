"""Pretraining: next-token prediction on plain text, from random weights or a published model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import losses
from mlxrlhf.algorithms.schedule import cosine_with_warmup
from mlxrlhf.backends.protocol import Batch, Model
from mlxrlhf.config import SIZES, PretrainConfig, TrainConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.batches import Rows, Source, Stream
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import Tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import folders
from mlxrlhf.models.folders import Checkpoint, RandomWeights
from mlxrlhf.report import diagnosis
from mlxrlhf.stages.run import Run, Training


def run(config: PretrainConfig) -> dict[str, Any]:
    """Train and write weights/SIZE/language. Returns the figures of summary.json."""
    data = folders.data(config)
    command = f"mlxrlhf prepare all {folders.flag(config)}"
    train_tokens, val_tokens = (corpora.load_tokens(data, "language", side, command) for side in ("train", "val"))
    checkpoint: Checkpoint | RandomWeights
    if config.checkpoint or config.model:
        checkpoint = folders.open_checkpoint(config, "language", config.checkpoint)
        folders.same_tokenizer(checkpoint.tokenizer, data)
    else:
        checkpoint = RandomWeights(replace(SIZES[config.size], bits=config.quantize), Tokenizer(data / "tokenizer"))
    end_id = checkpoint.tokenizer.end_id
    train_rows, val_rows = (Stream(tokens, config.sequence_length, end_id) for tokens in (train_tokens, val_tokens))
    return fit(config, "language", checkpoint, train_rows, val_rows)


def fit(
    config: TrainConfig,
    stage: str,
    checkpoint: Checkpoint | RandomWeights,
    train_rows: Source,
    val_rows: Source,
) -> dict[str, Any]:
    """What pretraining and fine-tuning share once the rows are there."""
    if config.sequence_length > checkpoint.shape.max_positions:
        raise UserError(
            f"--sequence-length {config.sequence_length} exceeds the model's context of "
            f"{checkpoint.shape.max_positions}"
        )
    if not (len(train_rows) and len(val_rows)):
        raise UserError(f"there is less text than one row of --sequence-length {config.sequence_length}; add sources")
    with Run(config, stage, checkpoint, uses={"set of data": [train_rows, val_rows]}) as run:
        model = run.model(weight_decay=config.weight_decay)
        best = run.out / "best"
        return run.train(LanguageModelling(config, stage, model, run.tokenizer, train_rows, val_rows, best))


class LanguageModelling(Training):
    """Cross-entropy on rows of tokens; the checkpoint with the best validation loss is kept in `best`."""

    def __init__(
        self,
        config: TrainConfig,
        title: str,
        model: Model,
        tokenizer: AnyTokenizer,
        train_rows: Source,
        val_rows: Source,
        best: Path,
    ):
        self.config, self.title, self.model, self.tokenizer = config, title, model, tokenizer
        self.train_rows, self.val_rows, self.best_folder = train_rows, val_rows, best
        self.total = config.num_epochs * config.steps_per_epoch
        self.best_loss = math.inf

    def step(self, number: int) -> tuple[dict[str, float], int]:
        c, last = self.config, number + 1 == self.total
        rows = self.train_rows.draw(c.batch_size * c.gradient_accumulation_steps, c.seed, number)
        rate = cosine_with_warmup(number, peak=c.learning_rate, warmup=c.warmup_steps, total=self.total)
        figures = self.model.step(losses.language_modelling, self._batches(rows), want=("logp",), learning_rate=rate)
        metrics = {name: figures[name] for name in ("loss", "grad_norm", "skipped")}
        metrics |= {"lr": rate, "time/traces": self.model.traces}
        if (number + 1) % c.eval_every == 0 or last:
            metrics["val_loss"] = validation_loss(self.model, self.val_rows, c)
            self._keep_the_best(metrics["val_loss"])
        return metrics, len(rows) * rows.length

    def _batches(self, rows: Rows) -> list[Batch]:
        """This process's share of each micro-batch, normalised by the tokens of all of them."""
        c = self.config
        own = parallel.share(c.batch_size, self.model)
        counted = np.float32(rows.mask[:, 1:].sum())
        # Strided, so that a mixture's parts are spread over the micro-batches.
        starts = [np.arange(i, len(rows), c.gradient_accumulation_steps) for i in range(c.gradient_accumulation_steps)]
        batches = [rows.take(numbers[own]).batch() for numbers in starts]
        for batch in batches:
            batch["total"] = counted
        return batches

    def _keep_the_best(self, loss: float) -> None:
        if not loss < self.best_loss:
            return
        self.best_loss = loss
        if parallel.first():
            with atomic_folder(self.best_folder) as folder:
                self.write(folder, self.tokenizer)

    def state(self) -> dict[str, Any]:
        return {"best": self.best_loss if math.isfinite(self.best_loss) else None}

    def load_state(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        super().load_state(arrays, state)
        self.best_loss = math.inf if state["best"] is None else state["best"]

    def summary(self, rows: Sequence[dict]) -> dict[str, Any]:
        if not rows:
            return {}
        validated = [row["val_loss"] for row in rows if row.get("val_loss") is not None]
        return {
            "loss": rows[-1]["loss"],
            "val_loss": validated[-1] if validated else None,
            "best_val_loss": min(validated, default=None),
            "steps": len(rows),
            "skipped": int(sum(row["skipped"] for row in rows)),
            "seconds": float(np.sum([row["time/seconds"] for row in rows])),
        }

    def verdict(self, rows: Sequence[dict]) -> list[diagnosis.Finding]:
        return diagnosis.language_model(rows)


def validation_loss(model: Model, rows: Source, config: TrainConfig) -> float:
    """Token-weighted cross-entropy over `eval_batches` fixed batches of the validation rows, nats per token."""
    total = count = 0.0
    size = min(config.batch_size, len(rows))
    batches = min(config.eval_batches, math.ceil(len(rows) / config.batch_size))
    number, processes = model.world
    for i in range(number, batches, processes):
        batch = rows.draw(size, 0, i).batch()
        logp = model.evaluate(batch, ("logp",))["logp"]
        total -= float((logp * batch["mask"]).sum(dtype=np.float64))
        count += float(batch["mask"].sum())
    total, count = parallel.gather(model, np.array([total, count], np.float32)).sum(axis=0, dtype=np.float64)
    return float(total / max(count, 1))
