"""More tasks to make preference pairs of, beside our own bank: code that other people wrote.

    tasks            our own bank (nothing is fetched)
    reasoning-gym    reference solutions with input generators (codeio; Li et al. 2025), fetched as a pinned package
    stdlib           documented functions of the standard library
    package:NAME     documented functions of an installed distribution

Every source becomes `Task`s: a request, a solution, and tests whose expected outputs were recorded by running the
solution in the sandbox, twice over, on generated inputs. What has no tests to tell right from wrong is left out, and so
is what HumanEval asks for. From there on `preferences.build` treats all tasks alike.

The solutions of reasoning-gym were rewritten by a model: like everything here they run in the sandbox only.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import gzip
import hashlib
import json
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlxrlhf.data import corpora
from mlxrlhf.errors import UserError
from mlxrlhf.preferences.pairs import Pair, build_pairs
from mlxrlhf.sandbox import runner
from mlxrlhf.tasks import humaneval
from mlxrlhf.tasks.answers import parse, strip_documentation
from mlxrlhf.tasks.task import Task, load_tasks
from mlxrlhf.wheels import cached_wheel

REASONING_GYM = "reasoning-gym==0.1.25"
REASONING_GYM_SHA256 = "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435"
REASONING_GYM_DATA = ("reasoning_gym/data/codeio-hq.jsonl.gz", "reasoning_gym/data/codeio.jsonl.gz")
#: modules without side effects: what a solution may import
PURE = frozenset(
    "__future__ abc array base64 binascii bisect calendar cmath collections colorsys copy dataclasses "
    "datetime decimal difflib enum fractions functools hashlib heapq html itertools json keyword math "
    "numbers operator random re statistics string struct textwrap types typing unicodedata urllib "
    "zlib".split()
)
_FORBIDDEN = frozenset(
    "open input exec eval compile __import__ globals locals vars breakpoint exit quit id print memoryview".split()
)
#: recorded calls that become tests, and how many different outputs there must be among them
TESTS, DISTINCT = 8, 4
#: shorter functions hardly leave room for a mistake
LEAST_CHARACTERS = 120
HELD_OUT_SHARE = 0.15
BATCH = 64
PAIRS_PER_TASK, MOST_PER_TASK = 4, 12


@dataclass(frozen=True)
class Draft:
    """A function that may become a task. `generator` is code of a function that draws keyword arguments, or empty."""

    group: str  # what the split keeps together
    request: str
    code: str
    entry: str
    generator: str = ""
    examples: tuple[tuple[str, str], ...] = ()  # doctests: expression, what it prints
    spec: str = ""


@dataclass
class Collected:
    """Tasks of one source, and what became of everything that was read."""

    tasks: list[Task] = field(default_factory=list)
    report: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        left_out = [f"{count:,} {why}" for why, count in self.report.items() if why != "read"]
        return f"{self.report['read']:,} read, {len(self.tasks):,} tasks kept" + (
            f"; left out: {', '.join(left_out)}" if left_out else ""
        )


def build(
    sources: Sequence[str],
    count: int,
    seed: int,
    say: Callable[[str], None] = print,
    *,
    max_characters: int = 900,
    unsafe: bool = False,
) -> tuple[list[Pair], list[Task], Counter]:
    """`count` verified pairs, an equal part of each source, the tasks behind them, and candidates by outcome.

    What one source lacks is asked of those named after it. Says what was read, kept and left out, and why. Raises
    UserError for an unknown source, and where a package cannot be fetched.
    """
    warnings.simplefilter("ignore", SyntaxWarning)  # other people's code is parsed, not judged by its escapes
    for source in sources or [""]:
        if source not in ("tasks", "reasoning-gym", "stdlib") and not source.startswith("package:"):
            raise UserError(f"--sources {source}: choose among tasks, reasoning-gym, stdlib and package:NAME")
    overlap = None
    if set(sources) - {"tasks"}:
        try:
            overlap = humaneval.Overlap(humaneval.load())
        except UserError as error:
            raise UserError(f"{error}; every source but tasks is checked against HumanEval") from None
    pairs: list[Pair] = []
    bank: list[Task] = []
    report: Counter[str] = Counter()
    seen: set[str] = set()
    for left, source in zip(range(len(sources), 0, -1), sources):
        wanted = math.ceil((count - len(pairs)) / left)
        if overlap is None or source == "tasks":
            some: Sequence[Task] = load_tasks()
        else:
            # Few pairs of many tasks teach more than many pairs of few.
            collected = collect(
                source,
                wanted // PAIRS_PER_TASK,
                seed,
                max_characters=max_characters,
                overlap=overlap,
                seen=seen,
                unsafe=unsafe,
            )
            say(f"preferences: {source}: {collected}")
            some = collected.tasks
            wanted = min(wanted, MOST_PER_TASK * len(some))
        made, outcomes = build_pairs(some, wanted, seed, unsafe=unsafe)
        say(f"preferences: {source}: {len(made):,} pairs of {len({p.task for p in made}):,} tasks")
        pairs, bank = pairs + made, [*bank, *some]
        report.update(outcomes)
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[i] for i in order], bank, report


def collect(
    source: str,
    wanted: int,
    seed: int,
    *,
    max_characters: int,
    overlap: humaneval.Overlap,
    seen: set[str] | None = None,
    wheel: Path | None = None,
    unsafe: bool = False,
) -> Collected:
    """About `wanted` tasks of one source, drawn at random until there are enough.

    seen: fingerprints of solutions already taken, so that a copied function is one task. wheel: reasoning-gym's, when
    it is at hand.
    """
    collected, seen = Collected(), set() if seen is None else seen
    drafts = []
    for draft in _drafts(source, collected.report, wheel):
        collected.report["read"] += 1
        reason = _refused(draft, max_characters, overlap, seen)
        if reason:
            collected.report[reason] += 1
        else:
            drafts.append(draft)
    order = np.random.default_rng(seed).permutation(len(drafts))
    for start in range(0, len(order), BATCH):
        if len(collected.tasks) >= wanted:
            collected.report["not needed for --pairs"] = len(order) - start
            break
        some = [drafts[i] for i in order[start : start + BATCH]]
        for draft, tests in zip(some, _recorded(some, unsafe)):
            if isinstance(tests, str):
                collected.report[tests] += 1
            else:
                collected.tasks.append(_task(source, draft, tests))
    return collected


def _drafts(source: str, report: Counter, wheel: Path | None) -> Iterator[Draft]:
    if source == "reasoning-gym":
        return _reasoning_gym(wheel or cached_wheel(REASONING_GYM, REASONING_GYM_SHA256), report)
    return _library(corpora.documents(source, lambda line: None), report)


def _refused(draft: Draft, max_characters: int, overlap: humaneval.Overlap, seen: set[str]) -> str:
    """Why a draft is no task, before anything is run; "" when it may be one."""
    if len(draft.code) > max_characters:
        return f"longer than {max_characters:,} characters"
    if len(draft.code) < LEAST_CHARACTERS:
        return f"shorter than {LEAST_CHARACTERS} characters"
    if sum(letter > "\u024f" for letter in draft.request) > 0.1 * len(draft.request):
        return "not in English"
    tree = parse(draft.code)
    if not isinstance(tree, ast.Module):
        return "not valid Python"
    digest = hashlib.sha256(ast.dump(_bare(tree)).encode()).hexdigest()
    if digest in seen:
        return "repeated"
    seen.add(digest)
    if overlap.find(f"{draft.request}\n{draft.code}"):
        return "in HumanEval"
    return ""


def _bare(tree: ast.Module) -> ast.Module:
    return ast.parse(strip_documentation(ast.unparse(tree)))


def _task(source: str, draft: Draft, tests: tuple[str, ...]) -> Task:
    function = _function(draft)
    signature = f"`{draft.entry}({_parameters(function)})`"
    spec = f"\n\n{draft.spec}" if draft.spec else ""
    said = draft.request
    phrasings = (
        f"Write a Python function {signature}. {said}{spec}",
        f"{said} Implement it as {signature}.{spec}",
        f"I need {signature} in Python. {said}{spec}",
        f"{said} Please write {signature}.{spec}",
    )
    digest = int.from_bytes(hashlib.sha256(draft.group.encode()).digest()[:4], "big")
    name = f"{source}/{draft.group}" if draft.generator else f"{source}/{draft.group}:{draft.entry}"
    return Task(
        name, phrasings, draft.code, strip_documentation(draft.code), tests, held_out=digest < HELD_OUT_SHARE * 2**32
    )


def _parameters(function: ast.FunctionDef) -> str:
    """The signature without annotations."""
    bare = ast.parse(strip_documentation(ast.unparse(function))).body[0]
    return ast.unparse(bare.args) if isinstance(bare, ast.FunctionDef) else ""


def _function(draft: Draft) -> ast.FunctionDef:
    """The function that a draft asks for."""
    return next(n for n in ast.parse(draft.code).body if isinstance(n, ast.FunctionDef) and n.name == draft.entry)


# --- reasoning-gym ---------------------------------------------------------------------------------------------------

#: what the conversion to functions left in the code
_BOILERPLATE = re.compile(
    r"^\s*#.*(serializable|main function|necessary packages|reference code file|function "
    r"definitions in the code|return, the returned|all input arguments).*\n?",
    re.MULTILINE,
)


def _reasoning_gym(wheel: Path, report: Counter) -> Iterator[Draft]:
    """Reference solutions of codeio; only its data files are read."""
    with zipfile.ZipFile(wheel) as archive:
        for name in REASONING_GYM_DATA:
            text = gzip.decompress(archive.read(name)).decode("utf-8")
            # codeio-hq is one JSON list, the other a row a line.
            rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]
            for row in rows:
                sample = _BOILERPLATE.sub("", row["code_sample"])
                try:
                    code = _with_what_it_needs(ast.parse(sample), sample, "main_solution", report)
                    generator = next(
                        n.name
                        for n in ast.parse(row["input_generator"]).body
                        if isinstance(n, ast.FunctionDef) and "gen" in n.name
                    )
                except (SyntaxError, StopIteration):
                    report["read"] += 1
                    report["not valid Python"] += 1
                    continue
                if code is None:
                    report["read"] += 1
                    continue
                group = hashlib.sha256(row["code_sample"].encode()).hexdigest()[:12]
                yield Draft(
                    group,
                    " ".join(row["task_description"].split()),
                    code,
                    "main_solution",
                    f"{row['input_generator']}\n_generate = {generator}\n",
                    spec=row["input_output_spec"].strip(),
                )


# --- functions of libraries ------------------------------------------------------------------------------------------


def _library(documents: Iterator[tuple[str, str]], report: Counter) -> Iterator[Draft]:
    """Public, documented functions at the top level of modules, with what they need."""
    for name, text in documents:
        if name.startswith("idlelib"):  # its functions speak of Tk widgets, whatever they accept
            continue
        tree = parse(text)
        if not isinstance(tree, ast.Module):
            report["modules that do not parse"] += 1
            continue
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            request = _first_sentence(ast.get_docstring(node) or "")
            required = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
            inner = list(ast.walk(node))
            if (
                not request
                or node.decorator_list
                or not 1 <= required <= 4
                or None in node.args.kw_defaults
                or any(isinstance(n, (ast.Yield, ast.YieldFrom, ast.Global)) for n in inner)
            ):
                report["read"] += 1
                report["functions without a description, plain parameters or a result"] += 1
                continue
            code = _with_what_it_needs(tree, text, node.name, report)
            if code is None:
                report["read"] += 1
                continue
            examples = tuple(
                (e.source.strip(), e.want.strip())
                for e in _examples(ast.get_docstring(node) or "")
                if e.source.startswith(f"{node.name}(") and "\n" not in e.want.strip() and e.want.strip()
            )
            yield Draft(name, request, code, node.name, examples=examples)


def _first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, or "" where it says too little to be a request."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0].rstrip(".:") + "."
    words = sentence.split()
    fits = 4 <= len(words) <= 40 and sentence.isascii() and words[0][:1].isupper() and ">>>" not in sentence
    return sentence if fits else ""


def _examples(docstring: str) -> list[doctest.Example]:
    try:
        return doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return []


def _with_what_it_needs(tree: ast.Module, text: str, entry: str, report: Counter) -> str | None:
    """The source of a function with the imports, constants and functions of its module that it uses, as written.

    None, with the reason counted, where it needs more than pure modules of the standard library.
    """
    bound: dict[str, ast.stmt] = {}
    for node in tree.body:
        for name in _binds(node):
            bound[name] = node
    if not isinstance(bound.get(entry), ast.FunctionDef):
        report["without one function of that name"] += 1
        return None
    needed: dict[int, ast.stmt] = {}
    imports: dict[str, str] = {}
    waiting = [bound[entry]]
    while waiting:
        node = waiting.pop()
        if id(node) in needed:
            continue
        needed[id(node)] = node
        for name in _free_names(node):
            imported = bound.get(name)
            if isinstance(imported, (ast.Import, ast.ImportFrom)):
                line = _import_of(imported, name)
                if line is None:
                    report["with imports beyond pure standard modules"] += 1
                    return None
                imports[name] = line
            elif name in bound:
                waiting.append(bound[name])
            elif name in _FORBIDDEN:
                report["with effects beyond their result"] += 1
                return None
            elif not hasattr(builtins, name):
                report["with names from elsewhere"] += 1
                return None
    lines = text.split("\n")
    parts = []
    for node in sorted(needed.values(), key=lambda n: n.lineno):
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        parts.append("\n".join(lines[start - 1 : node.end_lineno]).rstrip())
    code = "\n\n\n".join(parts)
    head = "\n".join(sorted(set(imports.values())))
    code = f"{head}\n\n\n{code}" if head else code
    try:
        ast.parse(code)
    except SyntaxError:  # two statements on one line
        report["not valid Python"] += 1
        return None
    return code


def _binds(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


def _free_names(node: ast.stmt) -> set[str]:
    """Names that a statement reads and does not bind itself."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg):
            bound.add(inner.arg)
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            bound.add(inner.name)
        elif inner is not node and isinstance(inner, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
            bound.update(_binds(inner))
    inside = [n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))]
    impure = {"__import__"} if any(_import_of(n, b) is None for n in inside for b in _binds(n)) else set()
    return {n.id for n in names if n.id not in bound} | impure


