"""Answers that are run: against their tests, and counted in operations."""

from __future__ import annotations

import ast
import builtins
import secrets
from collections.abc import Iterator, Sequence

from mlxrlhf.sandbox import runner
from mlxrlhf.tasks.answers import extract_code, parse
from mlxrlhf.tasks.task import Task


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


def share_passed(
    pairs: Sequence[tuple[Sequence[str], str]], *, seconds: int = 3, workers: int | None = None, unsafe: bool = False
) -> list[float]:
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
    results = runner.run_many(
        programs, workers=workers, unsafe=unsafe, limits=runner.Limits(wall_seconds=seconds + 3, cpu_seconds=seconds)
    )
    shares = {}
    for (tests, code), result in zip(distinct, results):
        lines = set(result.stdout.splitlines())
        shares[tests, code] = sum(f"{word} {i}" in lines for i in range(len(tests))) / max(1, len(tests))
    return [shares[tuple(tests), code] for tests, code in pairs]


def code_for(tests: Sequence[str], answer: str) -> str:
    """The code of an answer to run its tests on: the fenced block that defines what they call."""
    return extract_code(answer, names_asked(tests))


def names_asked(tests: Sequence[str]) -> set[str]:
    """The names that tests use and neither bind themselves nor find among Python's own: what an answer must define."""
    names = [node for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return {node.id for node in names} - bound - set(dir(builtins))


def named_for(tests: Sequence[str], code: str) -> str:
    """The code, with its last top-level function or class also bound to the name that its tests call and it lacks.

    Unchanged where no name is missing or several are, where it defines nothing, and where it does not parse.
    """
    tree = parse(code)
    if not isinstance(tree, ast.Module):
        return code
    defined = [
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name != "main"
    ]
    missing = names_asked(tests) - set(defined) - {name for node in tree.body for name in _bound(node)}
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
    results = runner.run_many(programs, limits=runner.Limits(wall_seconds=20, cpu_seconds=20), unsafe=unsafe)
    return [int(result.stdout.split()[-1]) if result.ok else None for result in results]
