"""The judge of answers: what a test expects never enters the process that runs the answer, and cheats gain nothing."""

import ast
import collections
import datetime
import decimal
import enum
import fractions
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxrlhf.sandbox import runner
from mlxrlhf.tasks import expected, quality
from mlxrlhf.tasks.answers import extract_code, parse
from mlxrlhf.tasks.expected import split
from mlxrlhf.tasks.judge import named_for, names_asked, share_passed, verdicts

needs_jail = pytest.mark.skipif(runner.level() == "none", reason="no operating-system jail here")

TESTS = ["assert double(1) == 2", "assert double(7) == 14", "assert not double(0)"]

#: each with a twin that uses the same means honestly
CHEATS = {
    "an object that equals everything": (
        """class Equal:
    def __eq__(self, other): return True
    def __bool__(self): return False
def double(x): return Equal()""",
        """class Number(int):
    def __eq__(self, other): return int(self) == other
def double(x): return Number(2 * x)""",
    ),
    "a number that equals everything": (
        """class Equal(int):
    def __eq__(self, other): return True
def double(x): return Equal(0)""",
        "import enum\ndouble = lambda x: enum.IntEnum('Twice', {'value': 2 * x, 'other': -1}).__members__['value']",
    ),
    "frames: the expected values among the constants of the tests": (
        """import sys, types
def constants():
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            for test in value if isinstance(value, list) else [value]:
                if isinstance(test, types.CodeType) and test.co_filename == "tests.py":
                    yield [n for n in test.co_consts if isinstance(n, int)]
        frame = frame.f_back
def double(x):
    return next((c[-1] for c in constants() if c[0] == x and len(c) > 1), 0)""",
        """import sys
def double(x):
    frame = sys._getframe()
    return frame.f_locals["x"] * frame.f_code.co_argcount * 2""",
    ),
    "frames: the text of the tests": (
        """import re, sys
def double(x):
    frame, texts = sys._getframe(), []
    while frame:
        texts += [repr(value) for value in list(frame.f_locals.values())]
        frame = frame.f_back
    texts.append(open("main.py").read() if __import__("os").path.exists("main.py") else "")
    match = re.search(rf"double\\({x}\\) == (\\d+)", "".join(texts))
    return int(match[1]) if match else None if x else 1""",
        """import re
def double(x):
    return 2 * int(re.search(r"double\\((\\d+)\\)", f"double({x})")[1])""",
    ),
    "everything that the garbage collector knows": (
        """import gc, types
def double(x):
    for thing in gc.get_objects():
        for code in thing if isinstance(thing, list) else ():
            if isinstance(code, types.CodeType) and code.co_filename == "tests.py" and code.co_consts[0] == x:
                return code.co_consts[1]""",
        """import gc
def double(x):
    gc.collect()
    return sum([x for _ in gc.get_count()][:2])""",
    ),
    "a list of tests that is replaced": (
        """import sys
frame = sys._getframe()
while frame:
    tests = frame.f_locals.get("tests")
    if isinstance(tests, list):
        tests[:] = [(False, ()) if isinstance(t, tuple) else compile("0", "tests.py", "exec") for t in tests]
    frame = frame.f_back
def double(x): return 1""",
        "tests = [1, 2]\ntests[:] = [0]\ndef double(x): return x + x + tests[0]",
    ),
    "an assert that always holds": (
        "import builtins\nbuiltins.bool = lambda x: False\nbuiltins.repr = lambda x: 'True'\ndef double(x): return 1",
        "import builtins\nbuiltins.twice = lambda x: 2 * x\ndef double(x): return twice(x)",
    ),
    "an exit that looks like success": (
        "def double(x): return 1\nprint('0 []\\n1 []\\npassed')\nimport os; os._exit(0)",
        "def double(x): return 2 * x\nprint('0 []\\n1 []\\nfailed')",
    ),
}


@needs_jail
def test_a_cheat_gains_nothing_and_its_honest_twin_passes():
    cheats = share_passed([(TESTS[:2], cheat) for cheat, _ in CHEATS.values()])
    assert dict(zip(CHEATS, cheats)) == dict.fromkeys(CHEATS, 0)
    assert share_passed([(TESTS, twin) for _, twin in CHEATS.values()]) == [1] * len(CHEATS)


