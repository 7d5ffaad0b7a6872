"""Worse versions of a good solution, by transforming its syntax tree or its text. Labels are verified elsewhere."""

from __future__ import annotations

import ast
import keyword
import re

import numpy as np

from mlxrlhf.tasks.answers import parse, strip_documentation

_BOUNDARIES: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
}


def variants(code: str, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(criterion, worse code, rationale) for one solution."""
    mutated = mutants(code)
    chosen = rng.permutation(len(mutated))[:4]
    worse = [("correctness", *mutated[i]) for i in chosen]
    worse += [("correctness", garbled(code, rng), "the other is not a working program") for _ in range(3)]
    bare = strip_documentation(code)
    worse += [
        ("readability", bare, "the other has neither docstring nor type hints"),
        ("readability", short_names(code), "the other's names are single letters"),
        ("readability", short_names(bare), "the other has single letters and no documentation"),
        ("readability", padded(bare), "the other says in comments what its code says, and documents nothing"),
    ]
    worse += [
        ("style", unused_imports(code), "the other imports what it does not use"),
        ("style", semicolons(code), "the other puts semicolons at line ends"),
        ("style", unused_imports(semicolons(code)), "the other has semicolons and unused imports"),
        ("style", tight(code), "the other leaves the spaces around operators out"),
        ("style", compared_to_true(code), "the other compares with == True"),
    ]
    worse += [
        ("security", hidden_errors(code), "the other hides every error behind a bare except"),
        ("security", evaluated(code), "the other runs text as code"),
        ("security", evaluated(hidden_errors(code)), "the other runs text as code and hides every error"),
    ]
    worse += [
        ("efficiency", without_early_exit(code), "the other goes on when the answer is known"),
        ("efficiency", recomputed(code), "the other computes the same value in every round"),
        ("efficiency", builtins_by_hand(code), "the other loops where a built-in function does it"),
        ("efficiency", copied_first(code), "the other copies its input item by item first"),
    ]
    return [(criterion, changed, why) for criterion, changed, why in worse if changed != code]


def mutants(code: str) -> list[tuple[str, str]]:
    """One change each: a boundary, an operator, a constant off by one.

    Only the characters of the change differ from `code`: a mutant in another layout would be told by its layout.
    """
    text, starts = code.encode(), _line_starts(code)
    changes: list[tuple[bytes, str]] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            start, end = _span(node, starts)
            changed = text[:start] + str(node.value + 1).encode() + text[end:]
            changes.append((changed, "the other is off by one"))
        elif parts := _operation(node):
            left, operator, right, swapped, why = parts
            start, end = _span(left, starts)[1], _span(right, starts)[0]
            between = text[start:end]
            if between.count(operator) == 1:  # a comment between the operands may hold it too
                changes.append((text[:start] + between.replace(operator, swapped) + text[end:], why))
    return [(mutant.decode(), why) for mutant, why in changes if isinstance(parse(mutant.decode()), ast.Module)]


def _operation(node: ast.AST) -> tuple[ast.expr, bytes, ast.expr, bytes, str] | None:
    """Of an operation that a mutant changes: left side, symbol, right side, the symbol to put there, what is wrong."""
    left: ast.expr
    operator: type[ast.AST]
    if isinstance(node, ast.Compare):
        left, right, operator, others = node.left, node.comparators[0], type(node.ops[0]), _BOUNDARIES
        why = "the other's comparison is wrong"
    elif isinstance(node, ast.BinOp):
        left, right, operator, others = node.left, node.right, type(node.op), _OPERATORS
        why = "the other uses the wrong operator"
    elif isinstance(node, ast.AugAssign):
        left, right, operator, others = node.target, node.value, type(node.op), _OPERATORS
        why = "the other uses the wrong operator"
    else:
        return None
    if operator not in others:
        return None
    return left, _SYMBOLS[operator].encode(), right, _SYMBOLS[others[operator]].encode(), why


def _line_starts(code: str) -> list[int]:
    """Byte offset of every line: a syntax tree counts columns in bytes."""
    starts = [0]
    for line in code.encode().split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def _span(node: ast.expr, starts: list[int]) -> tuple[int, int]:
    """The bytes that a node stands on, from and to."""
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return starts[node.lineno - 1] + node.col_offset, starts[end_line - 1] + end_column


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
    ends = {
        node.end_lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return, ast.Expr)) and node.end_lineno
    }
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


def hidden_errors(code: str) -> str:
    """The body of every function without inner functions inside `try:` with a bare `except: return None`."""
    tree = ast.parse(code)
    for function in _functions(tree):
        head, body = _docstring_and_body(function)
        if body:
            handler = ast.ExceptHandler(None, None, [ast.Return(ast.Constant(None))])
            function.body = [*head, ast.Try(body, [handler], [], [])]
    return _written(tree, code)


def evaluated(code: str) -> str:
    """What a function returns, computed by `eval` from text; only where names are all that it needs."""
    tree = ast.parse(code)
    for function in _functions(tree):
        for node in ast.walk(function):
            computed = (ast.BinOp, ast.Compare, ast.Subscript, ast.Call)
            if isinstance(node, ast.Return) and isinstance(node.value, computed):
                # A comprehension or a lambda inside eval does not see the function's local names.
                if not any(
                    isinstance(n, (ast.comprehension, ast.Lambda, ast.Await, ast.Yield)) for n in ast.walk(node.value)
                ):
                    text = ast.Constant(ast.unparse(node.value))
                    node.value = ast.Call(ast.Name("eval", ast.Load()), [text], [])
    return _written(tree, code)


def without_early_exit(code: str) -> str:
    """`for ...: if found: return x` followed by `return y`: the loop runs to its end and the answer is kept."""
    tree = ast.parse(code)
    for function in _functions(tree):
        for i, node in enumerate(function.body[:-1]):
            last = function.body[i + 1]
            if not isinstance(node, ast.For) or not isinstance(last, ast.Return) or last.value is None or node.orelse:
                continue
            exits = [n for n in ast.walk(node) if isinstance(n, (ast.Return, ast.Break))]
            if len(exits) != 1 or not isinstance(exits[0], ast.Return) or exits[0].value is None:
                continue
            kept = ast.Assign([ast.Name("answer", ast.Store())], exits[0].value)
            _replace(node, exits[0], kept)
            function.body[i : i + 2] = [
                ast.Assign([ast.Name("answer", ast.Store())], last.value),
                node,
                ast.Return(ast.Name("answer", ast.Load())),
            ]
            break
    return _written(tree, code)


def recomputed(code: str) -> str:
    """A local value that is computed once, computed again wherever a loop uses it."""
    tree = ast.parse(code)
    for function in _functions(tree):
        stores = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        for node in list(function.body):
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                continue
            name, value = node.targets[0].id, node.value
            if stores.count(name) != 1 or not isinstance(value, (ast.Call, ast.BinOp, ast.ListComp, ast.SetComp)):
                continue
            _Inlined(name, value).visit(function)
    return _written(tree, code)


class _Inlined(ast.NodeTransformer):
    """Inside loops, a name becomes the expression that it stands for."""

    def __init__(self, name: str, value: ast.expr):
        self.name, self.value, self.depth = name, value, 0

    def _loop(self, node):
        if isinstance(node, ast.For):
            node.iter = self.visit(node.iter)  # evaluated once
        else:
            self.depth += 1
            node.test = self.visit(node.test)
            self.depth -= 1
        self.depth += 1
        node.body = [self.visit(statement) for statement in node.body]
        self.depth -= 1
        return node

    visit_For = visit_While = _loop

    def visit_Name(self, node):
        return self.value if self.depth and node.id == self.name and isinstance(node.ctx, ast.Load) else node


_BY_HAND = {
    "sum": "def add_up(items, total=0):\n    for item in items:\n        total = total + item\n    return total",
    "max": "def find_largest(items):\n    items = list(items)\n    largest = items[0]\n    for item in items:\n"
    "        if item > largest:\n            largest = item\n    return largest",
    "min": "def find_smallest(items):\n    items = list(items)\n    smallest = items[0]\n    for item in items:\n"
    "        if item < smallest:\n            smallest = item\n    return smallest",
    "sorted": "def sort_items(items):\n    items = list(items)\n    for i in range(len(items)):\n"
    "        for j in range(len(items) - 1 - i):\n            if items[j + 1] < items[j]:\n"
    "                items[j], items[j + 1] = items[j + 1], items[j]\n    return items",
    "any": "def is_any(items):\n    found = False\n    for item in items:\n        if item:\n"
    "            found = True\n    return found",
    "all": "def is_all(items):\n    found = True\n    for item in items:\n        if not item:\n"
    "            found = False\n    return found",
    "len": "def count_items(items):\n    count = 0\n    for item in items:\n        count += 1\n    return count",
}


def builtins_by_hand(code: str) -> str:
    """A function of its own in place of `sum`, `max`, `min`, `sorted`, `any`, `all` or `len` with one argument."""
    tree = ast.parse(code)
    used: dict[str, ast.stmt] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _BY_HAND
            and len(node.args) == 1
            and not node.keywords
            and not isinstance(node.args[0], ast.Starred)
        ):
            helper = _functions(ast.parse(_BY_HAND[node.func.id]))[0]
            used[helper.name] = helper
            node.func.id = helper.name
    first = next((i for i, node in enumerate(tree.body) if not isinstance(node, (ast.Import, ast.ImportFrom))), 0)
    tree.body[first:first] = used.values()
    return _written(tree, code)


def copied_first(code: str) -> str:
    """Every parameter that a loop runs over is copied item by item before."""
    tree = ast.parse(code)
    for function in _functions(tree):
        head, body = _docstring_and_body(function)
        parameters = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        looped = {
            n.iter.id
            for n in ast.walk(function)
            if isinstance(n, (ast.For, ast.comprehension)) and isinstance(n.iter, ast.Name)
        }
        copies = [
            ast.parse(f"{name}_copy = []\nfor item in {name}:\n    {name}_copy.append(item)\n{name} = {name}_copy").body
            for name in parameters
            if name in looped
        ]
        function.body = [*head, *(statement for copy in copies for statement in copy), *body]
    return _written(tree, code)


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions without functions inside, generators left out."""
    inner = (ast.FunctionDef, ast.Lambda, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not any(isinstance(n, inner) for n in ast.walk(node) if n is not node)
    ]


def _docstring_and_body(function: ast.FunctionDef) -> tuple[list[ast.stmt], list[ast.stmt]]:
    count = int(ast.get_docstring(function) is not None)
    return function.body[:count], function.body[count:]


def _replace(tree: ast.AST, old: ast.stmt, new: ast.stmt) -> None:
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            statements = getattr(node, name, None)
            if isinstance(statements, list) and old in statements:
                statements[statements.index(old)] = new


def _written(tree: ast.Module, code: str) -> str:
    """The tree as text, or `code` itself where nothing changed."""
    worse = ast.unparse(ast.fix_missing_locations(tree))
    return code if worse == ast.unparse(ast.parse(code)) else worse
