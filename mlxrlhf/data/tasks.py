"""Python tasks of our own writing: requests, tests, a chosen solution and rejected ones by criterion.

The tasks themselves are in `task_bank/`, one module per field. Nothing here is asserted: `python -m pytest
tests/test_tasks.py` runs every solution and every rejected answer.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlxrlhf.agent import sandbox

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
        for task in importlib.import_module(f"mlxrlhf.data.task_bank.{module}").TASKS:
            rejected = {criterion: tuple(code.strip("\n") for code in codes)
                        for criterion, codes in task.rejected.items()}
            tasks.append(Task(task.name, task.phrasings, task.solution.strip("\n"), task.naive.strip("\n"), task.tests,
                              rejected, task.sizes, task.held_out))
    return tuple(tasks)


# --- answers -------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"```[ \t]*(?:python[\d.]*|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


def format_answer(code: str) -> str:
    """The form in which an assistant answers with code: one fenced block and nothing else."""
    return f"```python\n{code.strip()}\n```"


def extract_code(answer: str) -> str:
    """The code of an answer: its first fenced block (open-ended when truncated), or the whole text without one."""
    found = _FENCE.search(answer)
    return (found.group(1) if found else answer).strip("\n")


def strip_documentation(code: str) -> str:
    """The same program without docstrings and type hints, as `ast.unparse` writes it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg,
                             arguments.kwarg):
                if argument is not None:
                    argument.annotation = None
    return ast.unparse(ast.fix_missing_locations(tree))


# --- running -------------------------------------------------------------------------------------------------------

def passes(pairs: Sequence[tuple[Task, str]], *, unsafe: bool = False) -> list[bool]:
    """Whether each code passes its task's tests, in the sandbox."""
    return [share == 1 for share in share_passed([(task.tests, code) for task, code in pairs], unsafe=unsafe)]


#: Runs the tests on an answer one by one and writes a line with the word for each that holds.
_JUDGE = """
def _judge(answer, tests, word):
    import os
    write, run, out = os.write, exec, os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.unlink("main.py")
    space = {{"__name__": "__main__"}}
    tests = [compile(test, "tests.py", "exec") for test in tests]
    try:
        run(compile(answer, "answer.py", "exec"), space)
        for number, test in enumerate(tests):
            try:
                run(test, space)
            except Exception:
                continue
            write(out, f"{{word}} {{number}}\\n".encode())
    finally:
        os._exit(0)

_judge({answer!r}, {tests!r}, {word!r})
"""


def share_passed(pairs: Sequence[tuple[Sequence[str], str]], *, seconds: int = 3, workers: int | None = None,
                 unsafe: bool = False) -> list[float]:
    """Share of its tests (assert statements) that each code passes, in the sandbox; `seconds` of CPU for each code.

    A request seldom says what to call the function, so a code that lacks the one name which its tests call is judged by
    what it defines last (`named_for`).

    A test counts when a word drawn anew for every run follows it, so code that prints or exits early gains nothing. It
    could still read that word out of the interpreter's frames, or return an object that equals everything: a measure to
    read next to a reward, not a proof.
    """
    word = secrets.token_hex(16)
    distinct = list(dict.fromkeys((tuple(tests), code) for tests, code in pairs))
    programs = [_JUDGE.format(answer=named_for(tests, code), tests=list(tests), word=word) for tests, code in distinct]
    # The wall is far behind the CPU limit, so that the load of the machine decides nothing.
    results = sandbox.run_many(programs, workers=workers, unsafe=unsafe,
                               limits=sandbox.Limits(wall_seconds=seconds + 3, cpu_seconds=seconds))
    shares = {}
    for (tests, code), result in zip(distinct, results):
        lines = set(result.stdout.splitlines())
        shares[tests, code] = sum(f"{word} {i}" in lines for i in range(len(tests))) / max(1, len(tests))
    return [shares[tuple(tests), code] for tests, code in pairs]


def named_for(tests: Sequence[str], code: str) -> str:
    """The code, with its last top-level function or class also bound to the name that its tests call and it lacks.

    Unchanged where no name is missing or several are, where it defines nothing, and where it does not parse.
    """
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    defined = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name != "main"]
    bound = set(defined) | {name for node in body for name in _bound(node)}
    used = [node for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)]
    needed = {node.id for node in used if isinstance(node.ctx, ast.Load)}
    missing = needed - {node.id for node in used if isinstance(node.ctx, ast.Store)} - bound - set(dir(builtins))
    return f"{code}\n{missing.pop()} = {defined[-1]}" if len(missing) == 1 and defined else code


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement other than a definition binds: imports and assignments."""
    for node in ast.walk(statement) if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)) else ():
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


#: Counts executed bytecodes of the traced call, in the code's own frames only.
_COUNTER = """
import sys as _sys
_count = 0
def _trace(frame, event, arg):
    global _count
    frame.f_trace_opcodes = True
    frame.f_trace_lines = False
    if event == "opcode":
        _count += 1
    return _trace
_sys.settrace(_trace)
{call}
_sys.settrace(None)
print(_count)
"""


def operations(pairs: Sequence[tuple[str, str]], *, unsafe: bool = False) -> list[int | None]:
    """Bytecodes executed by each (code, call), in the sandbox; None where it fails or takes too long.

    A call into C counts as one, so a comparison says something about loops written in Python only.
    """
    programs = [code + _COUNTER.format(call=call) for code, call in pairs]
    results = sandbox.run_many(programs, limits=sandbox.Limits(wall_seconds=20, cpu_seconds=20), unsafe=unsafe)
    return [int(result.stdout.split()[-1]) if result.ok else None for result in results]


# --- what the code stage learns from -------------------------------------------------------------------------------

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
                rows.append({"messages": [{"role": "user", "content": request},
                                          {"role": "assistant", "content": format_answer(answers[i])}]})
    return [rows[i] for i in rng.permutation(len(rows))]


_FILLERS = frozenset("a an the that which to of in is are i me my do does how can you please write give need want "
                     "would like for this with".split())
_SYNONYMS = {word: tuple(group.split()) for group in (
    "write implement create make build code give", "function method routine code snippet",
    "checks tests tells verifies", "check test tell verify determine", "number integer value",
    "numbers integers values", "list array sequence", "string text str", "word term", "words terms",
    "computes calculates returns finds", "compute calculate find get", "largest biggest maximum greatest",
    "smallest minimum lowest", "remove delete drop", "removes deletes drops", "count number total",
    "python python3 py", "character letter char", "characters letters chars", "sort order", "two both", "how way",
    "whether if", "items elements entries values", "dictionary dict mapping", "every all each",
) for word in group.split()}
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
    said = " ".join(words)
    said = said[:1].upper() + said[1:] if phrasing[:1].isupper() else said
    if choice == 1:
        return " ".join(w for w in (w.strip(".,?!") for w in words) if w.lower() not in _FILLERS) or phrasing
    if choice == 2:
        return said.rstrip(".?!").lower()
    if rng.integers(2):
        return _OPENINGS[rng.integers(len(_OPENINGS))] + said
    return said.rstrip(".") + ("" if said[-1] in "?!" else ".") + _ENDINGS[rng.integers(len(_ENDINGS))]


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
