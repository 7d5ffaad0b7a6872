"""What ppo and grpo may be paid for: parsed, measured by hand, and hard to fool."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from mlxrlhf.config import PPOConfig
from mlxrlhf.errors import UserError
from mlxrlhf.rewards import function
from mlxrlhf.rewards.components import Rewards, parse_reward
from mlxrlhf.rewards.lint import lint
from mlxrlhf.sandbox import runner
from mlxrlhf.stages import ppo
from mlxrlhf.tasks import requests
from mlxrlhf.tasks.judge import share_passed

needs_jail = pytest.mark.skipif(runner.level() == "none", reason="no operating-system jail here")
DOUBLE = ["assert double(1) == 2", "assert double(2) == 4", "assert double(0) == 0", "assert double(-3) == -6"]


class Letters:
    """A tokenizer of characters; 0 ends."""

    end_id, ends = 0, (0,)

    def decode(self, ids):
        return "".join(map(chr, ids))


def encode(text):
    return [*map(ord, text), 0]


def answers(*codes):
    return [encode(f"```python\n{code}\n```") for code in codes]


@needs_jail
def test_the_share_of_tests_passed_and_what_gains_nothing():
    codes = {
        "def double(x):\n    return x * 2": 1.0,
        "def double(x):\n    return abs(x) * 2": 0.75,
        "def double(x):\n    while x < 0:\n        pass\n    return x * 2": 0.75,  # the last one never ends
        "def double(x) return x": 0.0,
        # A request need not say what to call the function: the last one counts, unless it is a script's main.
        "def half(x):\n    return x / 2\ndef twice(x):\n    return x * 2\ndef main():\n    0": 1.0,
        "def twice(x):\n    return x * 2\ndef half(x):\n    return x / 2": 0.25,
        "from operator import neg as double\ndef twice(x):\n    return x * 2": 0.25,
        "": 0.0,
        "print('passed')\nimport os\nos._exit(0)": 0.0,
        "import sys\nprint(*range(100), sep='\\n')\nsys.exit()": 0.0,
        "print(open('main.py').read())\ndouble = int": 0.0,  # it is gone
        "import os, atexit\nos.write = print\natexit.register(print, 'passed')\ndouble = int": 0.25,
        "def double(x):\n    import os\n    return os._exit(0) if x == 2 else 2 * x": 0.25,
    }
    measured = share_passed([(DOUBLE, code) for code in codes], seconds=1, workers=2)
    assert measured == list(codes.values())


@needs_jail
def test_components_are_reported_beside_their_weighted_sum():
    score = Rewards(parse_reward("model:1,tests:2,lint:0.5"), Letters(), model=lambda rows, responses, f: f[:, 0])
    rows = [{"prompt": "Double.", "tests": DOUBLE}] * 3
    found = score(
        rows,
        answers(
            'def double(x: int) -> int:\n    """Twice x."""\n    return x * 2',  # documented, typed, clean: 1
            "def double(x):\n    return abs(x) * 2",  # a third for no findings
            "double = (",
        ),
        np.array([[0.5], [-1.0], [3.0]], np.float32),
    )
    np.testing.assert_allclose(found["reward/tests"], [1, 0.75, 0])
    np.testing.assert_allclose(found["reward/lint"], [1, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found["reward/model"], [0.5, -1, 3])
    np.testing.assert_allclose(found["scores"], [3, -1 + 1.5 + 0.5 / 3, 3], rtol=1e-6)
    assert found["pass_rate"].tolist() == [1, 0, 0]


@needs_jail
def test_every_measure_has_one_value_per_row():
    rows = [{"prompt": "a", "tests": []}, {"prompt": "b", "tests": DOUBLE}, {"prompt": "c", "tests": []}]
    given = answers("1", "def double(x):\n    return abs(x) * 2", "2")
    features = np.array([[1.0], [2.0], [3.0]], np.float32)

    def score(reward, rows, **options):
        rewards = Rewards(parse_reward(reward), Letters(), model=lambda rows, responses, f: f[:, 0], **options)
        return rewards(rows, given[: len(rows)], features[: len(rows)])

    some = score("model,tests:2", rows)
    np.testing.assert_array_equal(some["pass_rate"], [np.nan, 0, np.nan])  # one tested row, and three values
    np.testing.assert_array_equal(some["reward/tests"], [np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(some["scores"], [1, 3.5, 3])  # a part that has no value adds nothing
    assert all(values.shape == (3,) and values.dtype == np.float32 for values in some.values())
    none = score("model", rows[:1])
    assert np.isnan(none["pass_rate"]).all() and none["scores"].tolist() == [1]
    assert "pass_rate" not in score("model", rows, pass_rate=False)


def test_without_a_sandbox_nothing_is_run_for_the_report(monkeypatch, capsys):
    monkeypatch.setattr(runner, "_best_jail", lambda: None)
    rows = [{"prompt": "b", "tests": DOUBLE}]
    run = SimpleNamespace(tokenizer=Letters())
    score = ppo.rewards_for(PPOConfig(reward="lint"), parse_reward("lint"), rows, run, None)
    assert "pass_rate" not in score(rows, answers("double = 1"), None) and "no sandbox" in capsys.readouterr().out
    with pytest.raises(UserError, match="--unsafe-exec"):
        Rewards(parse_reward("tests"), Letters())(rows, answers("double = 1"), None)


def test_lint_asks_for_a_definition_and_counts_findings():
    # Unused import and two statements on a line: two findings, so 1/3 of the third part.
    assert lint(["", "x = (", "def f(x: int) -> int:\n    import os; return x"]) == pytest.approx([0, 0, 4 / 9])


DEEP = ["double = " + "f(" * 332 + "1" + ")" * 332, "double = " + "-" * 20_000 + "1", "double = x" + "()" * 20_000]


@needs_jail
def test_answers_that_no_parser_can_take_are_worth_nothing_and_harm_no_other():
    fine = "def double(x: int) -> int:\n    return 2 * x"
    rows = [{"prompt": "Double.", "tests": DOUBLE}] * 4
    found = Rewards(parse_reward("tests,lint"), Letters())(rows, answers(*DEEP, fine), None)
    np.testing.assert_allclose(found["reward/tests"], [0, 0, 0, 1])
    np.testing.assert_allclose(found["reward/lint"], [0, 0, 0, 2 / 3], rtol=1e-6)


def test_rows_take_the_tests_of_their_task(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "Prime?", "task": "is_prime"}\n\n{"prompt": "Own", "tests": ["assert 1"], "n": 3}\n'
        '{"prompt": "Nothing"}\n'
    )
    rows = requests.with_tests([row for _, row in requests.load_prompts(PPOConfig(prompts=str(path)))])
    assert rows[0]["tests"][0] == "assert is_prime(2)" and len(rows[0]["tests"]) == 6
    assert rows[1]["tests"] == ["assert 1"] and rows[1]["n"] == 3 and rows[2]["tests"] == []


@pytest.mark.parametrize(
    "line,message",
    [
        ('{"task": "is_prime"}', '2 has no "prompt"'),
        ('{"prompt": "x", "task": "nothing"}', "no task 'nothing'"),
        ('{"prompt": "x", "tests": "assert 1"}', "list of assert"),
        ('{"prompt": "x", "tests": ["assert"]}', "not Python"),
        ('{"prompt": "x", "tests": ["assert ' + "-" * 20_000 + '1"]}', "not Python"),
        ('{"prompt": "x", "task": ["is_prime"]}', '"task" must be the name'),
        ('{"prompt"', "2 is not valid JSON"),
    ],
)
def test_a_bad_prompt_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"prompts.jsonl:2.*") as found:
        requests.load_prompts(PPOConfig(prompts=str(path)))
    assert message in str(found.value)


SOURCE = """
from __future__ import annotations
import asyncio, dataclasses, os, sys, time

