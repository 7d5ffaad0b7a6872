"""A test in two parts: the calls, which run beside the answer, and the comparison, which does not.

    test = split("assert sorted(double([2, 1])) == [2, 4]")
    test.steps                          # (("value", "sorted(double([2, 1]))"),)
    test.holds(["[2, 4]"])              # True

Code that is judged may do anything in its own process: return an object that equals everything, read the interpreter's
frames, patch the list of tests. None of it helps where the process never learns what is expected. It gives the values
of its calls as text; here the text is read as data and compared.

What stays here: constants, arithmetic on them, Python's own types and the functions of `_EXPECTED`, compared by ==, !=,
<, in and is, by `abs(a - b) < c`, `math.isclose` and `isinstance`, joined by and, or and not.

What this leaves open:
- A test of another form (a loop around an assert, an expected exception) runs whole beside the answer, which could read
  it and say that it held.
- A test that compares two results of the answer's own holds for two equal wrong values, and for an object of its own
  that equals everything.
- A bare `assert f(x)` asks for yes or no, and the answer may guess.
"""

from __future__ import annotations

import ast
import builtins
import collections
import datetime
import decimal
import fractions
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxrlhf.tasks.answers import names_bound

#: a result whose text is longer than this counts as none
RESULT_CHARACTERS = 20_000
#: elements and digits that an expected value may be made of
_SIZE = 100_000


@dataclass(frozen=True)
class Test:
    """steps: what runs beside the answer, in order: ("run", statement), ("value", expression), ("truth", expression),
    ("compare", left, right, operator).

    comparisons: what must be true of the results, by their numbers; none where the test runs whole and need only end.
    """

    steps: tuple[tuple[str, ...], ...]
    comparisons: tuple[ast.expr, ...]

    @property
    def whole(self) -> bool:
        """Whether the test runs whole beside the answer."""
        return not self.comparisons

    def holds(self, results: Sequence[str | None]) -> bool:
        """Whether these results are what the test expects: a text for each step but "run", None where it raised.

        Never raises: whatever the texts are, the code under test may have written them.
        """
        evaluate = _Evaluator(_EXPECTED, arithmetic=True, results=results)
        try:
            return all(evaluate.visit(comparison) for comparison in self.comparisons)
        except Exception:
            return False


@functools.lru_cache(maxsize=1_000)
def split_all(tests: tuple[str, ...]) -> tuple[Test, ...]:
    """The two parts of each of an answer's tests, which run one after another in the same process."""
    names = [{node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)} for test in tests]
    counts = collections.Counter(name for some in names for name in some)
    shared = frozenset(name for name, count in counts.items() if count > 1)
    return tuple(split(test, shared) for test in tests)


def split(test: str, shared: frozenset[str] = frozenset()) -> Test:
    """The two parts of a test. shared: names that other tests use too, so that what this one gives them is run.

    Raises SyntaxError or ValueError where it is not Python.
    """
    statements = _qualified(ast.parse(test).body)
    nodes = [node for statement in statements for node in ast.walk(statement)]
    bound = set(names_bound(nodes)) - _MODULES
    known = _KNOWN - bound
    free = {node.id for node in nodes if isinstance(node, ast.Name)} - bound
    if free and free <= known:
        known = set()  # the function that is asked for is called like one of Python's own: `assert max([1, 2]) == 2`
    parts = _Parts(statements, known, shared)
    return Test(tuple(parts.steps), tuple(parts.comparisons)) if parts.comparisons else Test((("run", test),), ())


