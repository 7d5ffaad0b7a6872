"""A verdict for every way in which a run goes wrong, from made rows; and none for a healthy one."""

import numpy as np
import pytest

from mlxrlhf.report import diagnosis
from mlxrlhf.report.page import run_report, stage_section
from mlxrlhf.report.runlog import RunLog

LENGTH = 40


def line(first, last, noise=0.02, seed=0):
    """A metric that goes from first to last with a little noise."""
    return np.linspace(first, last, LENGTH) + np.random.default_rng(seed).normal(size=LENGTH) * noise


def rows(**changes):
    """A healthy PPO run, but for the metrics given."""
    series = {
        "objective/scores": line(0, 1, 0.1),
        "objective/pass_rate": line(0.2, 0.3),
        "objective/kl": line(0, 4),
        "objective/entropy": line(0.8, 0.6),
        "policy/clipfrac_avg": line(0.08, 0.1, 0.01),
        "value/explained_variance": line(0, 0.5),
        "response/length": line(40, 44),
        "response/truncated": line(0.05, 0.02, 0.001),
        "grad_norm": line(0.5, 0.4),
        "skipped": np.zeros(LENGTH),
        "kl_coef": np.full(LENGTH, 0.05),
        "lr": np.full(LENGTH, 3e-4),
        **changes,
    }
    return [{"step": i + 1, **{k: float(v[i]) for k, v in series.items()}} for i in range(LENGTH)]


def pair_rows(**changes):
    """A healthy DPO run, but for the metrics given."""
    series = {
        "rewards/margins": line(0, 1),
        "rewards/accuracies": line(0.5, 0.8),
        "rewards/chosen": line(0, 0.2),
        "val_accuracy": line(0.5, 0.75),
        "grad_norm": line(2, 1),
        "skipped": np.zeros(LENGTH),
        "lr": np.full(LENGTH, 1e-4),
        **changes,
    }
    return [{"step": i + 1, **{k: float(v[i]) for k, v in series.items()}} for i in range(LENGTH)]


def warnings(findings):
    return [str(f) for f in findings if f.severity == "warning"]


def test_a_healthy_run_has_no_warning_and_says_what_moved():
    found = diagnosis.rollouts(rows(), reward_accuracy=0.8)
    assert warnings(found) == []
    said = " ".join(map(str, found))
    assert "score went from 0.1" in said and "pass their tests went from 0.2" in said and "nats an answer away" in said
    assert warnings(diagnosis.preference_pairs(pair_rows())) == []


@pytest.mark.parametrize(
    "changes,said,remedy",
    [
        ({"objective/pass_rate": line(0.4, 0.1)}, "while the score rose: the reward is being gamed", "--kl-coef"),
        ({"objective/pass_rate": line(0.4, 0.1), "objective/scores": line(0, 0, 0.1)}, "unlearns", "--learning-rate"),
        (
            {"objective/reward/tests": line(0.4, 0.1), "objective/reward/model": line(0, 2)},
            "the part tests went from 0.",
            "--reward model:1,tests:2",
        ),
        ({"objective/entropy": line(0.8, 0.05, 0.001)}, "answers become all the same", "--entropy-coef 0.01"),
        ({"objective/kl": line(-2, -2)}, "cannot be negative", "--temp"),
        ({"objective/kl": line(0, 45)}, "runs away", "--kl-target"),
        ({"objective/kl": line(0, 1) ** 8 * 24}, "runs away", "--kl-coef from 0.05"),
        (
            {"policy/clipfrac_avg": line(0.001, 0.001, 0), "objective/scores": line(0, 0, 0.1)},
            "hardly moves",
            "raise --learning-rate from 0.0003 to about 0.0009",
        ),
        ({"policy/clipfrac_avg": line(0.5, 0.5)}, "steps are too large", "from 0.0003 to about 0.0001"),
        ({"value/explained_variance": line(-0.5, -0.4)}, "worse than no baseline", "--value-learning-rate"),
        ({"response/truncated": np.ones(LENGTH)}, "every answer is cut off", "--max-tokens"),
        ({"response/truncated": line(0.5, 0.5)}, "of answers are cut off", "--max-tokens"),
        ({"objective/scores": line(0, 0, 0.1)}, "flat within its noise", "--batch-size"),
        ({"objective/scores": line(1, 0, 0.1)}, "it fell", "--learning-rate"),
        ({"grad_norm": np.zeros(LENGTH)}, "every gradient was zero", "--lora-rank"),
        ({"response/length": line(40, 100)}, "answers grew from", "length baseline"),
        ({"frac_reward_zero_std": line(0.8, 0.8)}, "score alike", "--responses-per-prompt"),
    ],
)
def test_each_cause_is_named_with_its_remedy(changes, said, remedy):
    assert any(said in w and remedy in w for w in warnings(diagnosis.rollouts(rows(**changes)))), diagnosis.rollouts(
        rows(**changes)
    )
    if "objective/scores" not in changes:
        assert len(warnings(diagnosis.rollouts(rows(**changes)))) == 1, "one cause, one warning"


def test_a_reward_model_at_chance_is_named():
    assert "right on 52%" in warnings(diagnosis.rollouts(rows(), reward_accuracy=0.52))[0]


def test_skipped_updates_tell_no_signal_from_a_broken_gradient():
    made = rows()
    for row in made[:3]:
        row["skipped"] = 1.0
        del row["grad_norm"]
    made[5] |= {"skipped": 0.25, "grad_norm": None}
    found = warnings(diagnosis.rollouts(made))
    assert "3 of 40 updates had no signal" in found[0] and "1 of 40 updates had a gradient" in found[1]


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"rewards/margins": line(0, 0)}, "did not rise"),
        ({"val_accuracy": line(0.5, 0.5, 0.001)}, "chance is 50%"),
        ({"rewards/accuracies": line(0.5, 1), "val_accuracy": line(0.5, 0.65)}, "memorises"),
        ({"rewards/chosen": line(0, -3)}, "less likely too"),
        ({"grad_norm": np.zeros(LENGTH)}, "every gradient was zero"),
    ],
)
def test_dpo_causes(changes, said):
    found = warnings(diagnosis.preference_pairs(pair_rows(**changes)))
    assert len(found) == 1 and said in found[0]


def test_a_short_run_is_not_judged():
    for judge in (diagnosis.rollouts, diagnosis.preference_pairs):
        found = judge([{"step": 1, "objective/scores": 1.0, "rewards/margins": 1.0, "grad_norm": 1.0}])
        assert len(found) == 1 and "too few" in found[0].sentence
    # Long, but most updates had nothing to report.
    assert diagnosis.trend([{"x": None}] * 30, "x") is None


def test_the_verdict_stands_on_the_report_of_the_run(tmp_path):
    with RunLog(tmp_path, "ppo", 1, {}, quiet=True) as log:
        for row in rows(**{"objective/reward/<b>": line(0, 1)}):
            log.log(row.pop("step"), row)
        log.summary({"verdict": [{"severity": "warning", "sentence": "<i>", "remedy": "do"}]})
    page = run_report(tmp_path, "ppo").read_text()
    assert "<li class='warning'>warning: &lt;i&gt;; do</li>" in page and page.count("<svg") == 9
    assert "Pass rate" in page and "Reward: &lt;b&gt;" in page and "<b>Reward: <b>" not in page
    assert "<ul>" not in stage_section("x", tmp_path / "nowhere")
    # The verdict first, then what to do, then the curves.
    assert page.index("<li class='warning'>") < page.index("mlxrlhf chat --model") < page.index("<svg")