def _import_of(node: ast.Import | ast.ImportFrom, name: str) -> str | None:
    """The import statement that binds `name` alone, or None where it is not pure."""
    alias = next(a for a in node.names if (a.asname or a.name).partition(".")[0] == name)
    if isinstance(node, ast.ImportFrom):
        module, pure = node.module or "", not node.level and not alias.name.startswith("_") and alias.name != "*"
        line = f"from {module} import {ast.unparse(alias)}"
    else:
        module, pure, line = alias.name, True, f"import {ast.unparse(alias)}"
    return line if pure and module.partition(".")[0] in PURE else None


# --- recording -------------------------------------------------------------------------------------------------------

#: Prints a JSON line per call: its arguments' source and the repr of its result, both readable by ast.literal_eval.
#: Every call is made three times, the last in reverse order: what depends on earlier calls or on chance is dropped.
_RECORDER = """
import ast as _ast, copy as _copy, json as _json, random as _random, sys as _sys, time as _time
_spaces = {{"__name__": "recorded"}}
exec(compile({code!r}, "solution", "exec"), _spaces)
_function = _spaces[{entry!r}]
{inputs}
def _result(arguments, named):
    try:
        text = repr(_function(*_copy.deepcopy(arguments), **_copy.deepcopy(named)))
        _ast.literal_eval(text)
        return text if len(text) <= 300 else None
    except RecursionError:
        raise
    except Exception:
        return None
def _source(arguments, named):
    parts = [repr(a) for a in arguments] + [k + "=" + repr(v) for k, v in named.items()]
    return ", ".join(parts)
_calls, _end = [], _time.monotonic() + 1.5
for _arguments, _named in _inputs():
    if _time.monotonic() > _end:
        break
    _text = _source(_arguments, _named)
    if len(_text) > 300:
        continue
    try:
        _ast.literal_eval("[" + ", ".join([repr(a) for a in _arguments] + [repr(v) for v in _named.values()]) + "]")
    except Exception:
        continue
    _first = _result(_arguments, _named)
    if _first is not None and _first == _result(_arguments, _named):
        _calls.append((_arguments, _named, _text, _first))
    elif _first is not None:
        print(_json.dumps([_text, _first, False]))
for _arguments, _named, _text, _first in reversed(_calls):
    print(_json.dumps([_text, _first, _result(_arguments, _named) == _first]))
for _expression, _want in {examples!r}:
    try:
        print(_json.dumps(["", _expression, repr(eval(_expression, dict(_spaces))) == _want]))
    except Exception:
        pass
"""
_GENERATED = """
from random import Random
_generator = {{"Random": Random, "__name__": "recorded"}}
exec(compile({generator!r}, "generator", "exec"), _generator)
def _inputs():
    rng = Random(0)
    for _ in range(24):
        yield (), dict(_generator["_generate"](rng))
"""
#: Arguments for functions that come without a generator: values of every common type, tried in all positions.
_GUESSED = """
_values = [[0, 1, 2, 3, 5, 7, 10, 12, 17, 48, 100, -4], [0.5, 2.0, -1.25, 3.75, 10.0],
           ["a", "abc", "Hello, World", "the quick brown fox", "x=1;y=2", "2024-01-31", "  padded\\ttext ", "A1b2",
            "racecar", "foo/bar/baz.txt"],
           [[3, 1, 2], [1, 2, 2, 3], [5, 4, 9, 1, 7], [10], [2, 4, 6, 8]],
           [["b", "a", "c"], ["spam", "eggs", "ham"], ["x", "yy", "zzz", "x"]], [(1, 2), (3, 1, 2), (0, 0)],
           [{{"a": 1, "b": 2}}, {{"x": 3}}, {{"k": "v", "n": "m"}}], [b"abc", b"hello world", b"\\x00\\x01\\xff"],
           [True, False], [[[1, 2], [3, 4]], [[0, 1], [1, 0]]], [{{1, 2, 3}}, {{2, 4}}]]
def _inputs():
    rng = _random.Random(0)
    works = []
    for number in range(600):
        # A combination of types that worked is tried again with other values.
        kinds = rng.choice(works) if works and rng.random() < 0.6 else [rng.randrange(len(_values))
                                                                        for _ in range({required})]
        arguments = tuple(rng.choice(_values[kind]) for kind in kinds)
        if _result(arguments, {{}}) is not None:
            works.append(kinds)
        yield arguments, {{}}
"""


