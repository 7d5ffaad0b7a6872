"""Objective measures of a piece of Python: what it declares, what is dangerous in it, how it reads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxrlhf.tasks.answers import parse

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_RULES = "E4,E7,E9,F,E225,E231,E701,E702,E711,E712,E731,W,N802,N803,N806,C4,SIM,RET505"


@dataclass(frozen=True)
class Quality:
    """docstring and type_hints ask for every function; short_names counts one-letter parameters and variables.

    insecure: the names of `insecure`, each once. lint: ruff's findings. definitions: functions and classes at the top
    level. complexity: of the whole program. All are zero or empty for code that does not parse.
    """

    parses: bool
    docstring: bool = False
    type_hints: bool = False
    insecure: tuple[str, ...] = ()
    lint: int = 0
    short_names: int = 0
    complexity: int = 0
    definitions: int = 0


def measure(codes: Sequence[str], lint: bool = True) -> list[Quality]:
    """The quality of each code; `lint` counts ruff's findings, in one run for all of them."""
    trees = [parse(code) for code in codes]
    # Ruff overflows its stack on code that is nested too deeply for Python, and would take the others with it.
    readable = {i: code for i, code in enumerate(codes) if isinstance(trees[i], ast.Module)}
    findings = _ruff(readable) if lint and readable else Counter()
    return [
        _measure(tree, findings[i]) if isinstance(tree, ast.Module) else Quality(parses=False)
        for i, tree in enumerate(trees)
    ]


def _measure(tree: ast.Module, lint: int) -> Quality:
    nodes = list(ast.walk(tree))
    functions = [n for n in nodes if isinstance(n, _FUNCTIONS)]
    owners = [n for n in tree.body if isinstance(n, (*_FUNCTIONS, ast.ClassDef))]
    names = {n.arg for n in nodes if isinstance(n, ast.arg)}
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return Quality(
        parses=True,
        docstring=bool(owners) and all(ast.get_docstring(n) for n in owners),
        type_hints=bool(functions) and all(map(_hinted, functions)),
        insecure=tuple(sorted({what for _, what in insecure(tree)})),
        lint=lint,
        short_names=sum(len(name) == 1 and name != "_" for name in names),
        complexity=1 + sum(complexity(n) - 1 for n in (tree, *functions)),
        definitions=len(owners),
    )


def _hinted(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    a = function.args
    named = [x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
    return all(x.annotation for x in named) and (function.returns is not None or function.name == "__init__")


def complexity(node: ast.AST) -> int:
    """McCabe's: 1, and 1 for each branch, loop, handler, condition of a comprehension, further operand of and/or.

    Functions inside count by themselves.
    """
    total, waiting = 1, list(ast.iter_child_nodes(node))
    while waiting:
        part = waiting.pop()
        if isinstance(part, _FUNCTIONS):
            continue
        if isinstance(part, _BRANCHES):
            total += 1
        if isinstance(part, ast.BoolOp):
            total += len(part.values) - 1
        if isinstance(part, ast.comprehension):
            total += len(part.ifs)
        waiting += ast.iter_child_nodes(part)
    return total


_DANGEROUS = frozenset(
    "eval exec __import__ os.system os.popen pickle.load pickle.loads pickle.Unpickler marshal.load marshal.loads "
    "tempfile.mktemp hashlib.md5 hashlib.sha1 ssl._create_unverified_context".split()
)
_SECRET = re.compile(r"password|passwd|secret|token|api_?key", re.IGNORECASE)


def insecure(tree: ast.AST) -> list[tuple[int, str]]:
    """The insecure patterns in a syntax tree: line and name, in order.

    A dangerous function counts wherever it is named, under any name that an import gives it: `map(eval, parts)` runs
    text as code as well as a call does.
    """
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.stmt, ast.expr, ast.ExceptHandler))]
    imported = _imported(nodes)
    return sorted({(node.lineno, what) for node in nodes if (what := _insecure(node, imported))})


def _imported(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """Local name -> full dotted name."""
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _insecure(node: ast.AST, imported: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return "bare except"
    if isinstance(node, ast.Assign):
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) and node.value.value
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return "hard-coded secret" if text and any(_SECRET.search(name) for name in names) else None
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
        name = _full_name(node, imported)
        return name if name in _DANGEROUS else None
    return _insecure_call(node, imported) if isinstance(node, ast.Call) else None


def _insecure_call(call: ast.Call, imported: Mapping[str, str]) -> str | None:
    name = _full_name(call.func, imported)
    options = {option.arg: option.value for option in call.keywords}

    def says(option: str, value: bool) -> bool:
        given = options.get(option)
        return isinstance(given, ast.Constant) and given.value is value

    if says("shell", True):
        return "shell=True"
    if says("verify", False):
        return "verify=False"
    if name == "yaml.load" and "Loader" not in options and len(call.args) < 2:
        return "yaml.load"
    if name.endswith(".execute") and call.args and isinstance(call.args[0], (ast.JoinedStr, ast.BinOp)):
        return "SQL built from text"
    return None


def _full_name(node: ast.expr, imported: Mapping[str, str]) -> str:
    """`os.path.join` for such a chain of attributes, aliases resolved; "" for its start where that is no name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    first = imported.get(node.id, node.id) if isinstance(node, ast.Name) else ""
    return ".".join([first, *reversed(parts)])


def _ruff(codes: Mapping[int, str]) -> Counter[int]:
    """Number of ruff findings by index."""
    # -P, or a ruff.py in the current folder would be run. --ignore-noqa, or an answer could silence its findings.
    command = [sys.executable, "-P", "-m", "ruff", "check", "--isolated", "--no-cache", "--preview", "--ignore-noqa"]
    command += ["--select", _RULES, "--output-format", "concise", "--exit-zero", "."]
    with tempfile.TemporaryDirectory() as folder:
        for i, code in codes.items():
            (Path(folder) / f"{i}.py").write_text(code + "\n", encoding="utf-8", errors="replace")
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return Counter(int(line.split(".py:")[0]) for line in out.splitlines() if re.match(r"\d+\.py:", line))