class Own(BaseException): pass

def length(prompt, response):
    return len(response) / len(prompt)

def asked(prompt, response, n=1, **row):
    return n + len(row)

def together(prompts, responses, n, **rows):
    return [len(r) + (k or 0) for r, k in zip(responses, n)]

def fails(prompt, response):
    values = {}
    return values["x"]

def nothing(prompt, response):
    pass

def short(prompts, responses):
    return [1.0]

def alone(prompts, responses):
    return 1.5

def huge(prompt, response):
    return 1e300

def passes_on(prompt, response):
    from mlxrlhf.errors import UserError
    raise UserError("mine.py: the sandbox is missing")

def lint(prompt, response):
    return 1

def trl(completions, **kwargs):
    return [len(c) + kwargs["n"][i] for i, c in enumerate(completions)]

def trl_all(prompts, completions, n):
    return [len(p) * len(c) + n[i] for i, (p, c) in enumerate(zip(prompts, completions))]

async def one_async(prompt, response):
    await asyncio.sleep(0)
    return len(response)

async def all_async(prompts, responses, **rows):
    return [len(r) for r in responses]

async def yields(prompt, response):
    yield 1

def abstains(prompt, response):
    return None if prompt == "ab" else 1

def all_abstain(prompts, responses):
    return [None, 2]

