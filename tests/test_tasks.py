"""Every answer of the task bank is run: what is called right passes, what is called wrong fails."""

import ast
from pathlib import Path

import numpy as np
import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.preferences.pairs import Pair, build_pairs, from_samples, length_baseline, split_by_task
from mlxrlhf.tasks import bank, quality, requests
from mlxrlhf.tasks.answers import extract_code, format_answer
from mlxrlhf.tasks.judge import code_for, operations, passes
from mlxrlhf.tasks.task import CRITERIA, Task, load_tasks, read_task

BANK = load_tasks()


def test_every_label_of_the_bank_holds_when_it_is_run():
    items = []
    for task in BANK:
        items += [(task, task.solution, True), (task, task.naive, True)]
        for criterion, codes in task.rejected.items():
            items += [(task, code, criterion != "correctness") for code in codes]
    passed = passes([(task, code) for task, code, _ in items])
    wrong = [(task.name, code) for (task, code, expected), found in zip(items, passed) if found != expected]
    assert not wrong
    measured = quality.measure([task.solution for task in BANK])
    assert all(q.docstring and q.type_hints and not q.insecure for q in measured)


def test_efficiency_counts_operations():
    slow = "def f(n):\n    t = 0\n    for i in range(n):\n        t += i\n    return t"
    fast = "def f(n):\n    return n * (n - 1) // 2"
    small, large, same = operations([(slow, "f(10)"), (slow, "f(20)"), (fast, "f(20)")])
    assert large - small == pytest.approx(small, rel=0.3) and same < small


def test_held_out_phrasings_and_tasks_are_never_trained_on():
    rng = np.random.default_rng(0)
    seen = {row["messages"][0]["content"] for row in requests.sft_dialogues(BANK, rng)}
    groups = requests.prompts(BANK)
    held_out = {p["prompt"] for name in ("new phrasings", "new tasks") for p in groups[name]}
    assert not seen & held_out and not {p["prompt"] for p in groups["train"]} & held_out
    assert len(seen) > 1.5 * len(groups["train"]), "requests are reworded"
    assert requests.reworded("Can you write a prime test?", rng) != requests.reworded("Is n prime?", rng)


def test_pairs_are_verified_split_by_task_and_balanced_in_length():
    tasks = BANK[::2]
    pairs, _ = build_pairs(tasks, 200, seed=0)
    some, again = (build_pairs(tasks[:4], 20, seed=0)[0] for _ in range(2))
    assert len(pairs) == 200 and some == again and {p.criterion for p in pairs} == set(CRITERIA)
    train, val = split_by_task(pairs, tasks)
    assert train and val and not {p.task for p in train} & {p.task for p in val}
    assert 0.45 <= length_baseline(pairs) <= 0.60
    correctness = [p for p in pairs if p.criterion == "correctness"]
    bank = {task.name: task for task in BANK}
    sides = [
        passes([(bank[p.task], extract_code(getattr(p, side))) for p in correctness]) for side in ("chosen", "rejected")
    ]
    assert all(sides[0]) and not any(sides[1])


def test_a_wrong_label_is_dropped():
    task = BANK[0]
    doctored = Task(
        task.name,
        task.phrasings,
        task.solution,
        task.naive,
        task.tests,
        {"correctness": (task.naive,), "security": (task.naive,)},
        task.sizes,
    )
    pairs, report = build_pairs([doctored], 200, seed=0)
    assert report["dropped: correctness not borne out"] >= 1 and report["dropped: security not borne out"] == 1
    assert format_answer(task.naive) not in {p.rejected for p in pairs if p.criterion == "correctness"}


def test_own_answers_are_paired_with_better_ones_by_running_them():
    task = next(t for t in BANK if t.name == "is_prime")
    request = (task, task.phrasings[0])
    broken, bare, best = (format_answer(c) for c in ("def is_prime(n):", task.naive, task.solution))
    bare = f"Sure, here it is.\n{bare}"
    found = [from_samples([request] * 3, [broken, bare, best], seed=seed) for seed in range(8)]
    for pairs in found:
        assert [p.rejected for p in pairs] == [broken, bare], "nothing is better than the solution"
        assert [p.criterion for p in pairs] == ["correctness", "readability"] and pairs[1].chosen == best
    assert {pairs[0].chosen for pairs in found} == {bare, best}, "an answer of its own stays as it was said"


