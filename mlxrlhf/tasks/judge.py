"""Answers that are run: against their tests, and counted in operations."""

from __future__ import annotations

import ast
import builtins
import json
import secrets
from collections.abc import Sequence

from mlxrlhf.sandbox import runner
from mlxrlhf.tasks import expected
from mlxrlhf.tasks.answers import extract_code, names_bound, parse
from mlxrlhf.tasks.task import Task

#: CPU seconds for all tests of an answer: a solution takes milliseconds, so only an endless loop notices
SECONDS = 1


def passes(pairs: Sequence[tuple[Task, str]], *, unsafe: bool = False) -> list[bool]:
    """Whether each code passes its task's tests, in the sandbox."""
    pairs_of_tests = [(task.tests, code) for task, code in pairs]
    return [bool(held) and all(held) for held in verdicts(pairs_of_tests, unsafe=unsafe)]


def share_passed(
    pairs: Sequence[tuple[Sequence[str], str]],
    *,
    seconds: int = SECONDS,
    workers: int | None = None,
    unsafe: bool = False,
) -> list[float]:
    """Share of its tests that each code passes, in the sandbox; 0 where there are none. For the rest see `verdicts`."""
    return [sum(held) / max(1, len(held)) for held in verdicts(pairs, seconds=seconds, workers=workers, unsafe=unsafe)]


def verdicts(
    pairs: Sequence[tuple[Sequence[str], str]],
    *,
    seconds: int = SECONDS,
    workers: int | None = None,
    unsafe: bool = False,
) -> list[list[bool]]:
    """Which of its tests each code passes, in the sandbox; `seconds` of CPU for each code.

    A test is a text of statements, as a rule one assert; all tests of a code run in one process and see what those
    before them did. A request seldom says what to call the function, so a code that lacks the one name which its tests
    call is judged by what it defines last (`named_for`).

    The calls run beside the code, what they are compared with stays here (`expected`). A test that cannot be taken
    apart so runs whole beside the code and holds when a word drawn anew for every run follows it: enough against code
    that prints or exits early, not against code that looks for that word in the interpreter's frames.
    """
    word = secrets.token_hex(16)
    distinct = list(dict.fromkeys((tuple(tests), code) for tests, code in pairs))
    programs = [_program(tests, code, word) for tests, code in distinct]
    # The wall is behind the CPU limit and time in line for a core does not count: only one that sleeps meets it.
    limits = runner.Limits(wall_seconds=seconds + 1, cpu_seconds=seconds, output_bytes=1 << 20)
    results = runner.run_many(programs, workers=workers, unsafe=unsafe, limits=limits)
    held = {key: _held(key[0], result.stdout, word) for key, result in zip(distinct, results)}
    return [held[tuple(tests), code] for tests, code in pairs]


def _program(tests: Sequence[str], code: str, word: str) -> str:
    steps = [(test.whole, test.steps) for test in expected.split_all(tuple(tests))]
    return f"{expected.PROGRAM}\n_judge({named_for(tests, code)!r}, {steps!r}, {word!r})\n"


def _held(tests: Sequence[str], output: str, word: str) -> list[bool]:
    """Which tests hold, by the lines that the program wrote; the code may have written others among them."""
    lines = dict(line.split(" ", 1) for line in output.split("\n") if " " in line)
    return [_holds(test, lines.get(str(i), ""), word) for i, test in enumerate(expected.split_all(tuple(tests)))]


def _holds(test: expected.Test, line: str, word: str) -> bool:
    if test.whole:
        return line == word
    try:
        results = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(results, list) and test.holds(results)


def code_for(tests: Sequence[str], answer: str) -> str:
    """The code of an answer to run its tests on: the fenced block that defines what they call."""
    return extract_code(answer, names_asked(tests))


def names_asked(tests: Sequence[str]) -> set[str]:
    """The names that tests use and neither bind themselves nor find among Python's own: what an answer must define."""
    nodes = [node for test in tests for node in ast.walk(ast.parse(test))]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    return used - set(names_bound(nodes)) - set(dir(builtins))


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
    bound = {
        name
        for node in tree.body
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef))
        for name in names_bound(ast.walk(node))
    }
    missing = names_asked(tests) - set(defined) - bound
    return f"{code}\n{missing.pop()} = {defined[-1]}" if len(missing) == 1 and defined else code


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
