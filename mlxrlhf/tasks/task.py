"""Python tasks of our own writing: requests, tests, a chosen solution and rejected ones by criterion.

The tasks themselves are in `bank/`, one module per field. Nothing here is asserted: `python -m pytest
tests/test_tasks.py` runs every solution and every rejected answer.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

CRITERIA = ("correctness", "efficiency", "readability", "style", "security")
MODULES = ("numbers", "arithmetic", "text", "collections")
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


def load_tasks() -> tuple[Task, ...]:
    """Every task of the bank, in the order written; source texts are stripped of surrounding blank lines."""
    tasks = []
    for module in MODULES:
        for task in importlib.import_module(f"mlxrlhf.tasks.bank.{module}").TASKS:
            rejected = {
                criterion: tuple(code.strip("\n") for code in codes) for criterion, codes in task.rejected.items()
            }
            tasks.append(
                Task(
                    task.name,
                    task.phrasings,
                    task.solution.strip("\n"),
                    task.naive.strip("\n"),
                    task.tests,
                    rejected,
                    task.sizes,
                    task.held_out,
                )
            )
    return tuple(tasks)


# --- answers -------------------------------------------------------------------------------------------------------


# --- running -------------------------------------------------------------------------------------------------------


# --- what the code stage learns from -------------------------------------------------------------------------------
