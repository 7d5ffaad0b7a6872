"""Worse versions of a good solution, by transforming its syntax tree or its text. Labels are verified elsewhere."""

from __future__ import annotations

import ast
import keyword
import re

import numpy as np

from mlxrlhf.data.tasks import strip_documentation

_BOUNDARIES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
               ast.NotEq: ast.Eq}
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv}


def variants(code: str, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(criterion, worse code, rationale) for one solution."""
    mutated = mutants(code)
    chosen = rng.permutation(len(mutated))[:4]
    found = [("correctness", *mutated[i]) for i in chosen]
    found += [("correctness", garbled(code, rng), "the other is not a working program") for _ in range(3)]
    bare = strip_documentation(code)
    found += [("readability", bare, "the other has neither docstring nor type hints"),
              ("readability", short_names(code), "the other's names are single letters"),
              ("readability", short_names(bare), "the other has single letters and no documentation"),
              ("readability", padded(bare), "the other says in comments what its code says, and documents nothing")]
    found += [("style", unused_imports(code), "the other imports what it does not use"),
              ("style", semicolons(code), "the other puts semicolons at line ends"),
              ("style", unused_imports(semicolons(code)), "the other has semicolons and unused imports"),
              ("style", tight(code), "the other leaves the spaces around operators out"),
              ("style", compared_to_true(code), "the other compares with == True")]
    return [(criterion, worse, why) for criterion, worse, why in found if worse != code]


def mutants(code: str) -> list[tuple[str, str]]:
    """One change each: a boundary, an operator, a constant off by one."""
    found = []
    count = sum(1 for _ in ast.walk(ast.parse(code)))
    for i in range(count):
        tree = ast.parse(code)
        node = list(ast.walk(tree))[i]
        why = None
        if isinstance(node, ast.Compare) and type(node.ops[0]) in _BOUNDARIES:
            node.ops[0] = _BOUNDARIES[type(node.ops[0])]()
            why = "the other's comparison is wrong"
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _OPERATORS:
            node.op = _OPERATORS[type(node.op)]()
            why = "the other uses the wrong operator"
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            why = "the other is off by one"
        if why:
            found.append((ast.unparse(tree), why))
    return found


def garbled(code: str, rng: np.random.Generator) -> str:
    """Some of the body's words replaced by others of the same program: what a half-trained model writes."""
    head, *body = re.split(r'(?<=""")\n', code, maxsplit=1)
    words = re.split(r"(\W+)", (body or [head])[0])
    places = [i for i, word in enumerate(words) if word.strip()]
    for i in rng.choice(places, max(2, len(places) // 6)):
        words[i] = words[rng.choice(places)]
    return f"{head}\n{''.join(words)}" if body else "".join(words)


def short_names(code: str) -> str:
    """Single letters for parameters and local names."""
    tree = ast.parse(code)
    names = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg) and n.arg not in ("self", "cls")}
    names |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    letters = (c for c in "xyabcdefgmpqstuvwz" if c not in names)
    renamed = {name: next(letters, name) for name in sorted(names) if len(name) > 1 and not keyword.iskeyword(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.arg = renamed.get(node.arg, node.arg)
        elif isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
        elif isinstance(node, ast.keyword) and node.arg in renamed:
            node.arg = renamed[node.arg]
    return ast.unparse(tree)


def padded(code: str) -> str:
    """A comment above every statement of a function that says nothing new."""
    said = {"if": "check the condition", "for": "loop over the values", "while": "loop", "return": "return the result"}
    lines = []
    for line in code.splitlines():
        words = line.split()
        if line.startswith(" ") and words:
            lines.append(" " * (len(line) - len(line.lstrip())) + "# " + said.get(words[0], "do the next step"))
        lines.append(line)
    return "\n".join(lines)


def unused_imports(code: str) -> str:
    """Imports that nothing uses."""
    return "import os, sys\nimport json\n\n" + code


def semicolons(code: str) -> str:
    """A semicolon after every simple statement."""
    lines = code.splitlines()
    ends = {node.end_lineno for node in ast.walk(ast.parse(code))
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return, ast.Expr)) and node.end_lineno}
    return "\n".join(line + ";" if i in ends and line.strip() else line for i, line in enumerate(lines, start=1))


def tight(code: str) -> str:
    """No spaces around assignment and comparison, none after commas."""
    head, *body = code.split('"""\n', 1)
    changed = re.sub(r" (=|==|<|>|<=|>=|\+=|!=) ", r"\1", (body or [head])[0]).replace(", ", ",")
    return f'{head}"""\n{changed}' if body else changed


def compared_to_true(code: str) -> str:
    """`if x:` as `if (x) == True:`, where x is a comparison or a call that returns a bool."""
    condition = re.compile(r"^(\s*)(if|while) ([^:\n]*(?:==|<|>| in )[^:\n]*):$", re.MULTILINE)
    return condition.sub(r"\1\2 (\3) == True:", code)
