"""Reward models as commands make them: with a base of its own, and from published pairs."""

import json
import shutil

import numpy as np
import pytest
from helpers import metrics, mlxrlhf
from project import MLX, STAGES

from mlxrlhf import backends
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.models import checkpoint
from mlxrlhf.rewards.head import features
from mlxrlhf.rewards.model import RewardModel


def test_a_reward_model_with_a_base_of_its_own_scores_in_ppo_and_evaluate(project, tmp_path):
    out, policy = tmp_path / "reward", tmp_path / "rlhf"
    arguments = [*STAGES["reward"], "--samples", "0", "--unfreeze-rank", "2", "--batch-size", "64", "--out", out]
    mlxrlhf(project, *arguments)
    figures = json.loads((out / "run" / "summary.json").read_text())
    assert {"frozen_val_accuracy", "calibration_error", "token_baseline", "score_length_correlation"} <= set(figures)
    assert "<svg" in (out / "run" / "report.html").read_text()
    assert (out / "adapters" / "adapters.safetensors").is_file()
    before = metrics(out)
    last = sorted((out / "state").glob("step-*"))[-1]  # an interrupted run: the state before the base was unfrozen
    shutil.rmtree(last)
    mlxrlhf(project, *arguments, "--resume")
    assert metrics(out) == before
    mlxrlhf(project, *STAGES["rlhf"], "--steps-per-epoch", "1", "--reward-model", out, "--out", policy)
    assert metrics(policy)[0]["objective/scores"] != metrics("weights/nano/rlhf")[0]["objective/scores"]
    few = ["--max-prompts", "4", "--max-tokens", "8", *MLX]
    mlxrlhf(project, "evaluate", "--checkpoint", policy, "--reward-model", out, *few)
    # Its scores are those of the head on the checkpoint with the adapters merged in.
    tools, fused = project / "weights" / "nano" / "tools", tmp_path / "fused"
    mlxrlhf(project, "fuse", "--model", tools, "--adapter", out / "adapters", "--out", fused, *MLX)
    library, tokenizer = backends.load("mlx"), open_tokenizer(tools)
    prompts, answers = [tokenizer.encode("Sort a list."), tokenizer.encode("Hi")], [[5, 9, 7], [11, 4]]
    score = RewardModel.open(out, tokenizer).scorer(library, tokenizer, tools)
    scores = score(prompts, answers, np.zeros((2, 1), np.float32))
    merged = library.Model(checkpoint.read_config(fused), folder=fused)
    found = features(merged, [p + a for p, a in zip(prompts, answers)], list(map(len, prompts)), 0)
    head = library.Head(merged.config.hidden_size)
    head.load_state(checkpoint.load_arrays(out / "head.safetensors"))
    expected = (head.scores(found) - figures["score_mean"]) / figures["score_std"]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_a_reward_model_of_published_pairs(project, tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    rows = [
        {
            "context": [*turns, {"role": "user", "content": f"What is {i} + {i}?"}],
            "response1": str(2 * i),
            "response2": "I do not know.",
            "overall_preference": -2 if i % 5 else 0,
        }
        for i in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["--out", tmp_path / "out", *MLX]
    said = mlxrlhf(project, "reward", "--data", path, "--num-epochs", "2", *out).all
    assert f"40 HelpSteer3 rows; left out: 8 tied (the first: {path}:1)" in said
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert (summary["pairs"], summary["val_pairs"]) == (29, 3)
    path.write_text('{"prompt": "p", "chosen": "a"}')
    assert ':1 has no "rejected"' in mlxrlhf(project, "reward", "--data", path, *out, code=2).err
