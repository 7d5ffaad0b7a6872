"""The guide's own question before and after PPO: many answers of the shipped model to phrasings held out of training.

    .venv-bench/bin/python benchmarks/alignment/one_request.py [--task is_prime] [--samples 100]

Every answer is run. "Work grows as the root" counts executed bytecodes at the task's two sizes (101 and 1,009, primes,
for is_prime): dividing by all smaller numbers takes ten times as many, dividing up to the root three times. Writes
one_request.md beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mlxrlhf import backends
from mlxrlhf.config import EvaluateConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.models import checkpoint, published
from mlxrlhf.models.adapters import load_model
from mlxrlhf.stages import sampling
from mlxrlhf.tasks import quality
from mlxrlhf.tasks.judge import code_for, named_for, operations, passes
from mlxrlhf.tasks.task import Task, load_tasks

#: growth of the work from the smaller size to the larger, between that of the root (3.2) and that of all (10)
ROOT = 5


def figures(task: Task, answers: list[str]) -> dict[str, float]:
    """Shares of the answers: right, with work that grows as the root, documented, hinted, and all of these."""
    codes = [code_for(task.tests, answer) for answer in answers]
    passed = np.array(passes([(task, code) for code in codes]))
    # A loop without end is not timed: only what passes its tests.
    named = [named_for(task.tests, code) for code in codes]
    calls = list(dict.fromkeys((named[i], call) for i in np.flatnonzero(passed) for call in task.sizes))
    counted = dict(zip(calls, operations(calls), strict=True))
    work = [[counted.get((code, call)) or np.inf for call in task.sizes] for code in named]
    root = np.array([p and large < ROOT * small < np.inf for p, (small, large) in zip(passed, work, strict=True)])
    measured = quality.measure(codes)
    docstring = np.array([q.docstring for q in measured])
    return {
        "passes its tests": passed.mean(),
        "and work grows as the root": root.mean(),
        "docstring": docstring.mean(),
        "type hints": np.mean([q.type_hints for q in measured]),
        "documented, right, up to the root": (root & docstring).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="is_prime")
    parser.add_argument("--samples", type=int, default=100, help="answers to each phrasing")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    a = parser.parse_args()
    task = next(task for task in load_tasks() if task.name == a.task)
    folder = published.shipped()
    tokenizer, backend = open_tokenizer(folder), backends.load(a.backend)
    prompts = [{"prompt": p} for p in task.held_out_phrasings for _ in range(a.samples)]
    encoded = sampling.encode_prompts(prompts, tokenizer)
    config = EvaluateConfig(temp=0.7, max_tokens=128)
    sampling.check_context(encoded, config.max_tokens, checkpoint.read_config(folder).max_positions)
    columns = {}
    for name, adapter in (("before", ""), ("after", str(folder / "adapters"))):
        model = load_model(backend, folder, adapter)
        found = sampling.responses(model, encoded, config, tokenizer, np.random.default_rng(0), name)
        columns[name] = figures(task, [dialogue.text(ids, tokenizer) for ids in found])
    lines = [
        f"{len(prompts)} answers at temperature {config.temp} to: {'; '.join(task.held_out_phrasings)}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    lines += [f"| {key} | " + " | ".join(f"{c[key]:.0%}" for c in columns.values()) + " |" for key in columns["before"]]
    (a.out / "one_request.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
