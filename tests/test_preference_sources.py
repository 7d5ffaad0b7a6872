"""Other people's code as tasks: what is read, what is refused and why, and what the recorded tests hold to."""

import gzip
import json
import zipfile
from collections import Counter

import numpy as np
import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.preferences import degrade, mined
from mlxrlhf.preferences.pairs import Pair, _drawn, _in_the_layout_of, _quotas, _verified, split_by_task
from mlxrlhf.tasks import humaneval, quality
from mlxrlhf.tasks.answers import extract_code
from mlxrlhf.tasks.judge import operations, passes
from mlxrlhf.tasks.task import Task, load_tasks

PROBLEM = humaneval.Problem(
    "HumanEval/0",
    '''from typing import List


def running_peak(numbers: List[int]) -> List[int]:
    """ For every position of the list of numbers find the largest element up to and including it.
    >>> running_peak([1, 3, 2])
    [1, 3, 3]
    """
''',
    "running_peak",
    """    peaks = []
    for number in numbers:
        peaks.append(number if not peaks else max(peaks[-1], number))
    return peaks
""",
    """def check(candidate):
    assert candidate([1, 3, 2]) == [1, 3, 3]
    assert candidate([]) == []
""",
)
OVERLAP = humaneval.Overlap([PROBLEM])
HEAD = "# import necessary packages\nimport math\nimport random\n\n# main function\n"
GENERATOR = "def generate_input{}(rng: Random) -> dict:\n    return {{'n': rng.randint(1, 50)}}"
SPEC = "Input:\n  `n` (int): a number.\n\nOutput:\n  `return` (int): the total."


def row(code, description="Given a number n, what is the total of the squares up to it?", generator=""):
    return {
        "task_description": description,
        "input_output_spec": SPEC,
        "code_sample": HEAD + code,
        "input_generator": GENERATOR.format(generator),
    }


SQUARES = """def unused(x):
    return x


def square(x):
    return x * x


def main_solution(n):
    # all input arguments of the main_solution function should be json serializable
    total = 0
    for number in range(1, n + 1):
        total += square(number)  # the n-th square
    return total
"""
LUCK = """def main_solution(n):
    total = n
    for _ in range(3):
        total += random.randint(1, 9)
    return total  # long enough to be looked at, and never the same twice
"""
MEMORY = """_calls = []


def main_solution(n):
    _calls.append(n)
    total = n + len(_calls)
    result = total + len(_calls)
    return result * 2
"""
CONSTANT = """def main_solution(n):
    total = 0
    for number in range(1, n + 1):
        total += number
    return min(total, 0) + 3 * 0
"""
FILE = """def main_solution(n):
    total = 0
    for number in range(1, n + 1):
        total += number
    with open('x') as file:
        return file.read() * total
"""
ARRAYS = "import numpy as np\n\n\ndef main_solution(n):\n    return int(np.arange(n).sum())\n"
COPY = "Consider: for every position of the list of numbers find the largest element up to and including it, given n."


@pytest.fixture
def wheel(tmp_path):
    """A package as reasoning-gym's is: codeio-hq one JSON list, codeio a row a line."""
    hq = [row(SQUARES), row(LUCK), row(MEMORY), row(CONSTANT), row(ARRAYS), row(FILE), row("def main_solution(n:")]
    lines = [
        row(SQUARES, generator="s"),
        row(SQUARES.replace("x * x", "x ** 2"), COPY),
        row("def main_solution(n):\n    return n"),
    ]
    path = tmp_path / "reasoning_gym-0.1.25-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mined.REASONING_GYM_DATA[0], gzip.compress(json.dumps(hq).encode()))
        archive.writestr(mined.REASONING_GYM_DATA[1], gzip.compress("\n".join(map(json.dumps, lines)).encode()))
        archive.writestr("reasoning_gym/__init__.py", "raise SystemExit('imported')")
    return path