def text(prompt, response):
    return "1"

def collides(prompt, answer, **row):
    return len(answer) + len(row)

def exits(prompt, response):
    sys.exit(0)

def ends(prompt, response):
    try:
        os._exit(0)
    except Exception:
        return 1

def baser(prompt, response):
    raise Own("no")

def has_children(prompt, response):
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def moves(prompt, response):
    os.chdir("/")
    return 1

def sleeps(prompt, response):
    time.sleep(0.3)
    return 1

@dataclasses.dataclass
class Value:
    number: "int"

class Thing: pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def scored(file, name, rows, responses=("1234", "12")):
    rewards = Rewards(parse_reward(f"{file}:{name}:2"), Letters(), pass_rate=False)
    return rewards(rows, [encode(text) for text in responses], np.zeros((2, 1), np.float32))


ROWS = [{"prompt": "ab", "tests": [], "n": 5}, {"prompt": "abcd", "tests": [], "n": 0}]


@pytest.mark.parametrize(
    "name,expected",
    [
        *(("length", [2, 0.5]), ("asked", [6, 1]), ("together", [9, 2])),
        *(("trl", [9, 2]), ("trl_all", [13, 8]), ("one_async", [4, 2]), ("all_async", [4, 2])),
        *(("collides", [6, 4]), ("has_children", [3, 3]), ("moves", [1, 1])),
    ],
)
def test_a_function_of_the_users_own(file, name, expected):
    here = os.getcwd()
    found = scored(file, name, ROWS)
    assert found[f"reward/{name}"].tolist() == expected and found["scores"].tolist() == [2 * x for x in expected]
    assert os.getcwd() == here


@pytest.mark.parametrize("name,expected", [("abstains", [np.nan, 1]), ("all_abstain", [np.nan, 2])])
def test_a_function_may_abstain(file, name, expected):
    found = scored(file, name, ROWS)
    np.testing.assert_array_equal(found[f"reward/{name}"], expected)
    np.testing.assert_array_equal(found["scores"], np.nan_to_num([2 * x for x in expected]))


def test_completions_of_conversations_are_messages_as_in_trl(file):
    file.write_text("def last(completions, **kwargs):\n    return [len(c[-1]['content']) for c in completions]")
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert scored(file, "last", rows)["reward/last"].tolist() == [4, 2]


