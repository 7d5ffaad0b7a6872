"""The run log survives a kill and a resume; the report is one page that loads nothing and escapes everything."""

import json
import re

import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.report.page import chart, demo_report
from mlxrlhf.report.runlog import RunLog, read_metrics


def test_a_resumed_log_keeps_the_rows_up_to_its_save_and_drops_half_a_line(tmp_path):
    with RunLog(tmp_path, "x", 5, {}, quiet=True) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(tmp_path, "x", 5, {}, start=2, quiet=True) as log:
        log.log(3, {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [(1, 1), (2, 2), (3, 30)]
    with RunLog(tmp_path, "x", 5, {}, quiet=True):
        pass
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_nan_is_null_and_progress_says_what_is_left(tmp_path, capsys):
    with RunLog(tmp_path, "pretrain", 1, {"seed": 0}, memory=lambda: 3 * 2**30) as log:
        log.log(1, {"loss": float("nan"), "lr": 0.1}, tokens=100)
        log.summary({"a": {"b": 1}})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": {"b": 1}}
    shown = capsys.readouterr().err
    assert "pretrain  1/1" in shown and "3.0 GB" in shown and "left 0:00" in shown


def test_an_unwritable_folder_is_one_sentence():
    with pytest.raises(UserError, match="--out"):
        RunLog("/proc/nothing", "x", 1, {})


def test_a_chart_places_its_points():
    drawn = chart([(0, 0.0), (5, 1.0), (10, 2.0)], "t")
    # x from 54 to 310, y from 150 (lowest) up to 12
    assert re.search('points="([^"]*)"', drawn).group(1) == "54.0,150.0 182.0,81.0 310.0,12.0"
    assert "nan" not in chart([(1, 3.0)], "one point") + chart([(1, 2.0), (2, 2.0)], "constant")


def test_the_report_is_self_contained_and_escapes_answers(tmp_path):
    figures = {"answers": 1, "win_rate": 0.5, "kl": 0.1234}
    sample = {
        "prompt": "<b>p</b>",
        "group": "g",
        "before": "<script>alert(1)</script>",
        "after": "x",
        "score_before": 1.0,
        "score_after": 0.0,
    }
    judge = {
        "val_accuracy": 0.8,
        "length_baseline": 0.5,
        "token_baseline": 0.6,
        "calibration_error": 0.05,
        "score_length_correlation": 0.1,
        "val_accuracy_by_criterion": {"<i>": 0.9},
        "warning": "<script>",
        "calibration": [{"count": 2, "predicted": 0.3, "observed": 0.25}],
    }
    summary = {
        "seconds": 60,
        "reward": judge,
        "ppo": {"reward_first10": 0, "reward_last10": 1, "kl_last": 2},
        "evaluate": {
            "before": {**figures, "passes_tests": 0.65},
            "after": {**figures, "win_rate": 0.75, "passes_tests": 0.62},
            "changes": {
                "win_rate": {"difference": 0.25, "interval": 0.1},
                "passes_tests": {"difference": -0.03, "interval": 0.08},
            },
        },
    }
    with RunLog(tmp_path / "run", "x", 1, {}, quiet=True) as log:
        log.log(1, {"loss": 2.0})
    page = demo_report(tmp_path, [("pretrain", tmp_path / "run")], summary, [sample]).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>p</b>" not in page
    assert not re.search(r"(src|href)=|https?://|@import", page)
    assert "<i>" not in page and "<td>0.050</td>" in page
    assert "<td>50%</td><td>75%</td><td>+25 ± 10 *</td>" in page and "Where it got worse" in page
    assert "<td>-3 ± 8</td>" in page and page.index("tests passed 65% to 62%: within noise") < page.index("<table>")


def test_an_answer_that_fails_its_tests_is_never_shown_as_a_gain(tmp_path):
    def sample(prompt, passed, score):
        sides = {"before": "a", "after": "b", "score_before": 0.0, "score_after": score}
        return {"prompt": prompt, "group": "g", **sides, "passed_before": 0.0, "passed_after": passed}

    evaluated = {"before": {"answers": 2}, "after": {"answers": 2}}
    judge = {"val_accuracy": 0.8, "length_baseline": 0.5, "val_accuracy_by_criterion": {}}
    judge["calibration"] = [{"count": 2, "predicted": 0.3, "observed": 0.25}]
    ppo = {"reward_first10": 0, "reward_last10": 1, "kl_last": 2}
    summary = {"seconds": 60, "reward": judge, "ppo": ppo, "evaluate": evaluated}
    samples = [sample("wrong but well scored", 0.0, 9.0), sample("right at last", 1.0, -1.0)]
    page = demo_report(tmp_path, [], summary, samples).read_text()
    assert "right at last" in page and "passes its tests, score -1.00" in page
    assert "wrong but well scored" not in page