FORMS = [
    "assert f(1) == 12345",
    "assert 12345 == f(1)",
    "assert f(1) != 12345",
    "assert f(1) is not 12345",
    "assert f([1])[0].x == [12345, {'a': (12345,)}]",
    "assert abs(f(1) - 12345) < 1e-6",
    "assert 12344 < f(1) <= 12345",
    "assert math.isclose(f(1), 12345, rel_tol=1e-9)",
    "assert f(1) in (12345, 1) and not f(2) == 12345 or f(3) == 12345",
    "assert f(1) == 12345, 'it is 12345'",
    "assert sorted(f(1)) == [12345] * 2 + list(range(3))",
    "assert set(f(1)) == {12345}",
    "assert -f(1) == -12345 + 1",
    "assert f(lambda x: x + 1, [y for y in (1, 2) if y]) == 12345",
    "x = [1]\nf(x)\nassert x == [12345]",
    "expected = [12345]\nassert f(1) == expected",
    "from decimal import Decimal\nassert f(1) == Decimal('12345')",
    "from math import isclose as near\nassert near(f(1), 12345)",
    "import datetime\nassert f(1) == datetime.date(12345 - 10000, 1, 1)",
    "assert max([1, 2]) == 12345",
    "assert f('a') == max([12345, 1])",
    "assert isinstance(f(1), (int, str)) and f(1) == 12345",
    "class Thing: y = 1\nassert f(Thing.y) == 12345",
]
WHOLE = [
    "for x in range(3):\n    assert f(x) == 12345",
    "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError",
    "assert all(f(x) == 12345 for x in range(3))",
    "assert f(1) == [12345 for _ in range(1)]",
    "def test():\n    assert f(1) == 12345",
    "f(12345)",
    "assert f(1) == 'a' * 12345678",
]


@pytest.mark.parametrize("test", FORMS)
def test_what_is_expected_stays_outside(test):
    parts = split(test)
    assert not parts.whole and "12345" not in str(parts.steps)


@pytest.mark.parametrize("test", WHOLE)
def test_other_forms_run_whole(test):
    assert split(test).whole and split(test).steps == (("run", test),)


ANSWER = """
import collections, dataclasses, datetime, decimal, fractions, math, re
def same(x): return x
def first(word, text): return re.match(word, text)
def fails(): raise ValueError("no")
def numbers():
    yield from (1, 2)
def bubble(items): items.sort()
@dataclasses.dataclass
class Point:
    x: int = 0
    def moved(self, by):
        self.x += by
        return self
def maybe(x): return None if x else [1]
"""
HONEST = [
    "assert same(float('nan')) != same(float('nan'))",
    "assert same(float('inf')) == float('inf') and same(-0.0) == 0",
    "assert math.isnan(same(float('nan')))",
    "assert same(0.1 + 0.2) == 0.1 + 0.2 and abs(same(0.3) - 0.1 * 3) < 1e-9",
    "assert same({1: {2}, 'a': (1, [2.5, None, True, b'\\x00'])}) == {1: {2}, 'a': (1, [2.5, None, True, b'\\x00'])}",
    "assert same(collections.Counter('aab')) == {'a': 2, 'b': 1}",
    "assert isinstance(same(collections.Counter()), collections.Counter)",
    "assert same(decimal.Decimal('1.50')) == decimal.Decimal('1.5') and same(fractions.Fraction(1, 2)) == 0.5",
    "assert same(datetime.date(2024, 2, 29)) == datetime.date(2024, 2, 29)",
    "assert same(10 ** 900) == 10 ** 900",
    "assert list(numbers()) == [1, 2] and next(numbers()) == 1",
    "assert first('a', 'abc') and not first('b', 'abc')",
    "assert first('a', 'abc').group() == 'a'",
    "assert Point(1).moved(2).x == 3 and Point(1) == Point(1)",
    "p = Point()\nq = p.moved(2)\nassert p is q\nassert p.x == 2",
    "items = [3, 1]\nbubble(items)\nassert items == [1, 3]",
    "assert maybe(1) is None or maybe(1)[0] == 1",
    "assert maybe(0) is not None and maybe(0)[0] == 1",
    "try:\n    fails()\nexcept ValueError as error:\n    assert 'no' in str(error)\nelse:\n    assert False",
    "for x in range(3):\n    assert same(x) == x",
    "assert all(same(x) == x for x in range(3))",
    "assert same('\\ud800\\n') == '\\ud800\\n'",
    "state = 1",
    "assert state == 1",
    "counter = iter((1, 1, 2))\nassert next(counter) == next(counter)",  # each side is computed once
    "assert same([1]) is not same([1])",
    "wanted = [1]\nassert same([1]) == wanted",
    "assert same(wanted) == wanted",  # what an earlier test named is still there
    "assert same(10 ** 6) ** 2 == 10 ** 12 and [same(i) for i in (1, 2)] == [1, 2]",
    "assert same([[0] * 3] * 3) == [[0] * 3] * 3",
    "assert True",
]
UNTRUE = [
    "assert same(1) == 2",
    "assert not same(1)",
    "assert same([1]) == (1,)",
    "assert fails() == 1",
    "assert fails() is None or True",
    "assert list(numbers()) == [1]",
    "for x in range(3):\n    assert same(x) == 1",
    "raise ValueError",
    "assert isinstance(same(1), str)",
    "assert same(Point()) == 1",
    "assert same(2) is None",
    "assert same(2) == same(3)",
    "assert Point(1) == Point(2)",
    "assert False",
]


