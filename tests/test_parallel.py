"""Two processes on one machine train as one does: the command line as a user types it, both backends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import COMMAND, metrics, mlxrlhf, words

from mlxrlhf.models.checkpoint import load_arrays

#: one thread each, as two processes on two cores want it
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
LAUNCHERS = {
    "mlx": [
        sys.executable,
        "-c",
        "from mlx._distributed_utils.launch import main; main()",
        *("-n", "2", "--backend", "ring", "--"),
    ],
    "torch": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"],
}
PRETRAIN = (
    "pretrain --steps-per-epoch 3 --batch-size 4 --sequence-length 32 --gradient-accumulation-steps 2 "
    "--eval-every 3 --eval-batches 3"
)
PPO = (
    "ppo --checkpoint start --reward score.py:score --prompts prompts.jsonl --no-pass-rate --steps-per-epoch 2 "
    "--batch-size 5 --mini-batch-size 3 --ppo-epochs 2 --max-tokens 12 --lora-rank 4 --responses-per-prompt 2"
)

#: on one backend each: what is theirs is above the backends
PAIRS = {
    "dpo": ("torch", "dpo --checkpoint start --data pairs.jsonl --lora-rank 4 --batch-size 6 --micro-batch-size 2"),
    "reward": (
        "mlx",
        "reward --checkpoint start --data pairs.jsonl --samples 0 --batch-size 6 --num-epochs 2 --unfreeze-rank 2 "
        "--unfreeze-batch-size 6 --micro-batch-size 2",
    ),
}


def launch(backend, folder, *command):
    """Two processes; what was said. mlx.launch exits 0 even when one of them fails: look at what was written."""
    arguments = [*LAUNCHERS[backend], *COMMAND, *words(*command)]
    done = subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def workspace(project_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "data").symlink_to(project_once / "data")
    (folder / "start").symlink_to(project_once / "weights" / "nano" / "language")
    prompts = [json.dumps({"prompt": f"Write function number {i}" + " please" * i}) for i in range(7)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    pairs = [
        {"prompt": f"Name thing {i}", "chosen": f"It is {i}." + " Good." * (i % 4), "rejected": "Nothing" + " no" * i}
        for i in range(24)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    (folder / "score.py").write_text("def score(prompt, response):\n    return len(set(response)) / 10\n")
    return folder


@pytest.mark.parametrize("backend", LAUNCHERS)
@pytest.mark.parametrize("command", [PRETRAIN, PPO], ids=["pretrain", "ppo"])
def test_two_processes_are_one(workspace, tmp_path, backend, command):
    steps, said = compare(workspace, tmp_path, backend, command)
    assert steps == (3 if command == PRETRAIN else 2)
    assert said.count(f"{steps}/{steps}") == 1, "the first process alone shows its progress"
    for name in "12":
        assert (tmp_path / name / "model.safetensors").is_file()
        assert len(list((tmp_path / name / "state").iterdir())) == 1


@pytest.mark.parametrize("stage", PAIRS)
def test_two_processes_learn_from_pairs_as_one_does(workspace, tmp_path, stage):
    steps, said = compare(workspace, tmp_path, *PAIRS[stage])
    assert steps > 2, said
    written = {"dpo": "model.safetensors", "reward": "head.safetensors"}[stage]
    arrays = [load_arrays(tmp_path / name / written) for name in "12"]
    for name, array in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], array, atol=2e-5, err_msg=name)


def compare(workspace, tmp_path, backend, command):
    """Run a command in one process and in two. Returns the steps that both took, and what the two said."""
    command = f"{command} --backend {backend} --device cpu --out"
    mlxrlhf(workspace, command, tmp_path / "1")
    said = launch(backend, workspace, command, tmp_path / "2")
    one, two = (metrics(tmp_path / name) for name in "12")
    assert len(one) == len(two), said
    compared = 0
    for ours, other in zip(two, one):
        assert set(ours) == set(other)
        for key, value in other.items():
            if value is not None:
                assert ours[key] == pytest.approx(value, rel=1e-3, abs=2e-5), (key, ours["step"])
                compared += value not in (0, 1)
    assert compared > 10 and one[0]["grad_norm"] > 1e-3
    return len(one), said


def test_what_cannot_be_shared_is_said(workspace, tmp_path):
    said = launch(
        "mlx", workspace, "pretrain --batch-size 1 --sequence-length 32 --backend mlx --out", tmp_path / "few"
    )
    assert "2 processes cannot share 1 rows" in said and not (tmp_path / "few" / "model.safetensors").exists()
