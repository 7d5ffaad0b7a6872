"""All stages as a user types them, small; what they leave, what mlx-lm makes of it, and evaluation."""

import json

import pytest
from helpers import metrics, mlxrlhf
from project import MLX, STAGES


def test_every_stage_leaves_what_it_promises(project):
    data, weights = project / "data" / "nano", project / "weights" / "nano"
    for name in (
        "rlhf_train_chosen.npy",
        "rlhf_train_rejected.npy",
        "rlhf_val_chosen.npy",
        "rlhf_val_rejected.npy",
        "rlhf_preferences.json",
        "language_train.npy",
        "code_val.npy",
        "tools_train.jsonl",
        "prompts.json",
    ):
        assert (data / name).stat().st_size > 0
    for stage in ("language", "code", "tools", "rlhf", "grpo", "dpo"):
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "chat_template.jinja",
            "run/summary.json",
            "run/report.html",
        ):
            assert (weights / stage / name).is_file()
    for stage in ("rlhf", "grpo", "dpo"):
        assert (weights / stage / "adapters" / "adapters.safetensors").is_file()
        assert json.loads((weights / stage / "run" / "summary.json").read_text())["verdict"][0]["sentence"]
    assert metrics(weights / "language")[-1]["loss"] < metrics(weights / "language")[0]["loss"]
    assert all(row["grad_norm"] > 0 for stage in ("rlhf", "grpo", "dpo") for row in metrics(weights / stage))
    # The value head starts as the reward model; one that starts at zero explains exactly nothing.
    assert metrics(weights / "rlhf")[0]["value/explained_variance"] != 0
    assert all(0 <= row["objective/pass_rate"] <= 1 for row in metrics(weights / "rlhf"))
    row = metrics(weights / "grpo")[0]
    assert row["objective/scores"] == pytest.approx(
        row["objective/reward/letters"] + 0.5 * row["objective/reward/lint"]
    )
    figures = json.loads((weights / "reward" / "run" / "summary.json").read_text())
    assert {"val_accuracy_by_criterion", "token_baseline_own_samples"} <= set(figures)


def test_mlx_lm_loads_and_answers(project):
    from mlx_lm import generate, load

    model, tokenizer = load(str(project / "weights" / "nano" / "rlhf"))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    stock = generate(model, tokenizer, prompt, max_tokens=8)
    ours = mlxrlhf(project, "chat --model weights/nano/rlhf --prompt Hello --max-tokens 8 --temp 0", *MLX)
    assert ours.out.strip() == stock.strip()


def test_evaluate_compares_before_and_after(project):
    said = mlxrlhf(project, "evaluate", "--max-prompts", "6", "--max-tokens", "16", *MLX).out
    assert "win rate" in said and "no insecure pattern" in said
    figures = json.loads((project / "weights/nano/rlhf/evaluation/summary.json").read_text())
    assert figures["before"]["win_rate"] == 0.5 and abs(figures["before"]["kl"]) < 1e-3


def test_dpo_is_evaluated_and_talks(project):
    mlxrlhf(project, "evaluate", "--checkpoint", "weights/nano/dpo", "--max-prompts", "2", "--max-tokens", "8", *MLX)
    assert (project / "weights/nano/dpo/evaluation/summary.json").is_file()
    said = mlxrlhf(project, "chat", "--model", "weights/nano/dpo", "--prompt", "Hello", "--max-tokens", "4", *MLX)
    assert "tok/s" in said.err


def test_own_prompts_and_tests_need_no_reward_model(project, tmp_path):
    row = {"prompt": "Write one.", "tests": ["assert one() == 1", "assert one() != 2"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    said = mlxrlhf(
        project,
        *STAGES["rlhf"],
        *("--steps-per-epoch", "1", "--reward", "tests", "--reward-model", "nowhere"),
        *("--prompts", tmp_path / "own.jsonl", "--out", tmp_path / "out"),
    )
    assert "note: 1 steps are too few" in said.all
    assert metrics(tmp_path / "out")[0]["objective/reward/tests"] == 0
