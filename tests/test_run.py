"""The run around a stage's steps: saves, interruption, skipped steps, verdict, resumption."""

import dataclasses
import json
import os
import signal
import threading

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig, PPOConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import published
from mlxrlhf.models.folders import Checkpoint
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.report import diagnosis
from mlxrlhf.stages.run import Interrupted, Run, Training

TOY = ModelConfig(50, 32, 1, 2, 1, 64, head_dim=16)
TOTAL = 24


class Counting(Training):
    """Adds one to a number at each step. `at`: what happens instead at some steps, by their number."""

    title, unit = "count", "update"

    def __init__(self, model, total=TOTAL, at=None):
        self.model, self.total, self.at, self.value = model, total, at or {}, 0.0

    def step(self, number):
        metrics = {"loss": 1.0, "grad_norm": 1.0, "skipped": 0.0, "objective/kl": 4.0 * number, "lr": 0.1}
        metrics |= {"objective/scores": 0.1 * number, "objective/entropy": 1.0, "response/length": 9.0}
        metrics |= {"response/truncated": 0.0}
        if number in self.at:
            found = self.at[number]()
            return {**metrics, **(found or {})}, 10
        self.value += 1
        return metrics, 10

    def named_arrays(self):
        return iter([("value", np.float32([self.value]))])

    def load_state(self, arrays, state):
        self.value = float(arrays["value"][0])

    def summary(self, rows):
        return {"updates": len(rows), "value": self.value}

    def verdict(self, rows):
        return diagnosis.rollouts(rows)

    def write(self, folder, tokenizer):
        (folder / "value.txt").write_text(str(self.value))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backends.load("mlx").Model(TOY, seed=0).save(folder, pad_id=0, end_id=1)
    return Checkpoint(folder, TOY, open_tokenizer(published.shipped()))


def start(checkpoint, folder, at=None, total=TOTAL, uses=(), **changes):
    config = dataclasses.replace(PPOConfig(backend="mlx", out=str(folder), save_every=5), **changes)
    with Run(config, "rlhf", checkpoint, uses={"set of prompts": uses}) as run:
        return run.train(Counting(run.frozen_model(), total, at))


def last_step(folder):
    return SavePoints(folder).latest()[1]["step"]


def broken():
    raise UserError("the policy runs away")


def not_finite():
    return {"skipped": 1.0, "grad_norm": float("nan")}


def test_a_run_writes_its_result_figures_and_verdict(checkpoint, tmp_path, capsys):
    figures = start(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "value.txt").read_text() == "24.0" and figures["wrote"] == str(tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert summary["updates"] == 24 and any("KL reached" in f["sentence"] for f in summary["verdict"])
    assert "warning: KL reached" in capsys.readouterr().out


def test_a_run_that_stops_itself_leaves_its_verdict_and_the_state_before(checkpoint, tmp_path, capsys):
    with pytest.raises(UserError, match="runs away"):
        start(checkpoint, tmp_path / "out", at={20: broken})
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert summary["updates"] == 20 and any("KL reached" in f["sentence"] for f in summary["verdict"])
    assert last_step(tmp_path / "out") == 20 and not (tmp_path / "out" / "value.txt").exists()
    assert "warning: KL reached" in capsys.readouterr().out


def test_three_steps_in_a_row_that_are_not_finite_stop_any_run(checkpoint, tmp_path):
    two_then_three = dict.fromkeys((3, 4, 11, 12, 13), not_finite)
    with pytest.raises(UserError, match="3 updates in a row were not finite, the last at 14; .*lower --learning-rate"):
        start(checkpoint, tmp_path / "out", at=two_then_three)
    arrays, state = SavePoints(tmp_path / "out").latest()
    assert state["step"] == 14 and arrays["value"][0] == 9, "the weights of the nine good steps"


def test_updates_without_a_signal_do_not_stop_it(checkpoint, tmp_path):
    def idle():
        return {"skipped": 1.0}

    class Idle(Counting):
        def step(self, number):
            metrics, tokens = super().step(number)
            del metrics["grad_norm"]
            return metrics, tokens

    config = PPOConfig(backend="mlx", out=str(tmp_path / "out"))
    with Run(config, "rlhf", checkpoint, uses={}) as run:
        assert run.train(Idle(run.frozen_model(), 8, dict.fromkeys(range(8), idle)))["updates"] == 8


def test_ctrl_c_saves_and_resume_continues(checkpoint, tmp_path):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped at update 8 of 24; the same command with --resume continues"):
        start(checkpoint, tmp_path / "out", at={7: interrupt})
    assert last_step(tmp_path / "out") == 8
    assert start(checkpoint, tmp_path / "out", resume=True)["value"] == 23, "7 before, none at the eighth, 16 after"


def test_a_run_works_off_the_main_thread(checkpoint, tmp_path):
    found = []
    worker = threading.Thread(target=lambda: found.append(start(checkpoint, tmp_path / "out")))
    worker.start()
    worker.join()
    assert found and found[0]["value"] == 24


def test_a_finished_run_goes_on_with_more_steps(checkpoint, tmp_path):
    start(checkpoint, tmp_path / "out", total=10, steps_per_epoch=10)
    figures = start(checkpoint, tmp_path / "out", total=16, steps_per_epoch=16, resume=True)
    assert figures["updates"] == 16 and figures["value"] == 16
    rows = [json.loads(line) for line in (tmp_path / "out" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 17))


def test_resuming_a_finished_run_keeps_its_summary(checkpoint, tmp_path):
    start(checkpoint, tmp_path / "out")
    before = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    start(checkpoint, tmp_path / "out", resume=True)
    assert json.loads((tmp_path / "out" / "run" / "summary.json").read_text()) == before


def test_what_may_change_on_resume_and_what_may_not(checkpoint, tmp_path):
    start(checkpoint, tmp_path / "out", total=10)
    start(checkpoint, tmp_path / "out", total=12, resume=True, learning_rate=1e-5, kl_coef=0.2, save_every=3)
    with pytest.raises(UserError, match="used --gamma 0.99, this command 0.5; give --gamma 0.99"):
        start(checkpoint, tmp_path / "out", resume=True, gamma=0.5)
