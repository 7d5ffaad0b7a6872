"""Objective measures of a piece of Python: what it declares, what is dangerous in it, how it reads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.BoolOp, ast.IfExp, ast.comprehension)
_RULES = "E4,E7,E9,F,E225,E231,E701,E702,E711,E712,E731,W,N802,N803,N806,C4,SIM,RET505"


@dataclass(frozen=True)
class Quality:
    """docstring and type_hints ask for every function; short_names counts one-letter parameters and variables.

    definitions: functions and classes at the top level.
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
    findings = _ruff(codes) if lint else Counter()
    return [_measure(code, findings[i]) for i, code in enumerate(codes)]


def _measure(code: str, lint: int) -> Quality:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Quality(parses=False, lint=lint)
    nodes = list(ast.walk(tree))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    owners = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    names = {n.arg for n in nodes if isinstance(n, ast.arg)}
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return Quality(
        parses=True,
        docstring=bool(owners) and all(ast.get_docstring(n) for n in owners),
        type_hints=bool(functions) and all(map(_hinted, functions)),
        insecure=insecure(tree),
        lint=lint,
        short_names=sum(len(name) == 1 and name != "_" for name in names),
        complexity=1 + sum(isinstance(n, _BRANCHES) for n in nodes),
        definitions=len(owners),
    )


def _hinted(function: ast.FunctionDef) -> bool:
    a = function.args
    named = [x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]
    return all(x.annotation for x in named) and (function.returns is not None or function.name == "__init__")


def insecure(tree: ast.AST) -> tuple[str, ...]:
    """Names of the insecure patterns in a syntax tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.add("bare except")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "__import__"):
            found.add(name)
        elif name.startswith(("pickle.load", "marshal.load")):
            found.add("pickle")
        elif name in ("hashlib.md5", "hashlib.sha1", "md5", "sha1"):
            found.add("weak hash")
        if any(k.arg == "shell" and getattr(k.value, "value", None) is True for k in node.keywords):
            found.add("shell=True")
    return tuple(sorted(found))


def _ruff(codes: Sequence[str]) -> Counter:
    """Number of ruff findings by index."""
    with tempfile.TemporaryDirectory() as folder:
        for i, code in enumerate(codes):
            (Path(folder) / f"c{i}.py").write_text(code + "\n", encoding="utf-8", errors="replace")
        command = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--no-cache",
            "--preview",
            "--select",
            _RULES,
            "--output-format",
            "json",
            "--exit-zero",
            folder,
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Counter(int(Path(finding["filename"]).stem[1:]) for finding in json.loads(out))
