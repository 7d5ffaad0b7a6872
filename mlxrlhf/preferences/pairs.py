"""Preference pairs whose every label was checked by running the two answers or by measuring them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mlxrlhf.preferences import degrade
from mlxrlhf.tasks import quality
from mlxrlhf.tasks.answers import format_answer, parse
from mlxrlhf.tasks.judge import code_for, operations, passes
from mlxrlhf.tasks.task import Task

#: share of each criterion among the pairs, as far as there are candidates
SHARES = {"correctness": 0.25, "efficiency": 0.10, "readability": 0.25, "style": 0.25, "security": 0.15}


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; criterion and rationale say why the first is preferred.

    prompt: a user's request, or the messages of a conversation up to where the assistant answers. Tool calls of the
    answers are spelled, in our own form: every model's template writes them in its own.
    """

    prompt: str | list[dict]
    chosen: str
    rejected: str
    criterion: str = "preference"
    rationale: str = ""
    task: str = ""
    weight: float = 1.0  # how much the pair counts in the reward model's loss
    tools: Sequence[dict] = ()  # schemas of the tools on offer
    place: str = field(default="", compare=False)  # file and line, where it was read from one

    @property
    def messages(self) -> list[dict]:
        """The prompt as messages, for the tokenizer's template."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt


def build_pairs(bank: Sequence[Task], count: int, seed: int, unsafe: bool = False) -> tuple[list[Pair], dict[str, int]]:
    """`count` verified pairs, or all there are, and how many candidates were verified or dropped, by reason.

    What a criterion lacks is taken from the others. Within a criterion, pairs whose chosen answer is longer and pairs
    whose chosen answer is shorter are of equal number as far as there are both, so that length says little, and every
    task gives a pair before any gives a second.
    """
    rng = np.random.default_rng(seed)
    report: Counter[str] = Counter()
    candidates = [(task, criterion, code, why) for task in bank for criterion, code, why in _candidates(task, rng)]
    # Of two equal codes the first one's reason is true: a later transformation found nothing more to change.
    candidates = list({(t.name, c, code): (t, c, code, why) for t, c, code, why in candidates[::-1]}.values())[::-1]
    candidates = _enough(candidates, len(bank), count, rng)
    possible: dict[tuple[bool, str], list[Pair]] = {}
    for task, criterion, code, why in _verified(candidates, report, unsafe):
        solution = _in_the_layout_of(code, task.solution, criterion)
        possible.setdefault((task.held_out, criterion), []).extend(
            Pair(phrasing, format_answer(solution), format_answer(code), criterion, why, task.name)
            for phrasing in (task.phrasings if task.held_out else task.train_phrasings)
        )
    sides = {
        held_out: {criterion: len(some) for (side, criterion), some in possible.items() if side == held_out}
        for held_out in (False, True)
    }
    wanted = _quotas(count, {False: 0.85, True: 0.15}, {side: sum(numbers.values()) for side, numbers in sides.items()})
    pairs: list[Pair] = []
    for held_out, numbers in sides.items():
        for criterion, number in _quotas(wanted[held_out], SHARES, numbers).items():
            pairs += _drawn(possible[held_out, criterion], number, rng)
    report["pairs"] = len(pairs)
    return [pairs[i] for i in rng.permutation(len(pairs))], dict(report)


#: a task, a criterion, a code that is worse by it, and why
Candidate = tuple[Task, str, str, str]


def _enough(candidates: list[Candidate], tasks: int, count: int, rng: np.random.Generator) -> list[Candidate]:
    """At most so many candidates of each task and criterion as are needed three times over: verifying takes long."""
    seen: Counter[tuple[str, str]] = Counter()
    kept: list[int] = []
    for i in rng.permutation(len(candidates)):
        task, criterion = candidates[i][:2]
        number = 3 * count * SHARES[criterion] / (tasks * max(1, len(task.train_phrasings)))
        if seen[task.name, criterion] < max(2, number):
            seen[task.name, criterion] += 1
            kept.append(i)
    return [candidates[i] for i in sorted(kept)]


def _quotas(count: int, shares: dict, available: dict) -> dict:
    """How many of each name to take: in proportion to `shares`, no more than `available`, `count` in all if possible.

    >>> _quotas(10, {"a": 0.5, "b": 0.5}, {"a": 2, "b": 20})
    {'a': 2, 'b': 8}
    """
    quotas = dict.fromkeys(available, 0)
    for _ in range(min(count, sum(available.values()))):
        spare = [name for name in available if quotas[name] < available[name]]
        quotas[min(spare, key=lambda name: (quotas[name] + 1) / shares[name])] += 1
    return quotas


def _drawn(pairs: list[Pair], number: int, rng: np.random.Generator) -> list[Pair]:
    """`number` of the pairs, balanced in length and spread over the tasks."""
    groups: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in (pairs[i] for i in rng.permutation(len(pairs))):
        longer, shorter = groups
        (longer if len(pair.chosen) > len(pair.rejected) else shorter).append(pair)
    for group in groups:
        seen: Counter[str] = Counter()
        turns = []
        for pair in group:
            turns.append(seen[pair.task])
            seen[pair.task] += 1
        group[:] = [group[i] for i in np.argsort(turns, kind="stable")]
    longer, shorter = groups
    first = min(len(longer), max(number // 2, number - len(shorter)))
    return longer[:first] + shorter[: number - first]


def _in_the_layout_of(code: str, solution: str, criterion: str) -> str:
    """The solution as `ast.unparse` writes it where the other answer was written by it, unless layout is the point.

    Otherwise quotes and comments alone would tell the two apart.
    """
    if criterion == "readability":
        return solution
    tree = parse(code)
    written_by_unparse = isinstance(tree, ast.Module) and code == ast.unparse(tree)
    return ast.unparse(ast.parse(solution)) if written_by_unparse else solution


def _candidates(task: Task, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(criterion, rejected code, rationale), not yet verified."""
    reasons = {
        "correctness": "the other fails a test",
        "efficiency": "the other does more work",
        "security": "the other runs text as code, hides errors or trusts its input",
        "readability": "the other is harder to read",
        "style": "the other breaks the style guide",
    }
    written = [(criterion, code, reasons[criterion]) for criterion, codes in task.rejected.items() for code in codes]
    written.append(("readability", task.naive, "the other has neither docstring nor type hints"))
    return written + degrade.variants(task.solution, rng)