def test_own_answers_that_no_parser_can_take_are_the_worse_ones():
    task = next(t for t in BANK if t.name == "is_prime")
    answers = [format_answer(f"is_prime = {code}") for code in DEEP]
    pairs = from_samples([(task, task.phrasings[0])] * len(answers), answers, seed=0)
    assert [pair.rejected for pair in pairs] == answers and all(pair.criterion == "correctness" for pair in pairs)
    assert {pair.chosen for pair in pairs} == {format_answer(task.solution)}


def test_quality_by_hand():
    good = 'def f(x: int) -> int:\n    """Double."""\n    return 2 * x'
    bad = "import os\ndef f(x):\n    try:\n        return eval(x)\n    except:\n        os.system(x)"
    a, b, c = quality.measure([good, bad, "def f(:"])
    assert a.parses and a.docstring and a.type_hints and not a.insecure and a.lint == 0
    assert b.parses and not b.docstring and not b.type_hints and b.lint > 0
    assert b.insecure == ("bare except", "eval", "os.system")
    assert not c.parses and not c.docstring


def test_complexity_is_mccabes():
    # 1, the for, the if, two operands more, the comprehension and its condition; the inner function has 2 of its own.
    code = """def f(x):
    for i in x:
        if i and x or i:
            return [y for y in x if y]
    def g(z):
        return 1 if z else 2
"""
    outer = ast.parse(code).body[0]
    assert quality.complexity(outer) == 7 and quality.complexity(outer.body[1]) == 2
    assert quality.measure([code], lint=False)[0].complexity == 1 + 6 + 1


DEEP = [
    "x = " + "f(" * 332 + "1" + ")" * 332,
    "x = " + "-" * 20_000 + "1",
    "x = f" + ".a" * 20_000,
    "x = '\ud800'",
    "x = \0",
]


def test_code_that_no_parser_can_take_is_measured_and_harms_no_other(recwarn):
    fine = "def f(x: int) -> int:\n    return x"
    measured = quality.measure([*DEEP, r"x = '\d'", fine])
    assert [q.parses for q in measured] == [False] * len(DEEP) + [True, True]
    assert measured[-1].type_hints and measured[-1].lint == 0 and not recwarn.list


def test_an_answer_cannot_silence_its_findings():
    silent = ["import os  # noqa", "# ruff: noqa\nimport os", "# flake8: noqa\nimport os"]
    assert [q.lint for q in quality.measure(["import os", *silent])] == [1, 1, 1, 1]


def test_answers_round_trip():
    assert extract_code(format_answer("x = 1\n")) == "x = 1"
    assert extract_code("Sure:\n```python\nx = 1\n```\nDone.") == "x = 1"
    assert extract_code("```python\nx = 1\ny =") == "x = 1\ny ="  # truncated
    assert extract_code("```Python\nx = 1\n```") == extract_code("```python3\nx = 1\n```") == "x = 1"
    assert extract_code("    return 1\n") == "    return 1"  # the rest of a function


