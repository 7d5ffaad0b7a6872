"""What ppo and grpo may be paid for: the reward model, tests that are run, lint, a function of the user's own.

`--reward model:1,tests:2` optimises the weighted sum; every part is reported on its own, as objective/reward/NAME. A
part that has no value for a row (no tests, a function that abstains) adds nothing there and is left out of its mean:

- model: the reward head's score, normalised to mean 0 and deviation 1 over the base's own answers.
- tests: share of the task's tests that the answer's code passes in the sandbox, 0 to 1.
- lint: (docstring + type hints + 1 / (1 + ruff's findings)) / 3, 0 to 1; 0 for code that does not parse or that
  defines nothing. The first two are 1 when every function has them.
- FILE.py:function: `function(prompt, response, **row)` returns a number for one response, or None where it has no
  opinion; a function whose first parameter is called `prompts` gets all of them, `function(prompts, responses,
  **rows)`, and returns a list; TRL's `function(completions, **rows)` is taken as it is. row is the rest of the prompt's
  JSON object (rows: a list for each field). It runs in this process, with your rights: to run the code of an answer,
  call `mlxrlhf.tasks.judge.share_passed`, which does so in the sandbox.
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
        if named := _FUNCTION.fullmatch(source):
            function = UserFunction(Path(named["file"]), named["name"])
            component = Component(named["name"], 1.0 if weight is None else weight, function)
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
        """rows: prompt and tests of each response. Returns float32 arrays (B,), NaN where a row has no such value:
        scores, the weighted sum of what a row has, always finite; reward/NAME for each component; and pass_rate, 1 or
        0, if tests are run."""
        texts = [dialogue.text(r, self.tokenizer) for r in responses]
        codes = [code_for(row["tests"], text) for row, text in zip(rows, texts)]
        shares = self._share_passed(rows, codes)
        values = {c.name: self._value(c, rows, responses, features, texts, codes, shares) for c in self.components}
        measures = {"scores": np.zeros(len(rows), np.float32)}
        for component in self.components:
            measures["scores"] += component.weight * np.nan_to_num(values[component.name], nan=0.0)
            measures[f"reward/{component.name}"] = values[component.name]
        if self.run_tests:
            measures["pass_rate"] = np.where(np.isnan(shares), np.nan, shares == 1).astype(np.float32)
        return measures

    def _share_passed(self, rows: Sequence[dict], codes: Sequence[str]) -> np.ndarray:
        """Share of its tests that each code passes, (B,) float32; NaN where the row has none or none are run."""
        shares = np.full(len(rows), np.nan, np.float32)
        tested = [i for i, row in enumerate(rows) if row["tests"]] if self.run_tests else []
        if tested:
            pairs = [(rows[i]["tests"], codes[i]) for i in tested]
            shares[tested] = share_passed(pairs, unsafe=self.unsafe)
        return shares

    def _value(
        self,
        component: Component,
        rows: Sequence[dict],
        responses: Sequence[Sequence[int]],
        features: np.ndarray,
        texts: Sequence[str],
        codes: Sequence[str],
        shares: np.ndarray,
    ) -> np.ndarray:
        """One component's value for each response, (B,) float32."""
        if component.function:
            return component.function(rows, texts)
        if component.name == "model":
            if self.model is None:
                raise ValueError("the component model needs a reward model")
            return self.model(rows, responses, features)
        return shares if component.name == "tests" else lint(codes)
