"""The other backend runs the same commands: same checkpoint, same data, same random stream."""

import pytest
from helpers import metrics, mlxrlhf
from project import MLX, on

pytest.importorskip("torch")


@pytest.mark.parametrize("stage", ["code", "tools", "reward", "rlhf", "grpo", "dpo"])
def test_torch_runs_the_same_stage_to_the_same_first_step(project, tmp_path, stage):
    mlxrlhf(project, *on("torch", stage), "--out", tmp_path)
    ours, other = metrics(tmp_path), metrics(project / "weights" / "nano" / stage)
    assert len(ours) == len(other)
    if stage == "reward":  # the head's first weights are each library's own draw
        assert ours[-1]["loss"] < ours[0]["loss"]
        return
    key = "objective/scores" if stage in ("rlhf", "grpo") else "loss"
    assert ours[0][key] == pytest.approx(other[0][key], abs=1e-3)
    if stage == "rlhf":
        assert ours[0]["response/length"] == other[0]["response/length"]
        said = mlxrlhf(project, "chat", "--model", tmp_path, "--prompt", "Hello", "--max-tokens", "4", *MLX)
        assert "tok/s" in said.err, "what one backend writes the other reads"