DEF = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "answer,code",
    [
        ("```bash\npip install x\n```\n```python\n{DEF}\n```", DEF),
        ("```python\n{DEF}\n```\nUse it:\n```python\nprint(f(1))\n```", DEF),
        ("```python\ndef f(x): 0\n```\nBetter:\n```py\n{DEF}\n```\nOr a helper:\n```py\ndef g(x): 1\n```", DEF),
        ("```\n{DEF}\n```\n```python\nprint(f(1))\n```", DEF),  # what defines it counts, tagged or not
        ("```python\nprint(f(1))\n```\n```\nTrue\n```", "print(f(1))"),
        ("```python\ndef g(x): 1\n```\n```python\nprint(g(1))\n```", "def g(x): 1"),  # by another name
        ("```python\ndef g(x): 1\n```\n```\n1\n```", "def g(x): 1"),
        ("~~~ python\n{DEF}\n~~~", DEF),
        ("```python title='f.py'\n{DEF}\n```", DEF),
        ("```{.python .numberLines}\n{DEF}\n```", DEF),
        ("````python\n{DEF}\n```\nx\n````", DEF + "\n```\nx"),
        ("1. First\n\n   ```python\n   def f(x):\n       return x\n   ```\n2. Second", DEF),
        ("- Step\n    ```python\n    def f(x):\n        return x\n    ```", DEF),
        ("> ```python\n> def f(x):\n>     return x\n> ```", DEF),
        ("<answer>\n```python\n{DEF}\n```\n</answer>", DEF),
        ("````markdown\nSure:\n```python\n{DEF}\n```\n````", DEF),
        ("```python\r\ndef f(x):\r\n    return x\r\n```\r\n", DEF),
        ("Text ```python x``` text\n```python\n{DEF}\n```", DEF),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("<think>\n```python\ndef f(x): 0\n```\n</think>\n\n```python\n{DEF}\n```", DEF),
        ("```python\ndef f(x): 0\n```\n</think>\n\n```python\n{DEF}\n```", DEF),  # the prompt began it
        ("<think>\n```python\n{DEF}\n```\nWait,", ""),  # cut off while it reasoned
        ("```python\n{DEF}\n\ntags = '<think></think>'\n```", DEF + "\n\ntags = '<think></think>'"),
        ("```python\nclass f:\n    x = 1\n```\n```python\nf == 2\nf.x\n```", "class f:\n    x = 1"),
        ("```python\nf = lambda x: x\n```\n```python\ndef other(): 0\n```", "f = lambda x: x"),
    ],
)
def test_the_block_that_defines_what_is_asked_for_is_the_code_of_an_answer(answer, code):
    assert extract_code(answer.replace("{DEF}", DEF), ["f"]) == code


def test_the_grader_asks_for_the_names_that_the_tests_use():
    answer = "```python\ndef put(x): 0\ndef get(): 0\n```\n```python\ndef put(x): 1\n```"
    assert code_for(["x = [1]", "put(x)", "assert len(x) == get()"], answer) == "def put(x): 0\ndef get(): 0"


def test_bad_pairs_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    good = '{"prompt": "p", "chosen": "a", "rejected": "b"}'
    for row, message in (
        ('{"prompt": "p", "chosen": "a"}', ':2 has no "rejected"'),
        ('{"chosen": "a", "rejected": "b"}', ":2: prompt must be text"),
    ):
        path.write_text(f"{good}\n{row}\n")
        with pytest.raises(UserError, match=message):
            load_pairs(path)
    messages = (
        '{"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}], '
        '"rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]}'
    )
    path.write_text(messages)
    assert load_pairs(path) == [Pair("p", "a", "b")]


FILE = """# %% phrasings
# One way.
# Another way.

# %% solution
def f(x: int) -> int:
    return x


# %% naive
def f(x): return x

# %% rejected: style
def f( x ):return  x

# %% tests
assert f(1) == 1
assert f('a # %%') == 'a # %%'
"""


def test_a_file_of_the_bank_is_read_letter_by_letter():
    task = read_task("f", FILE)
    assert task.phrasings == ("One way.", "Another way.")
    assert task.solution == "def f(x: int) -> int:\n    return x" and task.naive == "def f(x): return x"
    assert task.tests == ("assert f(1) == 1", "assert f('a # %%') == 'a # %%'")
    assert task.rejected == {"style": ("def f( x ):return  x",)} and task.sizes == () and not task.held_out
    assert read_task("f", FILE + "# %% held out\n").held_out


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("# %% rejected: style", "# %% rejected: taste", "f.py has a cell that means nothing: taste"),
        ("# %% naive", "# %% nave", "f.py has a cell that means nothing: nave"),
        ("# %% naive", "# %% solution", "f.py has two cells called solution"),
        ("# %% tests", "# %% sizes", "f.py has no cell called tests"),
    ],
)
def test_a_file_of_the_bank_with_a_mistake_is_named(old, new, message):
    with pytest.raises(ValueError, match=message):
        read_task("f", FILE.replace(old, new))


def test_every_file_of_the_bank_is_named_once():
    files = {path.stem for path in Path(bank.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(bank.NAMES) and len(bank.NAMES) == len(files)