def _qualified(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The statements with `isclose` as `math.isclose`, where they import it so and it is known here."""
    full = {
        alias.asname or alias.name: ast.Attribute(ast.Name(str(statement.module), ast.Load()), alias.name, ast.Load())
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if f"{statement.module}.{alias.name}" in _EXPECTED
    }
    return [_Substituted(full).visit(s) if isinstance(s, ast.Assert) else s for s in statements]


class _Other(Exception):
    """A form that cannot be taken apart."""


class _Parts:
    """Takes the statements of a test apart; comparisons stay empty where that cannot be done.

    known: names that are not the answer's. shared: names that other tests use too.
    """

    def __init__(self, statements: Sequence[ast.stmt], known: set[str], shared: frozenset[str]):
        self.steps: list[tuple[str, ...]] = []
        self.comparisons: list[ast.expr] = []
        self.known, self.results = known, 0
        self.constants = {name: value for name, value in _constants(statements).items() if name not in shared}
        try:
            for statement in statements:
                self._add(statement)
        except (_Other, RecursionError):
            self.comparisons = []

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assert):
            self.comparisons.append(self._truth(statement.test))
        elif any(isinstance(node, (ast.Assert, ast.Raise)) for node in ast.walk(statement)):
            raise _Other
        elif not (isinstance(statement, ast.Assign) and _target(statement) in self.constants):
            self.steps.append(("run", ast.unparse(statement)))

    def _truth(self, node: ast.expr) -> ast.expr:
        """The condition with the answer's results in their places."""
        if isinstance(node, ast.BoolOp):
            return ast.BoolOp(node.op, [self._truth(value) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ast.UnaryOp(node.op, self._truth(node.operand))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and self._both_foreign(node.left, node.comparators[0]):
            return self._own_comparison(node.left, node.ops[0], node.comparators[0])
        if isinstance(node, ast.Compare):
            return ast.Compare(self._value(node.left), node.ops, [self._value(part) for part in node.comparators])
        if not self._foreign(node) or self._is_mixed_call(node):
            return self._value(node)
        if isinstance(node, ast.Call) and _dotted(node.func) in self.known:
            raise _Other  # all(f(x) == x for ...): a comparison that would be made beside the answer
        return self._result("truth", node)  # what is not data has a truth too: a match, an object

    def _value(self, node: ast.expr) -> ast.expr:
        """The expression with the answer's results in their places; a part that holds none is left as it is."""
        if not self._foreign(node):
            return self._expected(node)
        if isinstance(node, ast.BinOp) and not self._both_foreign(node.left, node.right):
            return ast.BinOp(self._value(node.left), node.op, self._value(node.right))
        if isinstance(node, ast.Call) and self._is_mixed_call(node):
            options = [ast.keyword(option.arg, self._value(option.value)) for option in node.keywords]
            return ast.Call(node.func, [self._value(argument) for argument in node.args], options)
        return self._result("value", node)

    def _is_mixed_call(self, node: ast.expr) -> bool:
        """A call of ours around the answer's: what it is compared with may be among the arguments."""
        return isinstance(node, ast.Call) and _dotted(node.func) in _MIXED and _dotted(node.func) in self.known

    def _own_comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> ast.expr:
        """A comparison of two results of the answer's, which decides it itself where they are no data."""
        if isinstance(op, (ast.Is, ast.IsNot)):
            return self._result("truth", ast.Compare(left, [op], [right]))
        words = ast.unparse(ast.Compare(ast.Name("left"), [op], [ast.Name("right")]))
        return ast.Compare(self._result("compare", left, right, words), [op], [])

    def _result(self, kind: str, *parts: ast.expr | str) -> ast.expr:
        self.steps.append((kind, *(part if isinstance(part, str) else ast.unparse(part) for part in parts)))
        self.results += 1
        return ast.Name(f"{_RESULT}{self.results - 1}", ast.Load())

    def _expected(self, node: ast.expr) -> ast.expr:
        node = _Substituted(self.constants).visit(node)
        try:  # whatever it is made of must be known here
            _Evaluator(_EXPECTED, arithmetic=True).visit(node)
        except Exception:
            raise _Other from None
        return node

    def _both_foreign(self, left: ast.expr, right: ast.expr) -> bool:
        return self._foreign(left) and self._foreign(right)

    def _foreign(self, node: ast.expr) -> bool:
        """Whether an expression uses a name of the answer's, or one that the test gave a value in its process."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        variables = set(names_bound(ast.walk(node)))  # of comprehensions and lambdas
        return bool(names - variables - self.known - self.constants.keys())


def _constants(statements: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """Names that are given a literal once and used in comparisons alone: `expected = [1, 2]` stays here.

    A name that is used anywhere else may be changed by the answer, and has its value in the answer's process.
    """
    given: dict[str, ast.expr] = {}
    uses: collections.Counter[str] = collections.Counter()
    compared: collections.Counter[str] = collections.Counter()
    for statement in statements:
        uses.update(node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        name = _target(statement)
        if isinstance(statement, ast.Assign) and name and _is_literal(statement.value):
            given[name] = statement.value
            compared[name] += 1  # the assignment itself
        if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare):
            sides = (statement.test.left, *statement.test.comparators)
            compared.update(side.id for side in sides if isinstance(side, ast.Name))
    return {name: value for name, value in given.items() if uses[name] == compared[name] > 1}


def _target(statement: ast.stmt) -> str:
    """The name of `name = value`, "" for another statement."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return ""


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


class _Substituted(ast.NodeTransformer):
    """Names become what they were given."""

    def __init__(self, constants: Mapping[str, ast.expr]):
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


_RESULT = "result "  # no name of a program holds a space


def _dotted(node: ast.expr) -> str:
    """`name` or `module.name`; "" for another expression."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


# --- evaluating ----------------------------------------------------------------------------------------------------


def _read(text: str | None) -> object:
    """The value of a result's text: literals, and calls of the types in `_DATA`."""
    if not isinstance(text, str) or len(text) > RESULT_CHARACTERS:
        raise ValueError("no result")
    return _Evaluator(_DATA, arithmetic=False).visit(ast.parse(text, mode="eval").body)


class _Evaluator(ast.NodeVisitor):
    """Evaluates an expression out of literals, operators and the given names, and nothing else.

    Tests may come from strangers and results come from the code under test: no attribute is read and nothing is called
    that is not in the table. Raises ValueError for what it does not know.
    """

    def __init__(self, names: Mapping[str, Any], arithmetic: bool, results: Sequence[str | None] = ()):
        self.names, self.arithmetic, self.results = names, arithmetic, results

    def visit(self, node: ast.AST) -> Any:
        return super().visit(node)

    def generic_visit(self, node: ast.AST) -> Any:
        raise ValueError(f"no {type(node).__name__} here")

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id.startswith(_RESULT):
            return _read(self.results[int(node.id.removeprefix(_RESULT))])
        return self._named(node)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        return self._named(node)

    def _named(self, node: ast.expr) -> Any:
        name = _dotted(node)
        if name not in self.names:
            raise ValueError(f"no {name} here")
        return self.names[name]

    def visit_List(self, node: ast.List) -> list:
        return [self.visit(item) for item in node.elts]

    def visit_Tuple(self, node: ast.Tuple) -> tuple:
        return tuple(self.visit(item) for item in node.elts)

    def visit_Set(self, node: ast.Set) -> set:
        return {self.visit(item) for item in node.elts}

    def visit_Dict(self, node: ast.Dict) -> dict:
        if None in node.keys:
            raise ValueError("no ** here")
        return {self.visit(key): self.visit(value) for key, value in zip(node.keys, node.values) if key}

    def visit_Call(self, node: ast.Call) -> Any:
        if any(option.arg is None for option in node.keywords):
            raise ValueError("no ** here")
        arguments = [self.visit(argument) for argument in node.args]
        options = {str(option.arg): self.visit(option.value) for option in node.keywords}
        return self._named(node.func)(*arguments, **options)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.USub):
            return -value
        if isinstance(node.op, ast.UAdd):
            return +value
        if isinstance(node.op, ast.Not):
            return not value
        raise ValueError("no ~ here")

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        if not self.arithmetic or type(node.op) not in _ARITHMETIC:
            raise ValueError("no arithmetic here")
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.Mult):
            _bounded(left, right)
        if isinstance(node.op, ast.Mod) and not isinstance(left, (int, float)):
            raise ValueError("no formatting here")
        if isinstance(node.op, ast.Pow):
            bits = left.bit_length() if isinstance(left, int) else 1
            if abs(right) > 10_000 or bits * abs(right) > _SIZE:
                raise ValueError("too large")
        return _ARITHMETIC[type(node.op)](left, right)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        value = None
        for part in node.values:
            value = self.visit(part)
            if bool(value) == isinstance(node.op, ast.Or):
                return value
        return value

    def visit_Compare(self, node: ast.Compare) -> bool:
        left = self.visit(node.left)
        if not node.comparators:  # of two results of the answer's: both, or what it decided itself
            return _COMPARISONS[type(node.ops[0])](*left) if isinstance(left, tuple) else left
        for op, part in zip(node.ops, node.comparators):
            right = self.visit(part)
            if not _COMPARISONS[type(op)](left, right):
                return False
            left = right
        return True


def _bounded(left: Any, right: Any) -> None:
    """Refuses the repetition of a text or list that would take much memory."""
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, (str, bytes, list, tuple)) and _size(sequence) * count > _SIZE:
            raise ValueError("too large")