def test_reference_solutions_become_tasks_and_every_refusal_is_counted(wheel):
    found = mined.collect("reasoning-gym", 10, 0, max_characters=900, overlap=OVERLAP, wheel=wheel)
    assert found.report == {
        "read": 10,
        "not valid Python": 1,
        "with imports beyond pure standard modules": 1,
        "with effects beyond their result": 1,
        "repeated": 1,
        "in HumanEval": 1,
        "shorter than 120 characters": 1,
        "that do not give the same result again": 2,
        "with fewer than 4 different results": 1,
    }
    (task,) = found.tasks
    assert (
        task.solution
        == """def square(x):
    return x * x


def main_solution(n):
    total = 0
    for number in range(1, n + 1):
        total += square(number)  # the n-th square
    return total"""
    )
    assert (
        task.phrasings[0] == "Write a Python function `main_solution(n)`. Given a number n, what is the total of "
        f"the squares up to it?\n\n{SPEC}"
    )
    assert len(task.tests) == mined.TESTS
    for test in task.tests:  # 1 + 4 + ... + n^2 = n (n + 1) (2 n + 1) / 6
        n, total = (int(part) for part in test.removeprefix("assert main_solution(n=").split(") == "))
        assert total == n * (n + 1) * (2 * n + 1) // 6
    assert passes([(task, task.solution), (task, task.solution.replace("n + 1", "n"))]) == [True, False]


MODULE = '''"""A module."""
import os
from functools import reduce
from ._private import helper

_SEPARATOR = "-"
_FOLDERS = os.sep


def _joined(parts):
    return _SEPARATOR.join(parts)


def dashed(text, width=2):
    """Return the text in groups of width letters with dashes between.

    >>> dashed("abcde")
    'ab-cd-e'
    >>> dashed("abc", 1)
    'wrong on purpose'
    """
    parts = [text[i:i + width] for i in range(0, len(text), width)]
    return _joined(parts)


def product_of(numbers):
    """Return the product of all numbers; it is 1 for none of them."""
    total = 1
    for number in numbers:
        total = total * number
    return reduce(lambda a, b: b, [total], total)


def is_steady(numbers):
    """Tell whether no number is smaller than the one before it."""
    for first, second in zip(numbers, numbers[1:]):
        if second < first:
            return False
    return True


def removed(path):
    """Remove the file at this path and return its name."""
    os.remove(path)
    return path


def helped(numbers):
    """Return what the helper makes of all of the numbers."""
    return helper(numbers)


def bare(numbers):
    return [number + 1 for number in numbers]


def counted(numbers):
    """Count upwards, one number after the other."""
    yield from numbers
'''


def test_functions_come_with_what_they_need_and_tests_that_were_run(monkeypatch):
    monkeypatch.setattr(mined.corpora, "documents", lambda *_: iter([("some/module.py", MODULE)]))
    found = mined.collect("package:some", 10, 0, max_characters=900, overlap=OVERLAP)
    made = {task.name.partition(":")[2].partition(":")[2]: task for task in found.tasks}
    assert set(made) == {"dashed", "product_of", "is_steady"}
    assert found.report == {
        "read": 7,
        "with imports beyond pure standard modules": 2,
        "functions without a description, plain parameters or a result": 2,
    }
    dashed = made["dashed"]
    assert dashed.solution.startswith('_SEPARATOR = "-"\n\n\ndef _joined(parts):')
    assert dashed.phrasings[0].startswith("Write a Python function `dashed(text, width=2)`. Return the text in groups")
    assert """assert repr(dashed("abcde")) == "'ab-cd-e'\"""" in dashed.tests
    assert not any("wrong on purpose" in test for test in dashed.tests), "an example that does not hold is no test"
    assert made["product_of"].solution.startswith("from functools import reduce\n\n\ndef product_of")
    outcomes = Counter(test.rpartition(" == ")[2] for test in made["is_steady"].tests)
    assert outcomes["True"] and outcomes["False"]
    assert all(passes([(task, task.solution) for task in found.tasks]))
    assert len({task.held_out for task in found.tasks}) == 1, "one module is on one side of the split"


