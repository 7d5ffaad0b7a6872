"""Preference pairs whose every label was checked by running the two answers or by measuring them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlxrlhf.data import degrade, quality, tasks
from mlxrlhf.data.dialogue import check_messages, read_jsonl
from mlxrlhf.data.tasks import Task, format_answer
from mlxrlhf.errors import UserError

#: share of each criterion among the pairs, as far as there are candidates
SHARES = {"correctness": 0.25, "efficiency": 0.10, "readability": 0.25, "style": 0.25, "security": 0.15}


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt (text, or the turns before the answer); criterion and rationale say why the first is
    preferred."""

    prompt: str | list[dict]
    chosen: str
    rejected: str
    criterion: str = "preference"
    rationale: str = ""
    task: str = ""


def build(bank: Sequence[Task], count: int, seed: int, unsafe: bool = False) -> tuple[list[Pair], dict[str, int]]:
    """About `count` verified pairs, and how many candidates were verified or dropped, by reason.

    Within a criterion, pairs whose chosen answer is longer and pairs whose chosen answer is shorter alternate as far as
    there are both, so that length says little.
    """
    rng, report = np.random.default_rng(seed), Counter()
    candidates = [(task, criterion, code, why) for task in bank for criterion, code, why in _candidates(task, rng)]
    candidates = list({(t.name, c, code): (t, c, code, why) for t, c, code, why in candidates}.values())
    kept = _verified(candidates, report, unsafe)
    pairs = []
    for held_out, share in ((False, 0.85), (True, 0.15)):
        side = [item for item in kept if item[0].held_out == held_out]
        wanted = {criterion: int(count * share * part) for criterion, part in SHARES.items()}
        for criterion, number in wanted.items():
            longer, shorter = [], []
            for task, found, code, why in side:
                if found == criterion:
                    phrasings = task.phrasings if held_out else task.train_phrasings
                    group = longer if len(task.solution) > len(code) else shorter
                    group += [Pair(p, format_answer(task.solution), format_answer(code), criterion, why, task.name)
                              for p in phrasings]
            groups = [[group[i] for i in rng.permutation(len(group))] for group in (longer, shorter)]
            half = [min(len(group), max(number // 2, number - len(other)))
                    for group, other in (groups, groups[::-1])]
            pairs += groups[0][:half[0]] + groups[1][:half[1]]
    report["pairs"] = len(pairs)
    return [pairs[i] for i in rng.permutation(len(pairs))], dict(report)


def _candidates(task: Task, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(criterion, rejected code, rationale), not yet verified."""
    reasons = {"correctness": "the other fails a test", "efficiency": "the other does more work",
               "security": "the other runs text as code, hides errors or trusts its input",
               "readability": "the other is harder to read", "style": "the other breaks the style guide"}
    found = [(criterion, code, reasons[criterion]) for criterion, codes in task.rejected.items() for code in codes]
    found.append(("readability", task.naive, "the other has neither docstring nor type hints"))
    return found + degrade.variants(task.solution, rng)


def _verified(candidates: list, report: Counter, unsafe: bool) -> list:
    """The candidates whose label holds when the codes are run and measured."""
    solutions = list({task.name: task for task, *_ in candidates}.values())
    codes = [(task, task.solution) for task in solutions] + [(task, code) for task, _, code, _ in candidates]
    passed = dict(zip([(t.name, c) for t, c in codes], tasks.passes(codes, unsafe=unsafe)))
    measured = dict(zip([c for _, c in codes], quality.measure([c for _, c in codes])))
    timed = [(t, code) for t, criterion, code, _ in candidates if criterion == "efficiency" and t.sizes]
    calls = [(c, call) for t, code in timed for c in (t.solution, code) for call in t.sizes]
    counts = dict(zip(calls, tasks.operations(calls, unsafe=unsafe))) if calls else {}
    kept = []
    for task, criterion, code, why in candidates:
        if not passed[task.name, task.solution]:
            report["dropped: the solution fails"] += 1
            continue
        good, bad, works = measured[task.solution], measured[code], passed[task.name, code]
        if criterion == "correctness":
            holds = not works
        elif not works:
            holds = False
        elif criterion == "efficiency":
            four = [counts.get((c, call)) for c in (task.solution, code) for call in task.sizes]
            holds = len(four) == 4 and None not in four and four[0] < four[2] and four[1] < four[3] \
                and four[1] * four[2] <= four[3] * four[0]
        elif criterion == "security":
            holds = not good.insecure and bool(bad.insecure)
        elif criterion == "style":
            holds = bad.lint > good.lint
        else:
            holds = (good.docstring, good.type_hints) > (bad.docstring, bad.type_hints) \
                or bad.short_names > good.short_names or bad.complexity > good.complexity
        report[f"verified {criterion}" if holds else f"dropped: {criterion} not borne out"] += 1
        if holds:
            kept.append((task, criterion, code, why))
    return kept


def from_samples(requests: Sequence[tuple[Task, str]], answers: Sequence[str], seed: int,
                 unsafe: bool = False) -> list[Pair]:
    """Pairs out of a model's own answers to (task, prompt) requests, ranked by running and measuring them.

    Each answer is the rejected side against one of the better answers to the same task, the task's solution among them.
    What a model gets wrong is what its reward model must see: hand-made mistakes are of another kind.
    """
    rng = np.random.default_rng(seed)
    solutions = list({task.name: task for task, _ in requests}.values())
    owners = [*solutions, *(task for task, _ in requests)]
    codes = [task.solution for task in solutions] + [tasks.extract_code(answer) for answer in answers]
    passed = tasks.passes(list(zip(owners, codes)), unsafe=unsafe)
    ranked: dict[str, list[tuple[tuple, str]]] = {}
    for task, code, works, q in zip(owners, codes, passed, quality.measure(codes, lint=False)):
        rank = (works, q.parses, not q.insecure, q.docstring + q.type_hints)
        ranked.setdefault(task.name, []).append((rank, code))
    pairs, place = [], Counter(task.name for task in solutions)
    for (task, prompt), answer in zip(requests, answers):
        rank, code = ranked[task.name][place[task.name]]
        place[task.name] += 1
        better = [other for other in ranked[task.name] if other[0] > rank]
        if not better:
            continue
        best, chosen = better[rng.integers(len(better))]
        differs = next(i for i in range(len(rank)) if best[i] != rank[i])
        criterion, why = (("correctness", "the other fails a test"), ("correctness", "the other does not parse"),
                          ("security", "the other has an insecure pattern"),
                          ("readability", "the other is less documented"))[differs]
        pairs.append(Pair(prompt, format_answer(chosen), answer, criterion, why, task.name))
    return pairs


def split(pairs: Sequence[Pair], bank: Sequence[Task]) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs, by task."""
    held_out = {task.name for task in bank if task.held_out}
    return [p for p in pairs if p.task not in held_out], [p for p in pairs if p.task in held_out]


def length_baseline(pairs: Sequence[Pair]) -> float:
    """Accuracy of a judge that prefers the longer answer; ties count half."""
    differences = [len(p.chosen) - len(p.rejected) for p in pairs]
    return float(np.mean((np.sign(differences) + 1) / 2)) if pairs else 0.0


def messages(pair: Pair) -> list[dict]:
    """The dialogue that both answers continue."""
    return [{"role": "user", "content": pair.prompt}] if isinstance(pair.prompt, str) else pair.prompt


def to_json(pair: Pair) -> dict:
    """The pair as a row of rlhf_preferences.json."""
    return asdict(pair)


# --- a user's own pairs --------------------------------------------------------------------------------------------

def load_pairs(path: Path) -> list[Pair]:
    """JSONL of {prompt, chosen, rejected[, criterion, rationale, task]}; each may be text or a list of messages.

    Of an answer's messages the last counts; a prompt of several turns is kept whole.

    Raises UserError naming file and line.
    """
    return [_pair(row, place) for place, row in read_jsonl(path)]


def _pair(row: dict, place: str) -> Pair:
    for name in ("chosen", "rejected"):
        if not row.get(name):
            raise UserError(f'{place} has no "{name}"; each line needs prompt, chosen and rejected')
    prompt = row.get("prompt")
    if not prompt and isinstance(row["chosen"], list):
        prompt = row["chosen"][:-1]
    if isinstance(prompt, list) and len(prompt) > 1:
        prompt = check_messages(prompt, f"{place}: prompt")
    else:
        prompt = _text(prompt)
    texts = {"prompt": prompt, "chosen": _text(row["chosen"]), "rejected": _text(row["rejected"])}
    for name, text in texts.items():
        if not text:
            raise UserError(f"{place}: {name} must be text, or messages with content")
    if texts["chosen"] == texts["rejected"]:
        raise UserError(f"{place}: chosen and rejected are the same; a pair must differ")
    return Pair(**texts, **{k: str(row[k]) for k in ("criterion", "rationale", "task") if row.get(k)})


def _text(value) -> str | None:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    return value if isinstance(value, str) else None
