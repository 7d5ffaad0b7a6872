"""Two processes on one machine train as one does: the command line as a user types it, both backends."""

import json
import os
import subprocess
import sys

import pytest

from mlxrlhf.report.runlog import read_metrics

COMMAND = [sys.executable, "-m", "mlxrlhf_cli.main"]
#: one thread each, as two processes on two cores want it
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
LAUNCHERS = {
    "mlx": [
        sys.executable,
        "-c",
        "from mlx._distributed_utils.launch import main; main()",
        "-n",
        "2",
        "--backend",
        "ring",
        "--",
    ],
    "torch": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"],
}
PRETRAIN = [
    "pretrain",
    "--steps-per-epoch",
    "3",
    "--batch-size",
    "4",
    "--sequence-length",
    "32",
    "--gradient-accumulation-steps",
    "2",
    "--eval-every",
    "3",
    "--eval-batches",
    "3",
]
PPO = [
    "ppo",
    "--checkpoint",
    "start",
    "--reward",
    "score.py:score",
    "--prompts",
    "prompts.jsonl",
    "--no-pass-rate",
    "--steps-per-epoch",
    "2",
    "--batch-size",
    "5",
    "--mini-batch-size",
    "3",
    "--ppo-epochs",
    "2",
    "--max-tokens",
    "12",
    "--lora-rank",
    "4",
    "--responses-per-prompt",
    "2",
]


def run(folder, *arguments, launcher=()):
    """Returns what was said. mlx.launch exits 0 even when a process fails: look at what was written."""
    done = subprocess.run(
        [*launcher, *COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    for part in ("tokenizer", "language"):
        run(folder, "prepare", part, "--max-characters", "200000", "--code-sources", "python-docs")
    said = run(
        folder,
        "pretrain",
        "--steps-per-epoch",
        "1",
        "--batch-size",
        "4",
        "--sequence-length",
        "32",
        "--backend",
        "mlx",
        "--eval-batches",
        "1",
        "--out",
        "start",
    )
    assert (folder / "start" / "model.safetensors").is_file(), said
    prompts = [json.dumps({"prompt": f"Write function number {i}" + " please" * i}) for i in range(7)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    (folder / "score.py").write_text("def score(prompt, response):\n    return len(set(response)) / 10\n")
    return folder


@pytest.mark.parametrize("backend", LAUNCHERS)
@pytest.mark.parametrize("command", [PRETRAIN, PPO], ids=["pretrain", "ppo"])
def test_two_processes_are_one(workspace, backend, command):
    arguments = [*command, "--backend", backend, "--device", "cpu"]
    names = [f"{command[0]}-{backend}-{n}" for n in (1, 2)]
    said = [
        run(workspace, *arguments, "--out", names[0]),
        run(workspace, *arguments, "--out", names[1], launcher=LAUNCHERS[backend]),
    ]
    assert said[1].count("3/3" if command is PRETRAIN else "2/2") == 1, "the first process alone shows its progress"
    one, two = (read_metrics(workspace / name / "run" / "metrics.jsonl") for name in names)
    assert len(one) == len(two) == (3 if command is PRETRAIN else 2), said
    compared = 0
    for ours, other in zip(two, one):
        assert set(ours) == set(other)
        for key, value in other.items():
            if not key.startswith(("time/", "memory/")) and value is not None:
                assert ours[key] == pytest.approx(value, rel=1e-3, abs=2e-5), (key, ours["step"])
                compared += value not in (0, 1)
    assert compared > 10 and one[0]["grad_norm"] > 1e-3
    for name in names:
        assert (workspace / name / "model.safetensors").is_file()
        assert len(list((workspace / name / "state").iterdir())) == 1


def test_what_cannot_be_shared_is_said(workspace):
    said = run(
        workspace,
        "pretrain",
        "--batch-size",
        "1",
        "--sequence-length",
        "32",
        "--backend",
        "mlx",
        "--out",
        "few",
        launcher=LAUNCHERS["mlx"],
    )
    assert "2 processes cannot share 1 rows" in said and not (workspace / "few" / "model.safetensors").exists()