def _size(value: Any) -> int:
    """How many elements a value has, those of its elements included."""
    if isinstance(value, (list, tuple)):
        return len(value) + sum(map(_size, value))
    return len(value) if isinstance(value, (str, bytes)) else 0


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _SIZE:
        raise ValueError("too large")
    return numbers


def _fraction(numerator: int, denominator: int = 1) -> fractions.Fraction:
    return fractions.Fraction(operator.index(numerator), operator.index(denominator))


def _is_instance(value: object, kinds: object) -> bool:
    return any(isinstance(value, kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


#: of what the results are made
_DATA: dict[str, Callable] = {
    "set": set,
    "frozenset": frozenset,
    "float": float,
    "complex": complex,
    "deque": collections.deque,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "Decimal": decimal.Decimal,
    "Fraction": _fraction,
    "datetime.date": datetime.date,
    "datetime.datetime": datetime.datetime,
    "datetime.timedelta": datetime.timedelta,
}
_FUNCTIONS: Iterable[Callable] = (
    *(abs, all, any, bool, bytes, dict, frozenset, int, len, list, max, min, round, set, sorted, str, sum, tuple),
    *(float, complex, zip),
)
_MATH = "pi e inf nan tau isclose fabs sqrt floor ceil log exp sin cos tan".split()
_MODULES = {"math", "collections", "datetime", "decimal", "fractions"}
#: what an expected value may be made of
_EXPECTED: dict[str, Any] = {
    **_DATA,
    **{function.__name__: function for function in _FUNCTIONS},
    "range": _range,
    "isinstance": _is_instance,
    **{f"math.{name}": getattr(math, name) for name in _MATH},
    "collections.deque": collections.deque,
    "collections.Counter": collections.Counter,
    "collections.OrderedDict": collections.OrderedDict,
    "decimal.Decimal": decimal.Decimal,
    "fractions.Fraction": _fraction,
    "date": datetime.date,
    "timedelta": datetime.timedelta,
}
#: calls around the answer's that are made here, with what they compare it with among their arguments
_MIXED = {"abs", "math.fabs", "math.isclose", "isinstance"}
#: names that are Python's own and not the answer's
_KNOWN = {*dir(builtins), *_EXPECTED, *_MODULES}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}


# --- beside the answer -----------------------------------------------------------------------------------------------

#: Runs an answer and the steps of its tests, and writes a line for each test that comes to its end: its number and the
#: texts of its results, or the word where it ran whole. `_text` is the other side of `_read`.
PROGRAM = """
def _text(value):
    kind = type(value)
    if value is None or kind is bool:
        return repr(value)
    if isinstance(value, int):
        return int.__repr__(value) if int.bit_length(value) < 10000 else hex(value)
    if isinstance(value, float):
        text = float.__repr__(value)
        return text if text.strip("-") not in ("inf", "nan") else f"float({text!r})"
    if isinstance(value, complex):
        return f"complex({_text(value.real)}, {_text(value.imag)})"
    if isinstance(value, str):
        return ascii(str.__str__(value))
    if isinstance(value, (bytes, bytearray)):
        return repr(bytes(value))
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(_text(item) + ", " for item in value) + ")"
    if isinstance(value, set):
        return "{" + ", ".join(map(_text, value)) + "}" if value else "set()"
    if isinstance(value, frozenset):
        return "frozenset([" + ", ".join(map(_text, value)) + "])"
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == "collections.OrderedDict":
        return f"OrderedDict({_text(list(value.items()))})"
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
        return f"Counter({text})" if name == "collections.Counter" else text
    if name == "collections.deque":
        return "deque(" + _text(list(value)) + ")"
    if name in ("decimal.Decimal", "fractions.Fraction", "datetime.date", "datetime.datetime", "datetime.timedelta"):
        return repr(value)
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray":
        return _text(value.item())
    raise TypeError("no data")


def _judge(answer, tests, word):
    import json, os
    write, run, evaluate, dumps, text = os.write, exec, eval, json.dumps, _text
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.unlink("main.py")
    space = {"__name__": "__main__"}

    def value(source):
        return evaluate(compile(source, "tests.py", "eval"), space)

    def compared(left, right, operation):
        try:
            return text((left, right))
        except Exception:
            return repr(bool(evaluate(operation, {"left": left, "right": right})))

    def result(kind, *sources):
        try:
            if kind == "compare":
                return compared(value(sources[0]), value(sources[1]), sources[2])
            return text(value(sources[0])) if kind == "value" else repr(bool(value(sources[0])))
        except Exception:
            return None

    try:
        run(compile(answer, "answer.py", "exec"), space)
        for number, (whole, steps) in enumerate(tests):
            results = []
            try:
                for step in steps:
                    if step[0] == "run":
                        run(compile(step[1], "tests.py", "exec"), space)
                    else:
                        results.append(result(*step))
            except Exception:
                continue
            write(out, f"{number} {word if whole else dumps(results)}\\n".encode())
    finally:
        os._exit(0)
"""