@needs_jail
def test_tests_of_every_form_hold_where_python_says_so():
    for form, outcome in ((HONEST, True), (UNTRUE, False)):
        for test in form:  # each of these lines is first judged by Python itself
            space = {}
            exec(ANSWER, space)
            space.update(state=1, wanted=[1])
            try:
                exec(test, space)
            except Exception:
                assert not outcome, test
            else:
                assert outcome, test
        held = verdicts([(form, ANSWER)])[0]
        assert [test for test, holds in zip(form, held) if holds != outcome] == []


def text_of(value):
    space = {}
    exec(expected.PROGRAM, space)
    return space["_text"](value)


class Colour(enum.IntEnum):
    RED = 2


class Named(str):
    pass


VALUES = [
    *(None, True, 0, -5, 10**6000, 0.1, -0.0, 1e300, math.inf, -math.inf, 1j, complex(math.inf, -1)),
    *("", "ä\n'\"", "\ud800", b"\x00\xff", bytearray(b"a"), Colour.RED, Named("x")),
    *([], [[]], (), (1,), {}, {1: {"a": (2,)}}, set(), {1, frozenset({2})}, frozenset(), {(): None}),
    *(collections.Counter("aab"), collections.OrderedDict(b=1, a=2), collections.deque([1, [2]])),
    *(decimal.Decimal("1.50"), decimal.Decimal("Infinity"), fractions.Fraction(-1, 3)),
    *(datetime.date(2024, 2, 29), datetime.datetime(2024, 1, 1, 5), datetime.timedelta(days=1, seconds=3)),
    *(collections.namedtuple("P", "x y")(1, 2), np.int64(3), np.float32(0.5), np.bool_(True)),
]


def test_results_come_back_as_they_were():
    for value in VALUES:
        assert expected._read(text_of(value)) == value
    assert math.isnan(expected._read(text_of(math.nan)))


def test_what_is_no_data_has_no_text():
    for value in (object(), print, (x for x in ()), [object()], type, datetime.time(1)):
        with pytest.raises(TypeError):
            text_of(value)
    loop = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        text_of(loop)


NO_DATA = [
    *("", "(", "x", "[" * 5000, "-" * 19_000 + "1", "1 2", "a b\x00", "f'{1}'", "[1 for _ in [1]]", "{**{}}"),
    *("__import__('os').system('true')", "().__class__", "set.mro()", "open('x')", "lambda: 1", "*[1]"),
    *("9**9**9", "'a' * 10**10", "list(range(10**9))", "range(10**9)", "bytes(10**10)", "int('1')"),
    *("Fraction('1e999999999')", "Fraction(1, 0)", "float(10**999)", "set(1)", "{[]}", "9" * 5000, repr("a" * 30_000)),
    "Decimal('x')",
]


def test_a_result_that_is_no_data_fails_the_test_and_does_nothing():
    equal, unequal = split("assert f(1) == 1"), split("assert f(1) != 1")
    for text in NO_DATA:
        assert not equal.holds([text]) and not unequal.holds([text]), text
    assert not equal.holds([]) and not equal.holds([None])


STRANGE = [
    *("__import__('os').getpid()", "[].__class__", "9 ** 9 ** 9", "2 ** 9999 ** 2", "'%9999999d' % 1"),
    *("[1] * 10 ** 9", "[[1] * 9999] * 9999", "[[]] * 10 ** 9", "list(range(10 ** 9))", "open('/etc/passwd').read()"),
]


@pytest.mark.parametrize("text", STRANGE)
def test_a_test_from_a_stranger_runs_nothing_here(text):
    assert split(f"assert f(1) == {text}").whole


def test_every_cheat_stands_in_the_table_of_the_docs():
    page = (Path(__file__).parent.parent / "docs" / "safety.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| nothing: ", page, re.MULTILINE)
    assert rows == list(CHEATS)


TEXT = st.text(alphabet=st.sampled_from("`~ \n\tpy>-1.<think/()[]{}'\"=:,def x*\\\x00\ud800é"), max_size=80)


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_any_text_is_an_answer_a_test_or_a_result_without_harm(text, other):
    code = extract_code(f"```python\n{text}", ["f"])
    assert isinstance(code, str) and isinstance(extract_code(text + other), str)
    assert split("assert f(1) == 1").holds([text]) in (True, False)
    if isinstance(parse(text), ast.Module):
        assert split(text).steps is not None and names_asked([text]) is not None
    measured = quality.measure([text], lint=False)[0]
    assert measured.parses == isinstance(parse(text), ast.Module)
    assert isinstance(named_for(["assert f(1)"], text), str)
