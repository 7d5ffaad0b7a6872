"""What ppo and grpo may be paid for: the reward model, tests that are run, lint, a function of the user's own.

`--reward model:1,tests:2` optimises the weighted sum; every part is reported on its own, as objective/reward/NAME:

- model: the reward head's score, normalised to mean 0 and deviation 1 over the base's own answers.
- tests: share of the task's tests that the answer's code passes in the sandbox, 0 to 1.
- lint: (docstring + type hints + 1 / (1 + ruff's findings)) / 3, 0 to 1; 0 for code that does not parse or that
  defines nothing. The first two are 1 when every function has them.
- FILE.py:function: `function(prompt, response, **row)` returns a number for one response; a function whose first
  parameter is called `prompts` gets all of them, `function(prompts, responses, **rows)`, and returns a list. row is
  the rest of the prompt's JSON object (rows: a list for each field). It runs in this process, with your rights: to run
  the code of an answer, call `mlxrlhf.data.tasks.share_passed`, which does so in the sandbox.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxrlhf.data import quality, tasks
from mlxrlhf.data.dialogue import AnyTokenizer, decode_answer, read_jsonl
from mlxrlhf.errors import UserError

MEASURES = ("model", "tests", "lint")
#: CPU seconds of one answer's tests: a solution takes milliseconds, so only an endless loop notices
TEST_SECONDS = 1
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Component:
    """One summand: its name, its weight and, for a user's own, the function."""

    name: str
    weight: float
    function: UserFunction | None = None


def parse(text: str) -> list[Component]:
    """The summands of --reward. Raises UserError for what is neither a measure nor a function that can be loaded."""
    components: list[Component] = []
    for part in filter(None, map(str.strip, text.split(","))):
        head, _, tail = part.rpartition(":")
        weight = _number(tail) if head else None
        source = part if weight is None else head
        if found := _FUNCTION.fullmatch(source):
            function = UserFunction(Path(found["file"]), found["name"])
            component = Component(found["name"], 1.0 if weight is None else weight, function)
        elif source in MEASURES:
            component = Component(source, 1.0 if weight is None else weight)
        else:
            raise UserError(f"--reward {part}: choose model, tests, lint or FILE.py:function, each with :WEIGHT if it "
                            "is one of several, as in model:1,tests:2")
        if not (math.isfinite(component.weight) and component.weight):
            raise UserError(f"--reward {part}: a weight must be a number other than 0")
        if component.function and component.name in MEASURES:
            raise UserError(f"--reward {part}: {component.name} is a measure of ours; give the function another name")
        if component.name in [c.name for c in components]:
            raise UserError(f"--reward {text}: {component.name} is named twice; give it one weight")
        components.append(component)
    if not components:
        raise UserError("--reward is empty; choose model, tests, lint or FILE.py:function")
    return components


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def load_prompts(path: Path) -> list[dict]:
    """A user's own requests: {prompt[, task][, tests]} by line. Raises UserError naming file and line."""
    rows, names = [], {task.name for task in tasks.load_tasks()}
    for place, row in read_jsonl(path):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UserError(f'{place} has no "prompt" text; each line needs one')
        if row.get("task") is not None and row["task"] not in names and "tests" not in row:
            raise UserError(f'{place}: the task bank has no task {row["task"]!r}; leave it out, or add "tests"')
        tests = row.get("tests", [])
        if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
            raise UserError(f'{place}: "tests" must be a list of assert statements, each a text')
        for test in tests:
            try:
                ast.parse(test)
            except (SyntaxError, ValueError) as error:
                raise UserError(f"{place}: the test {test!r} is not Python ({error})") from None
        rows.append(row)
    return rows


def with_tests(rows: Sequence[dict]) -> list[dict]:
    """The rows, each with its tests: its own, or those of its task, or none."""
    bank = {task.name: task.tests for task in tasks.load_tasks()}
    return [{**row, "tests": list(row.get("tests") or bank.get(row.get("task"), ()))} for row in rows]


