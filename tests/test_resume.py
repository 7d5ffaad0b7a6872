"""Runs that were killed, interrupted or damaged, and resumed: the same metrics, row by row, as an uninterrupted one."""

import signal
import time

import pytest
from helpers import kill_after, metrics, mlxrlhf, start
from project import STAGES, on

from mlxrlhf.report.runlog import read_metrics


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_resumes_to_the_same_metrics(project, tmp_path, stage):
    arguments = [*STAGES[stage], "--out", tmp_path, "--save-every", "1"]
    kill_after(2, project, *arguments)
    assert len(metrics(tmp_path)) == 2
    mlxrlhf(project, *arguments, "--resume")
    assert metrics(tmp_path) == metrics(project / "weights" / "nano" / stage)


def test_a_killed_torch_run_resumes_to_the_same_metrics(project, tmp_path):
    pytest.importorskip("torch")
    arguments = [*on("torch", "rlhf"), "--save-every", "1"]
    mlxrlhf(project, *arguments, "--out", tmp_path / "whole")
    kill_after(2, project, *arguments, "--out", tmp_path / "out")
    mlxrlhf(project, *arguments, "--out", tmp_path / "out", "--resume")
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


def test_a_process_killed_from_outside_leaves_a_run_that_resumes(project, tmp_path):
    """At any moment, in the middle of a step or of a save; the run is long enough that it cannot have ended."""
    arguments = [*STAGES["language"], "--steps-per-epoch", "400", "--save-every", "1", "--out", tmp_path]
    process = start(project, *arguments)
    while len(read_metrics(tmp_path / "run" / "metrics.jsonl")) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    before = metrics(tmp_path)
    resumed = start(project, *arguments, "--resume")
    while len(read_metrics(tmp_path / "run" / "metrics.jsonl")) < len(before) + 2 and resumed.poll() is None:
        time.sleep(0.01)
    resumed.send_signal(signal.SIGINT)
    _, err = resumed.communicate()
    assert resumed.returncode == 2 and "--resume continues" in err and "Traceback" not in err
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) and rows[: len(before)] == before
    assert list((tmp_path / "state").glob("step-*"))


def test_a_damaged_last_save_falls_back_to_the_one_before(project, tmp_path):
    arguments = [*STAGES["language"], "--out", tmp_path, "--save-every", "2"]
    mlxrlhf(project, *arguments)
    last = sorted((tmp_path / "state").glob("step-*"))[-1] / "arrays-00000.safetensors"
    content = bytearray(last.read_bytes())
    content[-100] ^= 1
    last.write_bytes(content)
    said = mlxrlhf(project, *arguments, "--resume")
    assert "damaged" in said.all and metrics(tmp_path) == metrics(project / "weights" / "nano" / "language")