def test_a_field_called_like_an_argument_does_not_collide(file):
    rows = [{**row, "response": "theirs", "answer": "theirs", "completions": 1, "responses": 2} for row in ROWS]
    assert scored(file, "length", rows)["reward/length"].tolist() == [2, 0.5]
    assert scored(file, "trl", rows)["reward/trl"].tolist() == [9, 2]
    # "answer" is its own argument; n, tests, response and responses are the row's.
    assert scored(file, "collides", rows)["reward/collides"].tolist() == [8, 6]


def test_a_function_that_takes_long_is_named_once(file, monkeypatch, capsys):
    monkeypatch.setattr(function, "SLOW_SECONDS", 0.05)
    score = Rewards(parse_reward(f"{file}:sleeps"), Letters(), pass_rate=False)
    for _ in range(2):
        score(ROWS[:1], [encode("a")], np.zeros((1, 1), np.float32))
    assert capsys.readouterr().err == f"--reward {file}:sleeps has been running for 0.05 seconds; the run waits\n"


@pytest.mark.parametrize(
    "name,message",
    [
        ("fails", "mine.py:LINE: KeyError: 'x'"),
        ("short", "for each response, or None to abstain, not 1 values for 2 responses"),
        ("alone", "must return a list with one finite number for each response, or None to abstain, not 1.5"),
        ("huge", "must return one finite number, or None to abstain, not 1e+300"),
        ("passes_on", "the sandbox is missing"),
        ("text", "must return one finite number, or None to abstain, not '1'"),
        ("exits", "mine.py:LINE: it calls sys.exit(0)"),
        ("ends", "mine.py:LINE: it calls os._exit(0)"),
        ("baser", "mine.py:LINE: Own: no"),
        ("yields", "is an async generator; return the numbers"),
    ],
)
def test_an_error_in_it_is_one_sentence_with_file_and_line(file, name, message):
    with pytest.raises(UserError) as found:
        scored(file, name, [{"prompt": "a", "tests": []}] * 2)
    faults = {"fails": 'return values["x"]', "exits": "sys.exit(0)", "ends": "os._exit(0)", "baser": "raise Own"}
    line = SOURCE[: SOURCE.index(faults.get(name, ""))].count("\n") + 1
    assert message.replace("LINE", str(line)) in str(found.value) and "mine.py:" in str(found.value)


def test_an_interrupt_is_not_its_fault(file):
    file.write_text("def stopped(prompt, response):\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        scored(file, "stopped", ROWS)


def test_a_file_that_does_not_load_is_named_by_line(file):
    for source, message in (
        ("x = 1\ny = (\n", "mine.py:2: '(' was never closed"),
        ("x = 1\n\ny = z\n", "mine.py:3: NameError"),
        ("import sys\nsys.exit()", "mine.py:2: it calls sys.exit(None)"),
        ("import os\n\nos._exit(0)", "mine.py:3: it calls os._exit(0)"),
        ("raise BaseException('x')", "mine.py:1: BaseException: x"),
        ("raise GeneratorExit", "mine.py:1: GeneratorExit"),
    ):
        file.write_text(source)
        with pytest.raises(UserError) as found:
            parse_reward(f"{file}:length")
        assert message in str(found.value)


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "is empty"),
        ("modle", "choose model, tests, lint"),
        ("model:x", "choose model, tests, lint"),
        ("tests:0", "other than 0"),
        ("tests:nan", "other than 0"),
        ("tests,tests:2", "named twice"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("FILE:Thing", "defines no function Thing"),
        ("FILE:missing:2", "defines no function missing"),
        ("FILE:lint", "another name"),
    ],
)
def test_a_reward_that_makes_no_sense_is_one_sentence(file, text, message):
    with pytest.raises(UserError) as found:
        parse_reward(text.replace("FILE", str(file)))
    assert message in str(found.value)


def test_weights_are_read():
    assert [(c.name, c.weight) for c in parse_reward("model, tests:2,lint:-0.5")] == [
        ("model", 1),
        ("tests", 2),
        ("lint", -0.5),
    ]