class Rewards:
    """`score` of `stages.ppo.PPO`: what each response is worth, by component, and how many pass their tests.

    model: (rows, responses, features (B, d)) -> (B,) normalised scores, where `model` is among the components.
    pass_rate: run the tests for the report even where they are not optimised.
    """

    def __init__(self, components: Sequence[Component], tokenizer: AnyTokenizer, *,
                 model: Callable[..., np.ndarray] | None = None, pass_rate: bool = True, unsafe: bool = False):
        self.components, self.tokenizer, self.model, self.unsafe = components, tokenizer, model, unsafe
        self.run_tests = pass_rate or any(c.name == "tests" for c in components)

    def __call__(self, rows: Sequence[dict], responses: Sequence[Sequence[int]],
                 features: np.ndarray) -> dict[str, np.ndarray]:
        """rows: prompt and tests of each response. Returns scores (B,), the weighted sum; reward/NAME (B,) for each
        component; and pass_rate, 1 or 0 for each response that has tests."""
        texts = [decode_answer(r, self.tokenizer) for r in responses]
        codes = [tasks.extract_code(text) for text in texts]
        tested = [i for i, row in enumerate(rows) if row["tests"]] if self.run_tests else []
        shares = np.zeros(len(rows), np.float32)
        if tested:
            shares[tested] = tasks.share_passed([(rows[i]["tests"], codes[i]) for i in tested], seconds=TEST_SECONDS,
                                                workers=2, unsafe=self.unsafe)
        found = {}
        for component in self.components:
            if component.function:
                found[component.name] = component.function(rows, texts)
            elif component.name == "model":
                found[component.name] = self.model(rows, responses, features)
            elif component.name == "tests":
                found[component.name] = shares
            else:
                found[component.name] = lint(codes)
        measures = {"scores": sum(c.weight * found[c.name] for c in self.components)}
        measures |= {f"reward/{name}": values for name, values in found.items()}
        if tested:
            measures["pass_rate"] = (shares[tested] == 1).astype(np.float32)
        return measures


def lint(codes: Sequence[str]) -> np.ndarray:
    """How tidy each code is, (B,) float32 in 0 to 1; see the head of this file."""
    return np.array([(q.docstring + q.type_hints + 1 / (1 + q.lint)) / 3 if q.parses and q.definitions else 0.0
                     for q in quality.measure(codes)], np.float32)


class UserFunction:
    """A reward function in a user's file. Whatever goes wrong in it becomes a UserError with file and line."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        if not path.is_file():
            raise UserError(f"--reward {path}:{name}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise self._blame(error) from None
        function = getattr(module, name, None)
        if not inspect.isfunction(function):
            raise UserError(f"--reward {path}:{name}: {path} defines no function {name}")
        self.function, self.line = function, function.__code__.co_firstlineno
        parameters = inspect.signature(function).parameters
        self.batched = next(iter(parameters), "") == "prompts"
        takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        self.wanted = None if takes_all else set(parameters)

    def __call__(self, rows: Sequence[dict], responses: Sequence[str]) -> np.ndarray:
        """One number for each response, (B,) float32."""
        rest = [{k: v for k, v in row.items() if k != "prompt" and (self.wanted is None or k in self.wanted)}
                for row in rows]
        prompts = [row["prompt"] for row in rows]
        try:
            if self.batched:
                names = dict.fromkeys(name for row in rest for name in row)
                values = self.function(prompts, list(responses), **{n: [row.get(n) for row in rest] for n in names})
            else:
                values = [self.function(p, r, **row) for p, r, row in zip(prompts, responses, rest)]
        except Exception as error:
            raise self._blame(error) from None
        try:
            numbers = np.array([float(value) for value in values], np.float32)
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        if numbers.shape != (len(rows),) or not np.isfinite(numbers).all():
            raise UserError(f"{self.path}:{self.line}: {self.name} must return "
                            + ("a list with one finite number for each response" if self.batched else
                               "one finite number"))
        return numbers

    def _blame(self, error: Exception) -> UserError:
        """The sentence for an exception: the last line of the user's file that was running."""
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return UserError(f"{self.path}:{error.lineno}: {error.msg}")
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if Path(frame.filename).resolve() == self.path.resolve()]
        line = lines[-1] if lines else getattr(self, "line", 1)
        return UserError(f"{self.path}:{line}: {type(error).__name__}: {error}")
