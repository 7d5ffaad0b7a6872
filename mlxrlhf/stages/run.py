"""A training run: everything that a training command does around its own steps.

    with Run(config, "rlhf", checkpoint, uses={"set of prompts": prompts}) as run:
                                                     # backend, memory plan, output folder, what to resume
        policy = run.model(value_head=True)
        return run.train(PPO(config, policy, ...))   # steps, saves, interruption, report, verdict, result

A stage brings a `Training`: one step, the state that continues it, its figures and its result.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from mlxrlhf import backends, files, parallel, plan
from mlxrlhf.backends.protocol import Model, ModelSettings
from mlxrlhf.config import ModelConfig, RunConfig
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.models.folders import Checkpoint, RandomWeights
from mlxrlhf.models.identity import check_same, content_digest, tokenizer_digest, trunk_digest
from mlxrlhf.models.outputs import OutputFolder
from mlxrlhf.report.diagnosis import Finding
from mlxrlhf.report.page import run_report
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.settings import to_json

C = TypeVar("C", bound=RunConfig)

#: optimizer steps in a row that may be skipped because something was not finite
SKIPPED_IN_A_ROW = 3
#: what a run is trained with; a model that is only read has none of it
_TRAINING_SETTINGS = (
    "lora_rank",
    "lora_layers",
    "lora_scale",
    "max_grad_norm",
    "optimizer_dtype",
    "gradient_checkpointing",
)


class Training:
    """What a stage brings to a run. A stage overrides what is not the default here."""

    #: what the run is called on the screen and in its report
    title: str
    #: what one step is called in messages
    unit = "step"
    #: number of steps
    total: int
    #: steps after which it is saved whatever --save-every says
    milestones: tuple[int, ...] = ()
    #: the model that is trained
    model: Model

    def step(self, number: int) -> tuple[dict[str, float], int]:
        """Step `number` (from 0): its metrics, and the tokens it went through.

        Raises UserError, with nothing changed, when an invariant broke. `skipped` is 1 where the weights were left
        alone: with `grad_norm` the gradient was not finite, without it there was nothing to learn.
        """
        raise NotImplementedError

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Arrays of a save point: weights, optimizer state, and what else continues the run."""
        return self.model.named_arrays()

    def state(self) -> dict[str, Any]:
        """The rest of a save point, as JSON values."""
        return {}

    def load_state(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Continue from a save point: what `named_arrays` and `state` gave, and `config` as it was then."""
        self.model.load_state(arrays)

    def summary(self, rows: Sequence[dict]) -> dict[str, Any]:
        """Figures of summary.json from the rows of metrics.jsonl. Called in every process; only the first has rows."""
        raise NotImplementedError

    def verdict(self, rows: Sequence[dict]) -> list[Finding]:
        """What the run did, in words."""
        return []

    def write(self, folder: Path, tokenizer: AnyTokenizer) -> None:
        """Write the result into an empty folder."""
        folders.save_checkpoint(self.model, folder, tokenizer)

    def report(self, folder: Path, figures: dict[str, Any]) -> None:
        """Draw FOLDER/report.html."""
        run_report(folder, self.title)


class Interrupted(UserError):
    """A run that was asked to stop, after it saved its state."""


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag that the loop reads between steps, so that it can save first.

    Python delivers signals to the main thread alone: elsewhere the flag stays down.
    """

    def __init__(self) -> None:
        self.asked = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


class Run(Generic[C]):
    """One training command, from the checkpoint it starts at to the folder it writes.

    uses: what it trains on, by names that a sentence can hold; a run is not resumed with others. prompt, answer: tokens
    of the longest in its data, for the memory plan.
    """

    def __init__(
        self,
        config: C,
        stage: str,
        checkpoint: Checkpoint | RandomWeights,
        *,
        uses: Mapping[str, Any],
        prompt: int = plan.PROMPT_TOKENS,
        answer: int = plan.ANSWER_TOKENS,
    ):
        self.config, self.stage, self.checkpoint = config, stage, checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.backend = backends.load(config.backend, config.device)
        plan.check(config, checkpoint.shape, self.backend, prompt, answer)
        self.output = OutputFolder(
            folders.output(config, stage),
            stage=folders.COMMANDS.get(stage, stage).removeprefix("mlxrlhf "),
            config=config,
            need_bytes=plan.disk_bytes(config, checkpoint.shape),
            sources=[checkpoint.folder] if checkpoint.folder else [],
        )
        self.out, self.points = self.output.folder, self.output.points
        self.uses = uses
        self.identity: dict[str, str] = {}
        self._held = contextlib.ExitStack()
        self.saved: tuple[Mapping[str, np.ndarray], dict[str, Any]] | None = None

    def __enter__(self) -> Run[C]:
        with contextlib.ExitStack() as held:
            held.enter_context(self.output)
            self.identity = {
                "base": trunk_digest(self.checkpoint.folder) if self.checkpoint.folder else "random weights",
                "tokenizer": tokenizer_digest(self.tokenizer.folder),
                **{name: content_digest(value) for name, value in self.uses.items()},
            }
            self.saved = self._to_resume()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    @property
    def source(self) -> Path:
        """Folder of the checkpoint that training starts from; only a run from random weights has none."""
        assert self.checkpoint.folder is not None
        return self.checkpoint.folder

    def model(self, **settings: Any) -> Model:
        """The checkpoint's model, to be trained as the configuration says; `settings` are the stage's own."""
        c = self.config
        named = {name: getattr(c, name) for name in _TRAINING_SETTINGS if hasattr(c, name)}
        model = self.backend.Model(self.checkpoint.shape, self._settings(**{**named, **settings}))
        if model.adapters and parallel.first():
            print(_adapted(model, self.checkpoint.shape))
        return model

    def frozen_model(self) -> Model:
        """The checkpoint's model as it is."""
        return self.backend.Model(self.checkpoint.shape, self._settings())

    def _settings(self, **named: Any) -> ModelSettings:
        c = self.config
        return ModelSettings(folder=self.checkpoint.folder, seed=c.seed, dtype=c.dtype, **named)

    def train(self, training: Training) -> dict[str, Any]:
        """Take the steps that are left and write the result. Returns the figures of summary.json.

        A run that stops itself leaves its figures and its verdict too, and no result.
        """
        begin = 0
        if self.saved:
            arrays, state = self.saved
            begin = state["step"]
            training.load_state(arrays, state)
            if begin >= training.total:
                print(f"{self.out}: all {training.total} {training.unit}s were made before; it is written again")
        self.output.begin()
        log = RunLog(
            self.output.run_folder,
            training.title,
            training.total,
            to_json(self.config),
            start=begin,
            memory=self.backend.peak_memory,
        )
        with log, Interrupt() as interrupt:
            stopped = self._take_steps(training, log, interrupt, begin)
        rows = log.rows()
        verdict = training.verdict(rows) if rows else []
        figures = {**training.summary(rows), "verdict": [asdict(finding) for finding in verdict]}
        if parallel.first() and rows:
            log.summary(figures)
            training.report(log.folder, figures)
            print("\n".join(map(str, verdict)), end="\n" if verdict else "")
        if stopped:
            raise stopped
        if parallel.first():
            with self.output.replace(**self.identity) as folder:
                training.write(folder, self.tokenizer)
        return {**figures, "wrote": str(self.out)}

    def _take_steps(self, training: Training, log: RunLog, interrupt: Interrupt, begin: int) -> UserError | None:
        """The loop: log, save, stop. Returns the cause where the run stopped itself."""
        skipped = self.saved[1].get("skipped_in_a_row", 0) if self.saved else 0
        total = training.total
        for number in range(begin, total):
            try:
                metrics, tokens = training.step(number)
            except files.NotWritten:
                raise  # the step was taken; the save before it stands
            except UserError as error:
                self._save(training, number, skipped)  # the state before the step that broke an invariant
                return error
            log.log(number + 1, metrics, tokens=tokens)
            not_finite = metrics.get("skipped") == 1 and "grad_norm" in metrics
            skipped = skipped + 1 if not_finite else 0
            asked = parallel.any_of(training.model, interrupt.asked)
            last, broken = number + 1 == total, skipped >= SKIPPED_IN_A_ROW
            due = (number + 1) % self.config.save_every == 0 or number + 1 in training.milestones
            if due or last or asked or broken:
                self._save(training, number + 1, skipped)
            if broken:
                return UserError(
                    f"the gradients of {skipped} {training.unit}s in a row were not finite, the last at {number + 1}; "
                    f"{self.out} holds the weights before them: go on with --resume and a lower --learning-rate"
                )
            if asked and not last:
                raise Interrupted(
                    f"stopped at {training.unit} {number + 1} of {total}; the same command with --resume continues"
                )
        return None

    def _save(self, training: Training, step: int, skipped: int) -> None:
        if parallel.first():
            state: dict[str, Any] = {"stage": self.stage, "config": to_json(self.config), "identity": self.identity}
            state |= {"skipped_in_a_row": skipped, **training.state()}
            self.points.save(step, training.named_arrays(), state)

    def _to_resume(self) -> tuple[Mapping[str, np.ndarray], dict] | None:
        """The save point to continue from, or None. One that would not continue the same run is refused."""
        if not self.config.resume:
            return None
        saved = self.points.latest()
        if saved is None:
            print("nothing to resume: starting from the beginning")
            return None
        self._check_settings(saved[1])
        remedy = "bring that back, or give --restart in place of --resume to begin again"
        check_same(saved[1]["identity"], self.identity, f"the save in {self.out}", remedy)
        return saved

    def _check_settings(self, state: Mapping[str, Any]) -> None:
        """Raises UserError for a setting that decides what is computed and is not what it was."""
        if state.get("stage", self.stage) != self.stage:
            raise UserError(
                f"{self.out} holds a run of the stage {state['stage']}, this command is {self.stage}; "
                "give another folder with --out"
            )
        before, now = state["config"], to_json(self.config)
        for name in sorted(set(before) - self.config.may_change):
            if before[name] != now.get(name):
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"the run to resume used {flag} {before[name]}, this command {now.get(name)}; "
                    f"give {flag} {before[name]}, or give --restart in place of --resume to begin again"
                )


def _adapted(model: Model, shape: ModelConfig) -> str:
    """What is trained where adapters are."""
    names = [name for name, _ in model.named_arrays() if name.startswith("weights/") and name.endswith("lora_a")]
    blocks = {name.split(".layers.")[1].split(".")[0] for name in names}
    kinds = dict.fromkeys(name.removesuffix(".lora_a").rpartition(".")[2] for name in names)
    bits = f" in {shape.bits} bits" if shape.bits else ""
    return f"adapters on {', '.join(kinds)} of {len(blocks)} blocks of {shape.num_layers}; the trunk{bits} is frozen"
