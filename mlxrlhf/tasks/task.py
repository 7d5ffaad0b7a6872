"""Python tasks of our own writing: requests, tests, a chosen solution and rejected ones by criterion.

The tasks themselves are in `bank/`, one file each. Nothing here is asserted: `python -m pytest
tests/test_tasks.py` runs every solution and every rejected answer.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlxrlhf.tasks import bank

CRITERIA = ("correctness", "efficiency", "readability", "style", "security")
_BANK = Path(bank.__file__).parent
_REJECTED = "rejected: "
_NEEDED = {"phrasings", "solution", "naive", "tests"}
_CELLS = _NEEDED | {"sizes", "held out"}
#: the last phrasings of every task are never trained on, in any stage
HELD_OUT_PHRASINGS = 2


@dataclass(frozen=True)
class Task:
    """One request with its tests and answers.

    phrasings: ways to ask, the last HELD_OUT_PHRASINGS kept for evaluation.
    solution: the chosen answer: correct, efficient, documented, typed, safe.
    naive: correct but bare, as code in the wild is: no docstring, no hints.
    tests: assert statements that solution and naive pass.
    rejected: answers by criterion; those of `correctness` fail a test, all others pass them, those of `security`
        contain an insecure pattern, those of `efficiency` take more operations than the solution.
    sizes: two calls, small and large, at which operations are counted (tasks with `efficiency` answers).
    held_out: the whole task is kept for evaluation.
    """

    name: str
    phrasings: tuple[str, ...]
    solution: str
    naive: str
    tests: tuple[str, ...]
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def train_phrasings(self) -> tuple[str, ...]:
        return self.phrasings[:-HELD_OUT_PHRASINGS]

    @property
    def held_out_phrasings(self) -> tuple[str, ...]:
        return self.phrasings[-HELD_OUT_PHRASINGS:]


@functools.cache
def load_tasks() -> tuple[Task, ...]:
    """Every task of the bank, in the order of `bank.NAMES`."""
    return tuple(read_task(name, (_BANK / f"{name}.py").read_text(encoding="utf-8")) for name in bank.NAMES)


def read_task(name: str, text: str) -> Task:
    """The task that a file's text describes; `bank/__init__.py` says what the cells are.

    Raises ValueError naming the task where a cell is unknown, missing or there twice.
    """
    cells: dict[str, list[str]] = {}
    for cell in re.split(r"^# %% ", text, flags=re.MULTILINE)[1:]:
        title, _, body = cell.partition("\n")
        cells.setdefault(title.strip(), []).append(body.strip("\n"))
    rejected = {
        title.removeprefix(_REJECTED): tuple(cells.pop(title)) for title in list(cells) if title.startswith(_REJECTED)
    }
    if unknown := (cells.keys() - _CELLS) | (rejected.keys() - set(CRITERIA)):
        raise ValueError(f"bank/{name}.py has a cell that means nothing: {sorted(unknown)[0]}")
    if twice := [title for title, bodies in cells.items() if len(bodies) > 1]:
        raise ValueError(f"bank/{name}.py has two cells called {twice[0]}")
    if missing := _NEEDED - cells.keys():
        raise ValueError(f"bank/{name}.py has no cell called {sorted(missing)[0]}")
    tests, sizes = cells["tests"][0], cells.get("sizes", [""])[0]
    return Task(
        name,
        phrasings=tuple(line.removeprefix("# ") for line in cells["phrasings"][0].splitlines()),
        solution=cells["solution"][0],
        naive=cells["naive"][0],
        tests=_statements(tests),
        rejected=rejected,
        sizes=_statements(sizes),
        held_out="held out" in cells,
    )


def _statements(code: str) -> tuple[str, ...]:
    """The source of each statement."""
    return tuple(ast.get_source_segment(code, node) or "" for node in ast.parse(code).body)
