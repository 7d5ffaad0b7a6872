"""Calibration, correlation and the counting baseline by hand."""

import math

import numpy as np
import pytest

from mlxrlhf.algorithms import evidence
from mlxrlhf.report.page import calibration_chart
from mlxrlhf.stages.reward import warning


def test_calibration_by_hand():
    # p = 0.5, 0.75 and 0.25, each in both orders: of the two predictions of 0.75 one holds, of those of 0.25 one.
    bins = evidence.calibration(np.array([0.0, math.log(3), -math.log(3)]))
    assert [(b.low, b.count, b.observed) for b in bins] == [(0.2, 2, 0.5), (0.5, 2, 0.5), (0.7, 2, 0.5)]
    assert [b.predicted for b in bins] == pytest.approx([0.25, 0.5, 0.75])
    assert evidence.expected_calibration_error(bins) == pytest.approx((0.25 + 0 + 0.25) / 3)


def test_a_calibrated_judge_has_no_error_and_a_loud_one_has():
    # Of a hundred pairs given 0.9, ninety are right.
    honest = np.array([math.log(9)] * 90 + [-math.log(9)] * 10)
    assert evidence.expected_calibration_error(evidence.calibration(honest)) == pytest.approx(0, abs=1e-9)
    loud = evidence.calibration(honest * 100)  # sure of all, still wrong in ten
    assert evidence.expected_calibration_error(loud) == pytest.approx(0.1, abs=1e-6)
    assert [b.count for b in loud] == [100, 100]


def test_correlation_by_hand():
    assert evidence.correlation(np.array([1, 2, 3]), np.array([2, 4, 6])) == pytest.approx(1)
    # Deviations (-1, 0, 1) and (1, -2, 1): their product sums to 0.
    assert evidence.correlation(np.array([1, 2, 3]), np.array([3, 0, 3])) == pytest.approx(0)
    assert evidence.correlation(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(0.8)
    assert evidence.correlation(np.array([1, 2]), np.array([5, 5])) == 0


def test_counting_tokens_finds_what_counts_tell_and_nothing_else():
    rng = np.random.default_rng(0)
    noise = [rng.integers(10, 60, 12).tolist() for _ in range(400)]
    told = [(some + [7], some + [8]) for some in noise]  # a token gives it away
    assert (evidence.token_margins(told[:300], told[300:]) > 0).all()
    order = [(some + [7, 8], some + [8, 7]) for some in noise]  # only the order tells
    assert (evidence.token_margins(order[:300], order[300:]) == 0).all()
    unseen, lacking = evidence.token_margins(told[:300], [([99], [98]), ([], [8])])
    assert unseen == 0 < lacking
    assert evidence.wins(np.array([unseen, lacking, -lacking])).tolist() == [0.5, 1, 0]


def test_the_logistic_regression_stands_where_its_gradient_is_zero():
    # One token decides three of four pairs alike: w solves 3 s(-w) - s(w) = penalty * w.
    pairs = [([1], [])] * 3 + [([], [1])]
    w = next(w for w in np.linspace(0, 2, 200_001) if 3 / (1 + np.exp(w)) - 1 / (1 + np.exp(-w)) <= 0.5 * w)
    assert evidence.token_margins(pairs, [([1], [])], penalty=0.5)[0] == pytest.approx(w, abs=1e-4)


def test_the_chart_has_a_dot_for_every_bin():
    bins = [{"low": 0.2, "high": 0.3, "count": 2, "predicted": 0.25, "observed": 0.5}] * 3
    drawn = calibration_chart(bins)
    assert drawn.count("<circle") == 3 and 'cx="109.0" cy="140.0"' in drawn


def test_a_warning_where_length_or_counting_is_as_good():
    figures = {"val_accuracy": 0.85, "length_baseline": 0.5, "token_baseline": 0.74}
    assert warning(figures) == ""
    assert "counting tokens in 76%" in warning({**figures, "token_baseline": 0.76})
    assert "length alone in 80%" in warning({**figures, "length_baseline": 0.2}), "a judge may prefer the shorter"


def test_a_paired_change_counts_each_prompt_once():
    # Three prompts; differences by prompt: mean(1, 0) = 0.5, 1 and 0; NaN has no value. Mean 0.5, deviation 0.5,
    # standard error 0.5 / sqrt(3), half a 95% interval 1.96 of them.
    before = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    after = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    change = evidence.paired_change(before, after, ["a", "a", "b", "c", "d"])
    assert change.difference == pytest.approx(0.5)
    assert change.interval == pytest.approx(1.96 * 0.5 / np.sqrt(3))
    assert not change.beyond_noise
    assert evidence.paired_change(np.zeros(20), np.ones(20) - 1e-3 * np.arange(20), range(20)).beyond_noise
    assert np.isnan(evidence.paired_change(np.zeros(2), np.ones(2), ["a", "a"]).interval), "one prompt says nothing"