def test_pairs_of_several_sources_are_verified_and_split_by_task(wheel, monkeypatch):
    monkeypatch.setattr(mined, "cached_wheel", lambda pin, sha256: wheel)
    monkeypatch.setattr(mined.humaneval, "load", lambda: (PROBLEM,))
    bank = [task for task in load_tasks() if task.name in ("is_prime", "gcd", "clamp", "power")]
    monkeypatch.setattr(mined, "load_tasks", lambda: bank)
    said = []
    pairs, made, report = mined.build(["reasoning-gym", "tasks"], 60, 0, said.append)
    origins = Counter(pair.task.partition("/")[0] for pair in pairs)
    assert 0 < origins["reasoning-gym"] <= mined.MOST_PER_TASK
    assert len(pairs) == 60, "what one source lacks the next one gives"
    assert any("10 read, 1 tasks kept" in line for line in said)
    by_name = {task.name: task for task in made}
    works = [
        passes([(by_name[pair.task], extract_code(getattr(pair, side))) for pair in pairs])
        for side in ("chosen", "rejected")
    ]
    assert all(works[0]) and works[1] == [pair.criterion != "correctness" for pair in pairs]
    train, val = split_by_task(pairs, made)
    assert not {p.task for p in train} & {p.task for p in val}


def test_an_unknown_or_unreachable_source_is_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="--sources books: choose among tasks, reasoning-gym"):
        mined.build(["tasks", "books"], 40, 0)

    def unreachable(pin, sha256):
        raise UserError(f"{pin} could not be fetched")

    monkeypatch.setattr(mined.humaneval, "cached_wheel", unreachable)
    with pytest.raises(UserError, match="could not be fetched; every source but tasks is checked against HumanEval"):
        mined.build(["stdlib"], 40, 0)


# --- degradations ----------------------------------------------------------------------------------------------------


def test_a_mutant_differs_in_its_change_alone():
    code = 'def f(a,  b):\n    # é: a < b\n    return "x" if a <  b else a - 10'
    assert dict(degrade.mutants(code)) == {
        code.replace("a <  b else", "a <=  b else"): "the other's comparison is wrong",
        code.replace("a - 10", "a + 10"): "the other uses the wrong operator",
        code.replace("10", "11"): "the other is off by one",
    }


EXIT = """def f(xs):
    for x in xs:
        if x < 0:
            return True
    return False"""
NO_EXIT = """def f(xs):
    answer = False
    for x in xs:
        if x < 0:
            answer = True
    return answer"""


@pytest.mark.parametrize(
    "worsen, code, worse",
    [
        (
            degrade.hidden_errors,
            'def f(x):\n    """Doc."""\n    return 1 / x',
            'def f(x):\n    """Doc."""\n    try:\n        return 1 / x\n    except:\n        return None',
        ),
        (degrade.evaluated, "def f(x):\n    return x + 1", "def f(x):\n    return eval('x + 1')"),
        (degrade.without_early_exit, EXIT, NO_EXIT),
        (
            degrade.recomputed,
            "def f(xs):\n    n = max(xs)\n    for x in xs:\n        x += n\n    return n",
            "def f(xs):\n    n = max(xs)\n    for x in xs:\n        x += max(xs)\n    return n",
        ),
        (
            degrade.copied_first,
            "def f(xs):\n    return [x for x in xs]",
            "def f(xs):\n    xs_copy = []\n    for item in xs:\n        xs_copy.append(item)\n    xs = xs_copy\n"
            "    return [x for x in xs]",
        ),
    ],
)
def test_degradations_by_hand(worsen, code, worse):
    assert worsen(code) == worse
    if worsen is not degrade.hidden_errors:
        assert worsen("def f(x):\n    return x") == "def f(x):\n    return x", "nothing to change"


def test_security_and_efficiency_degradations_are_measured():
    code = "def f(xs):\n    return sum(xs)"
    slow = degrade.builtins_by_hand(code)
    fast_count, slow_count = operations([(code, "f([1] * 50)"), (slow, "f([1] * 50)")])
    assert slow_count > 3 * fast_count
    measured = quality.measure([degrade.hidden_errors(code), degrade.evaluated(code)], lint=False)
    assert [q.insecure for q in measured] == [("bare except",), ("eval",)]


# --- every label is checked ------------------------------------------------------------------------------------------

GOOD = 'def total(numbers: list) -> int:\n    """Return the sum of the numbers."""\n    return sum(numbers)'
LOOP = GOOD.replace(
    "return sum(numbers)", "result = 0\n    for number in numbers:\n        result += number\n    return result"
)
WRONG = GOOD.replace("sum(numbers)", "sum(numbers[1:])")


