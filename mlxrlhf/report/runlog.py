"""What a run leaves behind: config.json, metrics.jsonl, summary.json; and its progress on the screen."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mlxrlhf import hub, parallel
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_text

if TYPE_CHECKING:
    from rich.progress import Progress


class RunLog:
    """Append one JSON object per step to FOLDER/metrics.jsonl and show where the run is.

    `start` = k keeps the rows up to step k of an interrupted run. Keys under `time/` and `memory/` are the only ones in
    which a resumed run may differ from an uninterrupted one. Of several processes only the first writes and shows.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        total: int,
        config: dict,
        *,
        start: int = 0,
        memory: Callable[[], int] = lambda: 0,
        quiet: bool = False,
    ):
        self.folder, self.title, self.total, self.memory, self.quiet = Path(folder), title, total, memory, quiet
        path = self.folder / "metrics.jsonl"
        self._start, self._began, self._last, self._shown = start, time.monotonic(), time.monotonic(), -math.inf
        self._bar: Progress | None = None
        self._file: TextIO | None = None
        if not parallel.first():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read_metrics(path) if row["step"] <= start] if start else []
            atomic_text(path, "".join(json.dumps(row) + "\n" for row in kept))
            # A name on the hub may stand for other files tomorrow: the commit says what was read.
            settings = {**config, "fetched": hub.fetched} if hub.fetched else config
            atomic_text(self.folder / "config.json", json.dumps(settings, indent=2))
            self._file = open(path, "a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from None

    def __enter__(self):
        if sys.stderr.isatty() and not self.quiet and self._file:
            self._bar = _bar()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self._start, facts="")
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()
        if self._bar:
            self._bar.stop()

    def log(self, step: int, row: dict, tokens: int = 0) -> None:
        """Record step `step` (from 1); NaN and infinity become null."""
        if not self._file:
            return
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        speed = tokens / seconds if tokens and seconds > 0 else None
        extra = {"time/seconds": seconds, "time/tokens_per_second": speed, "memory/peak_gb": self.memory() / 2**30}
        values = {"step": step, **row, **extra}
        self._file.write(json.dumps({k: _finite(v) for k, v in values.items()}) + "\n")
        self._file.flush()
        self._show(step, values, now)

    def _show(self, step: int, row: dict, now: float) -> None:
        """A bar in a terminal; a line every ten seconds where there is none."""
        facts = [
            f"{label} {row[key]:.3g}"
            for key, label in (
                ("loss", "loss"),
                ("val_loss", "val"),
                ("objective/scores", "score"),
                ("objective/kl", "kl"),
                ("accuracy", "accuracy"),
                ("lr", "lr"),
            )
            if row.get(key) is not None
        ]
        if row["time/tokens_per_second"]:
            facts.append(f"{row['time/tokens_per_second']:,.0f} tok/s")
        facts.append(f"{row['memory/peak_gb']:.1f} GB")
        if self._bar:
            self._bar.update(self._task, completed=step, facts="  ".join(facts))
        elif not self.quiet and (now - self._shown > 10 or step in (self._start + 1, self.total)):
            self._shown = now
            _line(self.title, step, self.total, facts, (now - self._began) / (step - self._start))

    def summary(self, figures: dict) -> None:
        """Write summary.json: the figures a script reads."""
        if not self._file:
            return
        atomic_text(self.folder / "summary.json", json.dumps(figures, indent=2) + "\n")

    def rows(self) -> list[dict]:
        """Every row of the run so far, those before a resume included."""
        return read_metrics(self.folder / "metrics.jsonl") if self._file else []


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress of work that leaves no metrics: yields advance(n), to be called when n of `total` are done.

    As in RunLog, a bar in a terminal and otherwise a line every ten seconds; nothing without a title.
    """
    began = shown = time.monotonic()
    done = 0
    with _bar() if title and sys.stderr.isatty() else nullcontext() as bar:
        task = bar.add_task(title, total=total, facts="") if bar else None

        def advance(n: int) -> None:
            nonlocal done, shown
            done += n
            if bar and task is not None:
                bar.update(task, completed=done)
            elif title and time.monotonic() - shown > 10:
                shown = time.monotonic()
                _line(title, done, total, [], (shown - began) / done)

        yield advance


def _line(title: str, done: int, total: int, facts: Sequence[str], seconds_each: float) -> None:
    left = seconds_each * (total - done)
    print(
        "  ".join([f"{title}  {done}/{total}", *facts, f"left {int(left // 60)}:{int(left % 60):02d}"]),
        file=sys.stderr,
        flush=True,
    )


def _bar() -> Progress:
    """Title, bar, steps, figures and time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _finite(value):
    if value is None or isinstance(value, (str, bool)):
        return value
    return float(value) if math.isfinite(value) else None


def read_metrics(path: Path) -> list[dict]:
    """The rows of metrics.jsonl; they end where one is broken: a killed run leaves half a line."""
    rows = []
    if Path(path).is_file():
        for line in Path(path).read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
    return rows
