"""Before against after on held-out prompts: reward, tests, documentation, security, KL, length, and samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import advantages, evidence, rollout
from mlxrlhf.algorithms.rollout import SAMPLE_ROWS
from mlxrlhf.backends.protocol import Backend, ModelSettings
from mlxrlhf.config import EvaluateConfig, ModelConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_text
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.models.identity import trunk_digest
from mlxrlhf.models.outputs import OutputFolder
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.rewards.model import RewardModel, Scorer
from mlxrlhf.settings import to_json
from mlxrlhf.stages import sampling
from mlxrlhf.tasks import humaneval, quality
from mlxrlhf.tasks.judge import code_for, share_passed
from mlxrlhf.tasks.task import load_tasks

GROUPS = ("new phrasings", "new tasks")
#: the group of all prompts of --prompts
OWN = "your prompts"
#: what people should see first: the guide's own question
SHOWN = "Write a function to check if a number is prime"


def run(config: EvaluateConfig) -> dict:
    """Sample from both models, measure, write weights/SIZE/rlhf/evaluation. Returns the figures of summary.json."""
    after_folder, model_config, tokenizer = folders.open_checkpoint(config, "rlhf", config.checkpoint)
    before_folder = folders.open_checkpoint(config, "tools", config.before).folder
    out = Path(config.out) if config.out else after_folder / "evaluation"
    with OutputFolder(out, stage="evaluate", config=config, sources=(after_folder, before_folder)) as output:
        figures, samples = _measured(config, after_folder, before_folder, model_config, tokenizer)
        with output.replace(after=trunk_digest(after_folder), before=trunk_digest(before_folder)) as folder:
            with RunLog(folder, "evaluate", 1, to_json(config), quiet=True) as log:
                log.summary(figures)
            atomic_text(folder / "samples.json", json.dumps(samples, indent=1, ensure_ascii=False))
    return figures


def _measured(
    config: EvaluateConfig, after_folder: Path, before_folder: Path, model_config: ModelConfig, tokenizer: AnyTokenizer
) -> tuple[dict[str, Any], list[dict]]:
    """Figures of both models, and their answers side by side."""
    backend = backends.load(config.backend, config.device)
    plan.check(config, model_config, backend)
    # What may be missing is asked for before anything is sampled.
    judge = _judge(config, backend, tokenizer, before_folder) if config.suite != "humaneval" else None
    problems = humaneval.load() if config.suite != "tasks" else ()
    base, aligned = (
        # Each has its own shape: the model before may be packed, and the one after it is written whole.
        backend.Model(checkpoint.read_config(folder, config.quantize), ModelSettings(folder=folder, dtype=config.dtype))
        for folder in (before_folder, after_folder)
    )
    figures: dict[str, Any] = {"before": {}, "after": {}}
    samples: list[dict] = []
    if config.suite != "humaneval":
        figures, samples = _tasks(config, base, aligned, judge, tokenizer, model_config)
    if problems:
        for name, model in (("before", base), ("after", aligned)):
            figures[name] |= humaneval_figures(model, problems, config, tokenizer, model_config.max_positions)
    return figures, samples


def _judge(config: EvaluateConfig, backend: Backend, tokenizer: AnyTokenizer, before: Path) -> Scorer | None:
    """The reward model; None, said aloud, where none was named and none was trained: tests and parsing remain."""
    folder = folders.reward_model(config)
    if not config.reward_model and not (folder / "reward.json").exists():
        if config.best_of > 1:
            raise UserError(
                f"--best-of asks for a reward model, and there is none in {folder}; name one: --reward-model"
            )
        print(f"there is no reward model in {folder}: wins are judged by what is run and parsed alone")
        return None
    return RewardModel.open(folder, tokenizer).scorer(
        backend, tokenizer, before, dtype=config.dtype, quantize=config.quantize
    )


def humaneval_figures(
    model, problems: Sequence[humaneval.Problem], config, tokenizer, context: int
) -> dict[str, float]:
    """pass@1 on HumanEval: the share of `samples` sampled answers that pass, averaged over the problems.

    unseen leaves out the problems that our own task bank also asks for, in words of its own.
    """
    overlap = humaneval.Overlap(problems)
    ours = {overlap.find(f"{phrasing}\n{task.solution}") for task in load_tasks() for phrasing in task.phrasings}
    asked = [problem for problem in problems for _ in range(config.samples)]
    encoded = [dialogue.prompt([{"role": "user", "content": humaneval.request(p)}], tokenizer) for p in asked]
    sampling.check_context(encoded, config.max_tokens, context)
    responses = sampling.responses(
        model, encoded, config, tokenizer, np.random.default_rng(config.seed), "evaluate: HumanEval"
    )
    cut = sum(r[-1] not in tokenizer.ends for r in responses)
    answers = [dialogue.text(r, tokenizer) for r in responses]
    passed = np.array(humaneval.passes(asked, answers, unsafe=config.unsafe_exec), float)
    unseen = [i for i, problem in enumerate(asked) if problem.task_id not in ours]
    return {
        "humaneval_pass@1": float(passed.mean()),
        "humaneval_unseen": float(passed[unseen].mean()),
        "humaneval_cut_off": cut / len(asked),
    }


def _tasks(config: EvaluateConfig, base, aligned, judge, tokenizer, model_config) -> tuple[dict, list[dict]]:
    """Figures and answers of both models on held-out requests."""
    rows, ids = sampling.prompts_of(config, tokenizer, model_config.max_positions, GROUPS)
    prompts = [row for row in rows for _ in range(config.samples)]
    encoded = [one for one in ids for _ in range(config.samples)]
    groups = [OWN if config.prompts else p["group"] for p in prompts]
    sides = {
        name: _side(name, config, model, base, judge, prompts, encoded, tokenizer, keep)
        for name, model, keep in (("before", base, 1), ("after", aligned, config.best_of))
    }
    figures: dict[str, Any] = {
        name: _figures(side, sides["before"], range(len(prompts))) for name, side in sides.items()
    }
    figures["groups"] = {
        group: {
            name: _figures(side, sides["before"], [i for i, own in enumerate(groups) if own == group])
            for name, side in sides.items()
        }
        for group in dict.fromkeys(groups)
    }
    figures["changes"] = _changes(sides["before"], sides["after"], [str(p["prompt"]) for p in prompts])
    samples = [
        {
            "prompt": p["prompt"],
            "group": groups[i],
            **{name: side["texts"][i] for name, side in sides.items()},
            **{f"score_{name}": _or_none(side["scores"][i]) for name, side in sides.items()},
            **{f"passed_{name}": _or_none(side["passed"][i]) for name, side in sides.items()},
        }
        for i, p in enumerate(prompts)
    ]
    return figures, samples


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _side(
    name: str,
    config: EvaluateConfig,
    model,
    base,
    judge,
    prompts: Sequence[dict],
    encoded: Sequence[list[int]],
    tokenizer,
    keep: int,
) -> dict:
    """One model's answers and all that is measured on them; of `keep` answers to a prompt, the judge's favourite."""
    asked = [ids for ids in encoded for _ in range(keep)]
    responses = sampling.responses(
        model, asked, config, tokenizer, np.random.default_rng(config.seed), f"evaluate: {name}"
    )
    scores, kl = np.zeros(len(asked)), np.zeros(len(asked))
    for part in rollout.of_similar_length([len(ids) for ids in asked], SAMPLE_ROWS):
        some, answers = [asked[i] for i in part], [responses[i] for i in part]
        batch = rollout.arrange(some, answers, tokenizer.pad_id)
        # The divergence is that of the distributions sampled from; greedy answers are judged at temperature 1.
        judged = base.evaluate(batch, ("logp", "features"), temperature=config.temp or 1.0)
        own = model.evaluate(batch, ("logp",), temperature=config.temp or 1.0)["logp"]
        kl[part] = (advantages.kl_estimate(own, judged["logp"]) * batch["mask"]).sum(axis=1)
        scores[part] = judge(some, answers, judged["features"]) if judge else np.nan
    best = np.arange(0, len(asked), keep) + (scores.reshape(-1, keep).argmax(axis=1) if judge else 0)
    texts = [dialogue.text(responses[i], tokenizer) for i in best]
    codes = [code_for(prompt["tests"], text) for prompt, text in zip(prompts, texts)]
    tested = [i for i, prompt in enumerate(prompts) if prompt["tests"]]
    passed = np.full(len(prompts), np.nan)
    shares = share_passed([(prompts[i]["tests"], codes[i]) for i in tested], unsafe=config.unsafe_exec)
    passed[tested] = [share == 1 for share in shares]
    return {
        "texts": texts,
        "scores": scores[best],
        "lengths": [len(responses[i]) for i in best],
        # Choosing the best of n moves away by at most log n - (n - 1) / n (Beirami et al. 2024).
        "kl": kl[best] + np.log(keep) - (keep - 1) / keep,
        "quality": quality.measure(codes),
        "passed": passed,
    }


def _verified(side: dict, i: int) -> tuple[int, ...]:
    """An answer's rank by what is run and parsed, nothing learned: its tests first, then how it is written."""
    q = side["quality"][i]
    return side["passed"][i] == 1, q.parses + q.docstring + q.type_hints + (q.parses and not q.insecure)