@pytest.mark.parametrize(
    "criterion, code, holds",
    [
        ("correctness", WRONG, True),
        ("correctness", LOOP, False),
        ("correctness", "def total(", True),
        ("efficiency", LOOP, True),
        ("efficiency", GOOD.replace("sum of", "sum of all"), False),
        ("efficiency", WRONG.replace("sum(numbers[1:])", "sum(n for n in numbers if n)  + 1"), False),
        ("security", GOOD.replace("sum(numbers)", "eval('sum(numbers)')"), True),
        ("security", LOOP, False),
        ("security", GOOD.replace("sum(numbers)", "eval('0')"), False),
        ("style", GOOD.replace("sum(numbers)", "sum(numbers);"), True),
        ("style", LOOP, False),
        ("style", WRONG.replace("numbers[1:])", "numbers[1:]);"), False),
        ("readability", "def total(numbers):\n    return sum(numbers)", True),
        ("readability", GOOD.replace("numbers", "n"), True),
        ("readability", GOOD.replace("sum of", "sum of all"), False),
        ("readability", "def total(numbers):\n    return sum(numbers) + 1", False),
    ],
)
def test_a_label_is_kept_only_where_it_holds(criterion, code, holds):
    task = Task(
        "total",
        ("Add them.",),
        GOOD,
        GOOD,
        ("assert total([2, 3]) == 5", "assert total([]) == 0"),
        sizes=("total([1] * 10)", "total([1] * 100)"),
    )
    report = Counter()
    kept = _verified([(task, criterion, code, "why")], report, False)
    assert bool(kept) == holds
    assert report == {f"verified {criterion}" if holds else f"dropped: {criterion} not borne out": 1}


def test_pairs_whose_solution_fails_its_own_tests_are_dropped():
    task = Task("total", ("Add them.",), WRONG, GOOD, ("assert total([2, 3]) == 5",))
    report = Counter()
    assert _verified([(task, "correctness", "def total(", "why")], report, False) == []
    assert report == {"dropped: the solution fails": 1}


# --- shares and layout -----------------------------------------------------------------------------------------------


def test_what_one_criterion_lacks_the_others_give():
    assert _quotas(10, {"a": 0.5, "b": 0.5}, {"a": 2, "b": 20}) == {"a": 2, "b": 8}
    assert _quotas(10, {"a": 0.8, "b": 0.2}, {"a": 20, "b": 20}) == {"a": 8, "b": 2}
    assert _quotas(10, {"a": 0.8, "b": 0.2}, {"a": 3, "b": 4}) == {"a": 3, "b": 4}


def test_a_reason_is_not_claimed_for_what_another_reason_already_explains():
    task = Task("t", ("a", "b", "c"), 'def f(x):\n    """Give one more."""\n    return (x, x + 1)', "", ())
    reasons = [
        (code, why)
        for criterion, code, why in degrade.variants(task.solution, np.random.default_rng(0))
        if criterion == "security"
    ]
    assert len({code for code, _ in reasons}) == 1, "a tuple is not computed by eval"
    assert reasons[0][1] == "the other hides every error behind a bare except"


def test_both_answers_are_written_in_one_layout():
    solution = 'def f(x):\n    """Doc."""\n    return x + "a"  # as asked'
    rewritten = degrade.evaluated(solution)
    assert _in_the_layout_of(rewritten, solution, "security") == 'def f(x):\n    """Doc."""\n    return x + \'a\''
    assert _in_the_layout_of(rewritten, solution, "readability") == solution
    assert _in_the_layout_of(solution.replace("+", "-"), solution, "correctness") == solution


def test_pairs_are_spread_over_tasks_and_balanced_in_length():
    pairs = [Pair("p", "long answer", "short", task=f"t{i % 3}", rationale=str(i)) for i in range(9)]
    pairs += [Pair("p", "short", "long answer", task="t0", rationale=str(i)) for i in range(9)]
    drawn = _drawn(pairs, 6, np.random.default_rng(0))
    assert [len(p.chosen) > len(p.rejected) for p in drawn] == [True] * 3 + [False] * 3
    assert {p.task for p in drawn[:3]} == {"t0", "t1", "t2"}