def _recorded(drafts: Sequence[Draft], unsafe: bool) -> list[tuple[str, ...] | str]:
    """Tests of each draft, or why it has none."""
    programs = []
    for draft in drafts:
        if draft.generator:
            inputs = _GENERATED.format(generator=draft.generator)
        else:
            arguments = _function(draft).args
            required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
            inputs = _GUESSED.format(required=required)
        programs.append(_RECORDER.format(code=draft.code, entry=draft.entry, inputs=inputs, examples=draft.examples))
    results = runner.run_many(
        programs, limits=runner.Limits(wall_seconds=10, cpu_seconds=6, output_bytes=1 << 20), unsafe=unsafe
    )
    return [_tests(draft, result) for draft, result in zip(drafts, results)]


def _tests(draft: Draft, result: runner.Result) -> tuple[str, ...] | str:
    if not result.ok:
        return "that fail or take too long"
    calls: dict[str, list[str]] = {}
    examples, steady = [], True
    for line in result.stdout.splitlines():
        try:
            arguments, output, holds = json.loads(line)
        except ValueError:
            continue  # what the solution printed itself
        if not arguments:
            examples += [output] if holds else []
        elif holds:
            calls.setdefault(output, []).append(arguments)
        else:
            steady = False
    if not steady:
        return "that do not give the same result again"
    if len(calls) < DISTINCT and set(calls) != {"True", "False"}:
        return f"with fewer than {DISTINCT} different results"
    wants = dict(draft.examples)
    # Spread over the results, so that a mutant is met by small and large ones.
    outputs = sorted(calls, key=len)
    chosen = [outputs[i] for i in np.unique(np.linspace(0, len(outputs) - 1, TESTS).astype(int))]
    tested = [(output, arguments) for output in chosen for arguments in calls[output][: TESTS // len(chosen)]]
    return (
        *(f"assert repr({example}) == {wants[example]!r}" for example in examples),
        *(f"assert {draft.entry}({arguments}) == {output}" for output, arguments in tested),
    )