def _verified(candidates: list[Candidate], report: Counter[str], unsafe: bool) -> list[Candidate]:
    """The candidates whose label holds when the codes are run and measured."""
    solutions = list({task.name: task for task, *_ in candidates}.values())
    codes = [(task, task.solution) for task in solutions] + [(task, code) for task, _, code, _ in candidates]
    passed = dict(zip([(t.name, c) for t, c in codes], passes(codes, unsafe=unsafe)))
    measured = dict(zip([c for _, c in codes], quality.measure([c for _, c in codes])))
    timed = [(t, code) for t, criterion, code, _ in candidates if criterion == "efficiency" and passed[t.name, code]]
    slower = _slower(timed, unsafe)
    kept = []
    for task, criterion, code, why in candidates:
        if not passed[task.name, task.solution]:
            report["dropped: the solution fails"] += 1
            continue
        works = passed[task.name, code]
        if criterion == "correctness":
            holds = not works
        elif criterion == "efficiency":
            holds = works and (task.name, code) in slower
        else:
            holds = works and _is_worse(criterion, measured[code], measured[task.solution])
        report[f"verified {criterion}" if holds else f"dropped: {criterion} not borne out"] += 1
        if holds:
            kept.append((task, criterion, code, why))
    return kept


def _is_worse(criterion: str, bad: quality.Quality, good: quality.Quality) -> bool:
    """Whether the measured quality bears out that one of two codes is worse by a criterion."""
    if criterion == "security":
        return not good.insecure and bool(bad.insecure)
    if criterion == "style":
        return bad.lint > good.lint
    less_documented = (good.docstring, good.type_hints) > (bad.docstring, bad.type_hints)
    return less_documented or bad.short_names > good.short_names or bad.complexity > good.complexity


