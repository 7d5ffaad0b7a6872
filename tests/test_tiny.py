"""One step of every stage at size tiny: two of its layers here, all twelve where MLXRLHF_LONG is set."""

import dataclasses
import json
import os
import shutil

import pytest
from helpers import mlxrlhf
from project import MLX

from mlxrlhf.config import SIZES

WHOLE = bool(os.environ.get("MLXRLHF_LONG"))


@pytest.fixture
def folder(project_once, tmp_path, monkeypatch):
    """Its data: the tokenizer and text are prepared, the tool dialogues are the project's."""
    if not WHOLE:
        monkeypatch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], num_layers=2))
    for part in ("tokenizer", "language", "code"):
        mlxrlhf(tmp_path, "prepare", part, "--size", "tiny", "--max-characters", "1500000")
    for name in ("tools_train.jsonl", "tools_val.jsonl"):
        shutil.copy(project_once / "data" / "nano" / name, tmp_path / "data" / "tiny")
    pairs = [{"prompt": f"Add {i}.", "chosen": "def add(a, b):\n    return a + b", "rejected": "no"} for i in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return tmp_path


def test_tiny_takes_one_step_of_every_stage(folder):
    tiny = ["--size", "tiny", *MLX]
    once = [*tiny, "--steps-per-epoch", "1", "--batch-size", "1", "--eval-batches", "1"]
    assert "val_loss" in mlxrlhf(folder, "pretrain", *once, "--sequence-length", "16").out
    for stage in ("code", "tools"):
        assert "val_loss" in mlxrlhf(folder, "finetune", "--stage", stage, *once, "--sequence-length", "192").out
    mlxrlhf(folder, "reward", *tiny, "--data", "pairs.jsonl", "--num-epochs", "1")
    few = "--steps-per-epoch 1 --batch-size 2 --mini-batch-size 2 --ppo-epochs 1 --max-tokens 4".split()
    assert "kl_last" in mlxrlhf(folder, "ppo", *tiny, *few).out
    config = json.loads((folder / "weights" / "tiny" / "rlhf" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (768, 12 if WHOLE else 2)