def _values(side: dict, baseline: dict) -> dict[str, np.ndarray]:
    """Every measure of every answer, (N,) each, NaN where it does not apply. A tie counts half, so that a model beside
    itself wins 50%."""
    measured = side["quality"]
    ranks = [(_verified(side, i), _verified(baseline, i)) for i in range(len(measured))]
    values = {
        "win_rate": evidence.wins(side["scores"] - baseline["scores"]),
        "verified_win_rate": [(own > other) + (own == other) / 2 for own, other in ranks],
        "score": side["scores"],
        "parses": [q.parses for q in measured],
        "passes_tests": side["passed"],
        "docstring": [q.docstring for q in measured],
        "type_hints": [q.type_hints for q in measured],
        "no_insecure_pattern": [q.parses and not q.insecure for q in measured],
        "kl": side["kl"],
        "length": side["lengths"],
    }
    return {name: np.asarray(value, float) for name, value in values.items()}


def _figures(side: dict, baseline: dict, rows: Sequence[int]) -> dict[str, float]:
    """Means over some answers; a measure that applies to none is left out."""
    rows = list(rows)
    figures: dict[str, float] = {"answers": len(rows)}
    for name, values in _values(side, baseline).items():
        there = values[rows][~np.isnan(values[rows])]
        if len(there):
            figures[name] = float(there.mean())
    return figures


def _changes(before: dict, after: dict, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """By measure: difference and 95% interval, paired over the prompts."""
    own, other = _values(before, before), _values(after, before)
    changes = {name: evidence.paired_change(own[name], other[name], prompts) for name in own}
    return {name: asdict(change) for name, change in changes.items() if not np.isnan(change.difference)}
