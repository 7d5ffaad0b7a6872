"""What `evaluate` counts as a win, and which of several answers it keeps, by hand."""

import numpy as np
import pytest

from mlxrlhf.config import EvaluateConfig
from mlxrlhf.errors import UserError
from mlxrlhf.stages import evaluate
from mlxrlhf.tasks.quality import Quality

PLAIN = Quality(parses=True)
WRITTEN = Quality(parses=True, docstring=True, type_hints=True)
BROKEN = Quality(parses=False)


def side(*answers, scores):
    passed, measured = zip(*answers)
    zeros = np.zeros(len(answers))
    return {
        "scores": np.array(scores, float),
        "passed": list(passed),
        "quality": list(measured),
        "kl": zeros,
        "lengths": zeros,
    }


def test_tests_decide_before_style_and_a_tie_counts_half():
    before = side((True, PLAIN), (False, WRITTEN), (False, PLAIN), (True, WRITTEN), scores=[0, 0, 0, 0])
    after = side((True, WRITTEN), (True, PLAIN), (False, BROKEN), (True, WRITTEN), scores=[-1, -1, 1, 0])
    figures = evaluate._figures(after, before, range(4))
    assert figures["verified_win_rate"] == (1 + 1 + 0 + 0.5) / 4  # better written, right at last, broken, the same
    assert figures["win_rate"] == (0 + 0 + 1 + 0.5) / 4
    assert evaluate._figures(before, before, range(4))["verified_win_rate"] == 0.5


class Scripted:
    """A model whose answers are numbered, and log-probabilities that depend on nothing."""

    world = (0, 1)

    def generate(self, prompts, *, uniforms, **_):
        assert uniforms.shape[0] == len(prompts)
        return [[10 + i, 2] for i in range(len(prompts))]

    def evaluate(self, batch, want, **_):
        zeros = np.zeros_like(batch["mask"])
        return {"logp": zeros, "features": zeros[:, :1]}


class Letters:
    end_id, ends, pad_id = 2, (2,), 0

    def decode(self, ids):
        return "```python\n" + chr(87 + ids[0]) + "\n```"


@pytest.mark.parametrize("keep, best", [(1, ["a", "b"]), (3, ["b", "f"])])
def test_the_best_of_several_answers_is_the_judges_favourite(keep, best):
    favourites = {10: 0.1, 11: 0.9, 12: 0.3, 13: -3.0, 14: -2.0, 15: -1.0}  # the first token names the answer

    def judge(prompts, responses, features):
        return np.array([favourites[r[0]] for r in responses])

    prompts = [{"prompt": "Reverse a string", "tests": []}] * 2
    found = evaluate._side(
        "after", EvaluateConfig(), Scripted(), Scripted(), judge, prompts, [[5, 6], [7]], Letters(), keep
    )
    assert [text.strip("`\n")[-1] for text in found["texts"]] == best
    np.testing.assert_allclose(found["kl"], np.log(keep) - (keep - 1) / keep)


def test_without_a_reward_model_tests_and_parsing_remain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate._judge(EvaluateConfig(), None, Letters(), tmp_path) is None
    assert "wins are judged by what is run and parsed alone" in capsys.readouterr().out
    with pytest.raises(UserError, match="--best-of asks for a reward model, and there is none in weights/nano/reward"):
        evaluate._judge(EvaluateConfig(best_of=4), None, Letters(), tmp_path)
    with pytest.raises(UserError, match="holds no reward model"):  # one that was named must be there
        evaluate._judge(EvaluateConfig(reward_model="nowhere"), None, Letters(), tmp_path)
    prompts = [{"prompt": "Reverse a string", "tests": []}] * 2
    side = evaluate._side("after", EvaluateConfig(), Scripted(), Scripted(), None, prompts, [[5, 6], [7]], Letters(), 1)
    figures = evaluate._figures(side, side, range(2))
    assert "score" not in figures and "win_rate" not in figures and figures["verified_win_rate"] == 0.5
