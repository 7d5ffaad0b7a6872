"""What pretraining and fine-tuning share: the schedule, the loop, saves, interruption and validation."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import losses
from mlxrlhf.algorithms.schedule import cosine_with_warmup
from mlxrlhf.config import TrainConfig
from mlxrlhf.data.batches import Mixture, Rows, Stream
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.report import diagnosis
from mlxrlhf.report.page import run_report
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.settings import to_json


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag that a training loop reads between steps, so that it can save first."""

    def __enter__(self):
        self.asked = False
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.asked = True

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Interrupted(UserError):
    """A run that was asked to stop, after it saved its state."""


def resume_from(points: SavePoints, config, say: Callable[[str], None]):
    """The save point to continue from, or None. A run with other settings is refused, for it would not be the same."""
    if not config.resume:
        points.clear()
        return None
    found = points.latest(say)
    if found is None:
        say("nothing to resume: starting from the beginning")
        return None
    kept = {"resume", "restart", "save_every", "out", "allow_swap"}
    saved, now = found[1]["config"], to_json(config)
    for name in sorted(set(saved) - kept):
        if saved[name] != now.get(name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"the run to resume used {flag} {saved[name]}, this command {now.get(name)}; "
                f"give {flag} {saved[name]}, or leave --resume out to start again"
            )
    return found


def loop(
    config,
    log: RunLog,
    start: int,
    total: int,
    update: Callable[[int], tuple[dict, int]],
    keep: Callable[[int], None],
    summarise: Callable[[list[dict]], dict],
    diagnose: Callable[[list[dict]], list[diagnosis.Finding]],
    agree: Callable[[bool], bool] = bool,
) -> dict:
    """The steps of an alignment stage, its saves and its verdict. Returns the figures of summary.json.

    update(step) -> (metrics, tokens); keep(step) writes a save point; summarise and diagnose read metrics.jsonl.
    agree(flag) is true in every process when the flag is in one. A run that stops itself leaves its verdict too.
    """
    stopped = None
    with log, Interrupt() as interrupt:
        for step in range(start, total):
            try:
                metrics, tokens = update(step)
            except UserError as error:
                keep(step)  # what there is before the update that broke an invariant
                stopped = error
                break
            log.log(step + 1, metrics, tokens=tokens)
            asked = agree(interrupt.asked)
            if (step + 1) % config.save_every == 0 or step + 1 == total or asked:
                keep(step + 1)
            if asked and step + 1 < total:
                raise Interrupted(f"stopped at update {step + 1} of {total}; the same command with --resume continues")
    rows, figures = log.rows(), {}
    if rows:
        verdict = diagnose(rows)
        figures = {**summarise(rows), "verdict": [asdict(finding) for finding in verdict]}
        log.summary(figures)
        if parallel.first():
            run_report(log.folder, log.title)
        print("\n".join(map(str, verdict)))
    if stopped:
        raise stopped
    return figures


def validation_loss(model, rows: Rows | Stream | Mixture, config: TrainConfig) -> float:
    """Token-weighted cross-entropy over `eval_batches` fixed batches of the validation rows, nats per token."""
    total = count = 0.0
    number, processes = model.world
    for i in range(number, min(config.eval_batches, -(-len(rows) // config.batch_size)), processes):
        batch = rows.draw(min(config.batch_size, len(rows)), 0, i).batch()
        logp = model.evaluate(batch, ("logp",))["logp"]
        total -= float((logp * batch["mask"]).sum(dtype=np.float64))
        count += float(batch["mask"].sum())
    total, count = parallel.gather(model, np.array([total, count], np.float32)).sum(axis=0, dtype=np.float64)
    return float(total / max(count, 1))


def train(
    model,
    train_rows: Rows | Stream | Mixture,
    val_rows: Rows | Stream | Mixture,
    config: TrainConfig,
    log,
    out: Path,
    save: Callable[[Path], None],
    points: SavePoints,
    found,
) -> dict:
    """Run the optimizer steps; save the best and the last checkpoint. Returns the figures of summary.json.

    `save(folder)` writes a whole checkpoint; `found` is what resume_from returned.
    """
    total = config.num_epochs * config.steps_per_epoch
    start, best, bad = 0, math.inf, 0
    if found:
        arrays, state = found
        model.load_state(arrays)
        start, best, bad = state["step"], state["best"] or math.inf, state["bad"]
    began, row, skipped = time.monotonic(), {}, 0

    def keep(step: int) -> None:
        if parallel.first():
            state = {"config": to_json(config), "best": best if best < math.inf else None, "bad": bad}
            points.save(step, model.named_arrays(), state)

    own = parallel.share(config.batch_size, model)
    with Interrupt() as interrupt:
        for step in range(start, total):
            size = config.batch_size * config.gradient_accumulation_steps
            rows = train_rows.draw(size, config.seed, step)
            # Strided, so that a mixture's parts are spread over the micro-batches.
            batches = [
                rows.take(np.arange(i, size, config.gradient_accumulation_steps)[own]).batch()
                for i in range(config.gradient_accumulation_steps)
            ]
            counted = np.float32(rows.mask[:, 1:].sum())  # of all processes
            for batch in batches:
                batch["total"] = counted
            rate = cosine_with_warmup(step, peak=config.learning_rate, warmup=config.warmup_steps, total=total)
            metrics = model.step(losses.language_modelling, batches, want=("logp",), learning_rate=rate)
            row = {
                "loss": metrics["loss"],
                "lr": rate,
                "grad_norm": metrics["grad_norm"],
                "skipped": metrics["skipped"],
                "time/traces": model.traces,
            }
            skipped += int(metrics["skipped"])
            bad = bad + 1 if metrics["skipped"] else 0
            if (step + 1) % config.eval_every == 0 or step + 1 == total:
                row["val_loss"] = validation_loss(model, val_rows, config)
                if row["val_loss"] < best:
                    best = row["val_loss"]
                    if parallel.first():
                        with atomic_folder(out / "best") as folder:
                            save(folder)
            log.log(step + 1, row, tokens=size * train_rows.length)
            if bad >= 3:
                keep(step + 1)
                raise UserError(
                    f"three steps in a row were not finite, the last at {step + 1}; "
                    f"the last good weights are saved; try --learning-rate below {config.learning_rate:g}"
                )
            asked = parallel.any_of(model, interrupt.asked)
            if (step + 1) % config.save_every == 0 or step + 1 == total or asked:
                keep(step + 1)
            if asked and step + 1 < total:
                raise Interrupted(f"stopped at step {step + 1} of {total}; the same command with --resume continues")
    if parallel.first():
        with atomic_folder(out) as folder:
            save(folder)
    return {
        "loss": row.get("loss"),
        "val_loss": row.get("val_loss"),
        "best_val_loss": best,
        "steps": total,
        "skipped": skipped,
        "seconds": time.monotonic() - began,
    }
