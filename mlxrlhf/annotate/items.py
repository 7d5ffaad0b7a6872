"""What people judge: the two sides of preference pairs, or answers sampled from one model or two."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxrlhf import backends
from mlxrlhf.annotate.store import Item, Store
from mlxrlhf.config import AnnotateConfig
from mlxrlhf.data import dialogue, files
from mlxrlhf.data.rows import Messages, conversation
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders, published
from mlxrlhf.models.adapters import load_model
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.stages import sampling
from mlxrlhf.tasks import requests
from mlxrlhf.tasks.task import Task

#: prompts sampled in one batch
SAMPLED_TOGETHER = 32


class Asked(NamedTuple):
    """A prompt to sample answers to: text or messages, its task and tests, and the tools on offer."""

    prompt: str | Messages
    task: str
    tests: tuple[str, ...]
    tools: list[dict[str, Any]]


def from_file(source: str, bank: Sequence[Task]) -> list[Item]:
    """Items of preference data in any form that `mlxrlhf reward --data` reads: a is the chosen answer, b the rejected
    one."""
    own = {
        json.dumps(row.get("prompt")): (row["tests"], place)
        for place, row in files.rows(source)
        if row.get("tests") is not None
    }
    tests_of = _Tests(bank)
    return [
        Item(
            p.prompt,
            p.chosen,
            p.rejected,
            "chosen",
            "rejected",
            Path(source).name,
            p.criterion,
            *tests_of(p.prompt, p.task, *own.get(json.dumps(p.prompt), (None, ""))),
        )
        for p in load_pairs(source)
    ]


def read_prompts(config: AnnotateConfig, bank: Sequence[Task]) -> list[Asked]:
    """Each different prompt of --prompts."""
    tests_of = _Tests(bank)
    by_prompt: dict[str, Asked] = {}
    for place, row in requests.load_prompts(config):
        prompt = row["prompt"]
        task, tests = tests_of(prompt, str(row.get("task") or ""), row.get("tests"), place)
        by_prompt.setdefault(json.dumps(prompt), Asked(prompt, task, tests, row.get("tools") or []))
    asked = list(by_prompt.values())
    if config.max_prompts:
        order = np.random.default_rng(config.seed).permutation(len(asked))
        asked = [asked[i] for i in sorted(order[: config.max_prompts])]
    return asked


class _Tests:
    """Which task of the bank a row is about, and the tests its answers should pass."""

    def __init__(self, bank: Sequence[Task]):
        self.by_name = {task.name: task for task in bank}
        self.by_prompt = {phrasing: task for task in bank for phrasing in task.phrasings}

    def __call__(self, prompt: str | list, name: str, tests, place: str) -> tuple[str, tuple[str, ...]]:
        if tests is not None:
            if not isinstance(tests, list) or not all(isinstance(t, str) for t in tests):
                raise UserError(f"{place}: tests must be a list of assert statements")
            return name, tuple(tests)
        task = self.by_name.get(name) or (self.by_prompt.get(prompt) if isinstance(prompt, str) else None)
        return (task.name, task.tests) if task else (name, ())


# --- sampling ------------------------------------------------------------------------------------------------------


def sample(config: AnnotateConfig, store: Store, bank: Sequence[Task], say: Callable[[str], None]) -> int:
    """Add two sampled answers for every prompt that has none yet from these models; how many items are new.

    With one model both answers are its own. Each batch is saved as soon as both have answered it.
    """
    asked = read_prompts(config, bank)
    first = folders.find_model(config.model)
    sides = [first, folders.find_model(config.model_b) if config.model_b else first]
    names = [side.name for side in sides]
    source = " and ".join(dict.fromkeys(names))
    prompts = [p for p in asked if not store.has(source, p.prompt)]
    if not prompts:
        return 0
    backend = backends.load(config.backend, config.device)
    answerers: dict[str, Callable] = {side.name: _answerer(side, config, backend) for side in set(sides)}
    labels = [published.label(name) for name in names]
    if labels[0] == labels[1]:
        labels = names
    new = same = 0
    for at in range(0, len(prompts), SAMPLED_TOGETHER):
        some = prompts[at : at + SAMPLED_TOGETHER]
        rngs = [np.random.default_rng([config.seed, at, side]) for side in (0, 1)]
        both = [answerers[name](some, rng) for name, rng in zip(names, rngs)]
        different = [
            Item(asked.prompt, a, b, labels[0], labels[1], source, task=asked.task, tests=asked.tests)
            for asked, a, b in zip(some, *both)
            if a != b
        ]
        new, same = new + store.add(different), same + len(some) - len(different)
        say(f"annotate: sampled answers to {at + len(some):,} of {len(prompts):,} prompts")
    if same:
        say(f"annotate: {same:,} prompts got the same answer twice and are left out; a higher --temp makes fewer")
    return new


def _answerer(
    found: folders.Found, config: AnnotateConfig, backend
) -> Callable[[Sequence[Asked], np.random.Generator], list[str]]:
    """A function from prompts to a model's sampled answers."""
    tokenizer = folders.tokenizer_for(config, found.folder, found.adapter)
    model = load_model(backend, found.folder, found.adapter, dtype=config.dtype)

    def answer(asked: Sequence[Asked], rng: np.random.Generator) -> list[str]:
        encoded = [dialogue.prompt(conversation(one.prompt), tokenizer, one.tools) for one in asked]
        sampling.check_context(encoded, config.max_tokens, model.config.max_positions)
        return [dialogue.text(r, tokenizer) for r in sampling.responses(model, encoded, config, tokenizer, rng)]

    return answer


def task_of(row: Mapping) -> Task:
    """The item's tests as a task that answers can be run against."""
    return Task(row["task"] or "item", (), "", "", tuple(json.loads(row["tests"])))
