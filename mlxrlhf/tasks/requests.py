"""Requests: what people ask of the task bank, in many words, and the files they keep their own in."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from mlxrlhf.config import PromptsConfig
from mlxrlhf.data import files
from mlxrlhf.data.files import Row
from mlxrlhf.data.rows import prompt_row
from mlxrlhf.errors import UserError
from mlxrlhf.settings import shown
from mlxrlhf.tasks.answers import format_answer, parse, strip_documentation
from mlxrlhf.tasks.task import Task, load_tasks


def load_prompts(config: PromptsConfig) -> list[Row]:
    """(place, row) of every prompt of --prompts: a file, a folder or hub:NAME[:SPLIT], of rows or of lines of text.

    Each row has its "prompt" as text or messages, and whatever else it holds. Raises UserError naming file and line.
    """
    names = {task.name for task in load_tasks()}
    placed = []
    for place, row in files.rows(config.prompts, text="prompt"):
        row = prompt_row(
            row,
            place,
            system=config.system,
            prompt_field=config.prompt_field,
            answer_field=config.answer_field,
        )
        _check_tests(row, place, names)
        placed.append((place, row))
    return placed


def _check_tests(row: dict[str, Any], place: str, names: set[str]) -> None:
    """What a row says about its tests: a task of the bank, or tests of its own."""
    task, tests = row.get("task"), row.get("tests")
    if task is not None and not isinstance(task, str):
        raise UserError(f'{place}: "task" must be the name of a task, or left out')
    if task is not None and tests is None and task not in names:
        raise UserError(f'{place}: the task bank has no task {shown(task)}; leave it out, or add "tests"')
    if tests is None:
        return
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise UserError(f'{place}: "tests" must be a list of assert statements, each a text')
    for test in tests:
        tree = parse(test)
        if not isinstance(tree, ast.Module):
            reason = tree or "too deep, or not text"
            raise UserError(f"{place}: the test {shown(test)} is not Python ({reason})")


def with_tests(rows: Sequence[dict]) -> list[dict]:
    """The rows, each with its tests: its own, or those of its task, or none."""
    bank = {task.name: task.tests for task in load_tasks()}
    return [{**row, "tests": list(row.get("tests") or bank.get(row.get("task") or "", ()))} for row in rows]


def sft_dialogues(tasks: Sequence[Task], rng, *, per_phrasing: int = 16, held_out: bool = False) -> list[dict]:
    """(request -> answer) dialogues of mixed quality, as code in the wild is: alignment must have something to change.

    Of the answers 40% are the solution, 35% the same without its documentation, 15% naive and 10% wrong. Only
    training tasks are used: their training phrasings, each worded anew every time, or the other phrasings as they are
    when `held_out` (for validation).
    """
    rows = []
    for task in tasks:
        if task.held_out:
            continue
        wrong = task.rejected.get("correctness") or (task.naive,)
        answers = [strip_documentation(task.solution)] * 7 + [task.naive] * 3 + [task.solution] * 8 + list(wrong[:2])
        for phrasing in task.held_out_phrasings if held_out else task.train_phrasings:
            for i in rng.choice(len(answers), per_phrasing, replace=False):
                request = phrasing if held_out else reworded(phrasing, rng)
                if not held_out and request in task.held_out_phrasings:
                    request = phrasing
                rows.append(
                    {
                        "messages": [
                            {"role": "user", "content": request},
                            {"role": "assistant", "content": format_answer(answers[i])},
                        ]
                    }
                )
    return [rows[i] for i in rng.permutation(len(rows))]


_FILLERS = frozenset(
    "a an the that which to of in is are i me my do does how can you please write give need want "
    "would like for this with".split()
)


_SYNONYMS = {
    word: tuple(group.split())
    for group in (
        "write implement create make build code give",
        "function method routine code snippet",
        "checks tests tells verifies",
        "check test tell verify determine",
        "number integer value",
        "numbers integers values",
        "list array sequence",
        "string text str",
        "word term",
        "words terms",
        "computes calculates returns finds",
        "compute calculate find get",
        "largest biggest maximum greatest",
        "smallest minimum lowest",
        "remove delete drop",
        "removes deletes drops",
        "count number total",
        "python python3 py",
        "character letter char",
        "characters letters chars",
        "sort order",
        "two both",
        "how way",
        "whether if",
        "items elements entries values",
        "dictionary dict mapping",
        "every all each",
    )
    for word in group.split()
}


_OPENINGS = ("Please: ", "Hi! ", "Hello, ", "Quick question. ", "For my project: ", "In Python: ")


_ENDINGS = (" Thanks!", " Thank you.", " Please.", " In Python.", " Keep it short.", " No explanation, please.")


def reworded(phrasing: str, rng) -> str:
    """The same request as it is, as typed into a search box, or within a greeting; some words by their synonyms."""
    choice = rng.integers(4)
    if choice == 0:
        return phrasing
    words = phrasing.split(" ")
    for i, word in enumerate(words):
        bare = word.strip(".,?!")
        if bare.lower() in _SYNONYMS and rng.random() < 0.4:
            words[i] = word.replace(bare, str(rng.choice(_SYNONYMS[bare.lower()])))
    sentence = " ".join(words)
    sentence = sentence[:1].upper() + sentence[1:] if phrasing[:1].isupper() else sentence
    if choice == 1:
        return " ".join(w for w in (w.strip(".,?!") for w in words) if w.lower() not in _FILLERS) or phrasing
    if choice == 2:
        return sentence.rstrip(".?!").lower()
    if rng.integers(2):
        return _OPENINGS[rng.integers(len(_OPENINGS))] + sentence
    return sentence.rstrip(".") + ("" if sentence[-1] in "?!" else ".") + _ENDINGS[rng.integers(len(_ENDINGS))]


def prompts(tasks: Sequence[Task]) -> dict[str, list[dict]]:
    """Requests by group: `train` for PPO, `new phrasings` of training tasks and `new tasks` for evaluation."""
    groups: dict[str, list[dict]] = {"train": [], "new phrasings": [], "new tasks": []}
    for task in tasks:
        if task.held_out:
            groups["new tasks"] += [{"task": task.name, "prompt": p} for p in task.held_out_phrasings]
        else:
            groups["train"] += [{"task": task.name, "prompt": p} for p in task.train_phrasings]
            groups["new phrasings"] += [{"task": task.name, "prompt": p} for p in task.held_out_phrasings]
    return groups
