"""What ppo and grpo may be paid for: the reward model, tests that are run, lint, a function of the user's own.

`--reward model:1,tests:2` optimises the weighted sum; every part is reported on its own, as objective/reward/NAME:

- model: the reward head's score, normalised to mean 0 and deviation 1 over the base's own answers.
- tests: share of the task's tests that the answer's code passes in the sandbox, 0 to 1.
- lint: (docstring + type hints + 1 / (1 + ruff's findings)) / 3, 0 to 1; 0 for code that does not parse or that
  defines nothing. The first two are 1 when every function has them.
- FILE.py:function: `function(prompt, response, **row)` returns a number for one response; a function whose first
  parameter is called `prompts` gets all of them, `function(prompts, responses, **rows)`, and returns a list. row is
  the rest of the prompt's JSON object (rows: a list for each field). It runs in this process, with your rights: to run
  the code of an answer, call `mlxrlhf.tasks.judge.share_passed`, which does so in the sandbox.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.rewards.function import UserFunction
from mlxrlhf.rewards.lint import lint
from mlxrlhf.tasks.judge import code_for, share_passed

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


def parse_reward(text: str) -> list[Component]:
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
            raise UserError(
                f"--reward {part}: choose model, tests, lint or FILE.py:function, each with :WEIGHT if it "
                "is one of several, as in model:1,tests:2"
            )
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


class Rewards:
    """`score` of `stages.ppo.PPO`: what each response is worth, by component, and how many pass their tests.

    model: (rows, responses, features (B, d)) -> (B,) normalised scores, where `model` is among the components.
    pass_rate: run the tests for the report even where they are not optimised.
    """

    def __init__(
        self,
        components: Sequence[Component],
        tokenizer: AnyTokenizer,
        *,
        model: Callable[..., np.ndarray] | None = None,
        pass_rate: bool = True,
        unsafe: bool = False,
    ):
        self.components, self.tokenizer, self.model, self.unsafe = components, tokenizer, model, unsafe
        self.run_tests = pass_rate or any(c.name == "tests" for c in components)

    def __call__(
        self, rows: Sequence[dict], responses: Sequence[Sequence[int]], features: np.ndarray
    ) -> dict[str, np.ndarray]:
        """rows: prompt and tests of each response. Returns scores (B,), the weighted sum; reward/NAME (B,) for each
        component; and pass_rate, 1 or 0 for each response that has tests."""
        texts = [dialogue.text(r, self.tokenizer) for r in responses]
        codes = [code_for(row["tests"], text) for row, text in zip(rows, texts)]
        tested = [i for i, row in enumerate(rows) if row["tests"]] if self.run_tests else []
        shares = np.zeros(len(rows), np.float32)
        if tested:
            shares[tested] = share_passed(
                [(rows[i]["tests"], codes[i]) for i in tested], seconds=TEST_SECONDS, workers=2, unsafe=self.unsafe
            )
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
