"""What ppo and grpo may be paid for: parsed, measured by hand, and hard to fool."""

import numpy as np
import pytest

from mlxrlhf.config import PPOConfig
from mlxrlhf.errors import UserError
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
def test_the_pass_rate_counts_answers_that_have_tests_and_can_be_left_out():
    rows, given = [{"prompt": "a", "tests": []}, {"prompt": "b", "tests": DOUBLE}], answers("1", "double = None")
    features = np.zeros((2, 1), np.float32)
    for pass_rate, expected in ((True, [0]), (False, None)):
        found = Rewards(
            parse_reward("model"), Letters(), model=lambda rows, responses, f: f[:, 0], pass_rate=pass_rate
        )(rows, given, features)
        assert found.get("pass_rate", np.array(None)).tolist() == expected


def test_without_a_sandbox_nothing_is_run_for_the_report(monkeypatch, capsys):
    monkeypatch.setattr(runner, "_best_jail", lambda: None)
    rows = [{"prompt": "b", "tests": DOUBLE}]
    score, _ = ppo.rewards_for(PPOConfig(reward="lint"), parse_reward("lint"), rows, None, Letters())
    assert "pass_rate" not in score(rows, answers("double = 1"), None) and "no sandbox" in capsys.readouterr().out
    with pytest.raises(UserError, match="--unsafe-exec"):
        Rewards(parse_reward("tests"), Letters())(rows, answers("double = 1"), None)


def test_lint_asks_for_a_definition_and_counts_findings():
    # Unused import and two statements on a line: two findings, so 1/3 of the third part.
    assert lint(["", "x = (", "def f(x: int) -> int:\n    import os; return x"]) == pytest.approx([0, 0, 4 / 9])


def test_rows_take_the_tests_of_their_task(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "Prime?", "task": "is_prime"}\n\n{"prompt": "Own", "tests": ["assert 1"], "n": 3}\n'
        '{"prompt": "Nothing"}\n'
    )
    rows = requests.with_tests(requests.load_prompts(path))
    assert rows[0]["tests"][0] == "assert is_prime(2)" and len(rows[0]["tests"]) == 6
    assert rows[1]["tests"] == ["assert 1"] and rows[1]["n"] == 3 and rows[2]["tests"] == []


@pytest.mark.parametrize(
    "line,message",
    [
        ('{"task": "is_prime"}', '2 has no "prompt"'),
        ('{"prompt": "x", "task": "nothing"}', "no task 'nothing'"),
        ('{"prompt": "x", "tests": "assert 1"}', "list of assert"),
        ('{"prompt": "x", "tests": ["assert"]}', "not Python"),
        ('{"prompt"', "2 is not valid JSON"),
    ],
)
def test_a_bad_prompt_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"prompts.jsonl:2.*") as found:
        requests.load_prompts(path)
    assert message in str(found.value)


SOURCE = """
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

def lint(prompt, response):
    return 1

class Thing: pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_function_of_the_users_own(file):
    rows = [{"prompt": "ab", "tests": [], "n": 5}, {"prompt": "abcd", "tests": []}]
    given, features = [encode("1234"), encode("12")], np.zeros((2, 1), np.float32)
    for name, expected in (("length", [2, 0.5]), ("asked", [6, 2]), ("together", [9, 2])):
        found = Rewards(parse_reward(f"{file}:{name}:2"), Letters())(rows, given, features)
        assert found[f"reward/{name}"].tolist() == expected and found["scores"].tolist() == [2 * x for x in expected]


@pytest.mark.parametrize(
    "name,message",
    [("fails", "mine.py:13: KeyError: 'x'"), ("nothing", "must return one finite"), ("short", "for each response")],
)
def test_an_error_in_it_is_one_sentence_with_file_and_line(file, name, message):
    score = Rewards(parse_reward(f"{file}:{name}"), Letters())
    with pytest.raises(UserError) as found:
        score([{"prompt": "a", "tests": []}] * 2, [encode("b")] * 2, np.zeros((2, 1)))
    assert message in str(found.value) and "mine.py:" in str(found.value)


def test_a_file_that_does_not_load_is_named_by_line(file):
    for source, message in (
        ("x = 1\ny = (\n", "mine.py:2: '(' was never closed"),
        ("x = 1\n\ny = z\n", "mine.py:3: NameError"),
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
