"""Runs that were killed, interrupted or damaged, and resumed: the same metrics, row by row, as an uninterrupted one."""

import os
import random
import signal
import time

import pytest
from helpers import kill_after, metrics, mlxrlhf, start
from project import STAGES, on

from mlxrlhf.models.identity import trunk_digest
from mlxrlhf.report.runlog import read_metrics

#: random kills of each stage: MLXRLHF_KILLS=30 for the whole campaign
KILLS = int(os.environ.get("MLXRLHF_KILLS", 0))
#: long enough to be killed in the middle
LONG = {"reward": ["--num-epochs", "60"], "dpo": ["--num-epochs", "4"], "rlhf": ["--steps-per-epoch", "8"]}
LONGER = {**LONG, "grpo": ["--steps-per-epoch", "8"]}


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


@pytest.mark.skipif(not KILLS, reason="a campaign of minutes: MLXRLHF_KILLS=30")
@pytest.mark.parametrize("stage", STAGES)
def test_random_kills_change_nothing(project, tmp_path, stage):
    """Killed by SIGKILL at random moments after the first save and resumed, again and again: equal rows and weights."""
    arguments = [*STAGES[stage], *LONGER.get(stage, ["--steps-per-epoch", "20"]), "--save-every", "1"]
    mlxrlhf(project, *arguments, "--out", tmp_path / "whole")
    rows, moment, kills = metrics(tmp_path / "whole"), random.Random(0), 0
    pattern = "head.safetensors" if stage == "reward" else "model*.safetensors"
    weights = trunk_digest(tmp_path / "whole", pattern)
    for attempt in range(KILLS):
        out, log = tmp_path / str(attempt), tmp_path / str(attempt) / "run" / "metrics.jsonl"
        ended = False
        while not ended:
            resumed = ["--resume"] if out.is_dir() else []
            process = start(project, *arguments, "--out", out, *resumed)
            before = len(read_metrics(log)) if resumed else 0
            while process.poll() is None and len(read_metrics(log)) <= before:
                time.sleep(0.01)
            time.sleep(moment.random() * 0.5)
            process.kill()
            _, err = process.communicate()
            ended = process.returncode == 0
            kills += process.returncode == -signal.SIGKILL
            assert process.returncode in (0, -signal.SIGKILL), err
            if kills >= KILLS:
                mlxrlhf(project, *arguments, "--out", out, "--resume")
                ended = True
        assert metrics(out) == rows and trunk_digest(out, pattern) == weights
        if kills >= KILLS:
            break
    print(f"{stage}: {kills} kills, all exact")