def _slower(codes: Sequence[tuple[Task, str]], unsafe: bool) -> set[tuple[str, str]]:
    """(task, code) of those that take more operations than the solution, at two sizes, and grow no slower."""
    sizes = {task.name: task.sizes or _small_and_large(task) for task, _ in codes}
    calls = list(dict.fromkeys((c, call) for t, code in codes for c in (t.solution, code) for call in sizes[t.name]))
    counts = dict(zip(calls, operations(calls, unsafe=unsafe))) if calls else {}
    slower = set()
    for task, code in codes:
        four = [counts.get((c, call)) for c in (task.solution, code) for call in sizes[task.name]]
        known = [count for count in four if count is not None]
        if len(four) != 4 or len(known) != 4:
            continue
        small, large, slow_small, slow_large = known
        if small < slow_small and large < slow_large and large * slow_small <= slow_large * small:
            slower.add((task.name, code))
    return slower


def _small_and_large(task: Task) -> tuple[str, ...]:
    """The shortest and the longest call among a task's tests, where it names no two sizes itself."""
    names = {node.name for node in ast.parse(task.solution).body if isinstance(node, ast.FunctionDef)}
    calls = {
        ast.unparse(node)
        for test in task.tests
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    }
    ordered = sorted(calls, key=lambda call: (len(call), call))
    return (ordered[0], ordered[-1]) if len(ordered) > 1 else ()


def from_samples(
    requests: Sequence[tuple[Task, str]], answers: Sequence[str], seed: int, unsafe: bool = False
) -> list[Pair]:
    """Pairs out of a model's own answers to (task, prompt) requests, ranked by running and measuring them.

    Each answer is the rejected side against one of the better answers to the same task, its solution among them. What a
    model gets wrong is what its reward model must see: hand-made mistakes are of another kind. A better answer of the
    model's own stays as it was said, prose included, or the pair would teach that prose is wrong.
    """
    rng = np.random.default_rng(seed)
    solutions = list({task.name: task for task, _ in requests}.values())
    owners = [*solutions, *(task for task, _ in requests)]
    texts = [format_answer(task.solution) for task in solutions] + list(answers)
    codes = [code_for(task.tests, text) for task, text in zip(owners, texts)]
    passed = passes(list(zip(owners, codes)), unsafe=unsafe)
    ranked: dict[str, list[tuple[tuple, str]]] = {}
    for task, text, works, q in zip(owners, texts, passed, quality.measure(codes, lint=False)):
        rank = (works, q.parses, not q.insecure, q.docstring + q.type_hints)
        ranked.setdefault(task.name, []).append((rank, text))
    pairs, place = [], Counter(task.name for task in solutions)
    for (task, prompt), answer in zip(requests, answers):
        rank, _ = ranked[task.name][place[task.name]]
        place[task.name] += 1
        better = [other for other in ranked[task.name] if other[0] > rank]
        if not better:
            continue
        best, chosen = better[rng.integers(len(better))]
        differs = next(i for i in range(len(rank)) if best[i] != rank[i])
        criterion, why = (
            ("correctness", "the other fails a test"),
            ("correctness", "the other does not parse"),
            ("security", "the other has an insecure pattern"),
            ("readability", "the other is less documented"),
        )[differs]
        pairs.append(Pair(prompt, chosen, answer, criterion, why, task.name))
    return pairs


def split_by_task(pairs: Sequence[Pair], bank: Sequence[Task]) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs, by task."""
    held_out = {task.name for task in bank if task.held_out}
    return [p for p in pairs if p.task not in held_out], [p for p in pairs if p.task in held_out]


def length_baseline(pairs: Sequence[Pair]) -> float:
    """Accuracy of a judge that prefers the longer answer; ties count half."""
    differences = [len(p.chosen) - len(p.rejected) for p in pairs]
    return float(np.mean((np.sign(differences) + 1) / 2)) if pairs else 0.0


def pair_to_json(pair: Pair) -> dict:
    """The pair as a row of rlhf_preferences.json."""
    return {key: value for key, value in asdict(pair).items() if value or key not in ("tools", "place")}


def split_by_prompt(pairs: Sequence[Pair], seed: int, share: float = 0.1) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs; all pairs of one prompt are on one side."""
    prompts = sorted({repr(pair.prompt) for pair in pairs})
    order = np.random.default_rng(seed).permutation(len(prompts))
    held_out = {prompts[i] for i in order[: max(1, int(len(prompts) * share))]}
    return ([p for p in pairs if repr(p.prompt) not in held_out], [p for p in pairs if repr(p.prompt) in held_out])
