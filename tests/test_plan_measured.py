"""The plan of a command against the memory that MLX says the command took, each in a fresh process."""

import json
import subprocess
import sys

import pytest
from helpers import words

from mlxrlhf.report.runlog import read_metrics

#: `mlxrlhf ARGUMENTS`, and what was planned for it as the last line
PLANNED = """
import sys
from mlxrlhf import plan
from mlxrlhf_cli import main
predict, planned = plan.predict, []
def remember(*arguments):
    planned.append(predict(*arguments))
    return planned[-1]
plan.predict = remember
try:
    main.run()
finally:
    print(planned[0].peak)
"""
COMMANDS = [
    "pretrain --steps-per-epoch 2 --batch-size 8 --sequence-length 128 --eval-batches 1",
    "finetune --stage code --steps-per-epoch 2 --batch-size 8 --sequence-length 128 --eval-batches 1 "
    "--gradient-checkpointing",
    "ppo --steps-per-epoch 2 --batch-size 8 --mini-batch-size 8 --micro-batch-size 8 --ppo-epochs 1 --max-tokens 64",
    "reward --num-epochs 1 --batch-size 8 --samples 0 --data equal.jsonl",
]


def pair(number):
    """A row as long as any other: a plan is made for the longest, and holds where all are."""
    chosen, rejected = f"return {number}\n" * 25, f"print({number})\n" * 25
    return json.dumps({"prompt": f"Write number {number}.", "chosen": chosen, "rejected": rejected}) + "\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_the_plan_is_within_15_percent_of_mlx_s_peak(project, tmp_path, command):
    for name in ("data", "weights"):
        (tmp_path / name).symlink_to(project / name)
    (tmp_path / "equal.jsonl").write_text("".join(map(pair, range(100, 180))))
    arguments = words(f"{command} --backend mlx --device cpu --out out")
    done = subprocess.run([sys.executable, "-c", PLANNED, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    planned = float(done.stdout.splitlines()[-1])
    measured = max(row["memory/peak_gb"] for row in read_metrics(tmp_path / "out" / "run" / "metrics.jsonl")) * 2**30
    assert measured > 40e6 and abs(planned / measured - 1) < 0.15, (planned / 1e6, measured / 1e6)
