"""All stages as a user types them, small; killed and resumed runs; what mlx-lm makes of the result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mlxrlhf import backends
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.models import checkpoint
from mlxrlhf.report.runlog import read_metrics
from mlxrlhf.rewards.model import features, scorer

MLX = ["--backend", "mlx"]
SMALL = ["--batch-size", "4", "--sequence-length", "128", "--eval-batches", "1", "--warmup-steps", "2", *MLX]
STAGES = {
    "language": ["pretrain", "--steps-per-epoch", "6", *SMALL],
    "code": ["finetune", "--stage", "code", "--steps-per-epoch", "6", *SMALL],
    "tools": ["finetune", "--stage", "tools", "--steps-per-epoch", "4", *SMALL],
    "reward": ["reward", "--num-epochs", "3", "--batch-size", "32", "--samples", "1", "--max-tokens", "8", *MLX],
    "rlhf": [
        "ppo",
        "--steps-per-epoch",
        "4",
        "--batch-size",
        "4",
        "--mini-batch-size",
        "2",
        "--max-tokens",
        "12",
        "--learning-rate",
        "1e-3",
        *MLX,
    ],
    "grpo": [
        "grpo",
        "--steps-per-epoch",
        "4",
        "--batch-size",
        "2",
        "--responses-per-prompt",
        "3",
        "--max-tokens",
        "12",
        "--mini-batch-size",
        "3",
        "--learning-rate",
        "1e-3",
        "--reward",
        "mine.py:letters,lint:0.5",
        *MLX,
    ],
    "dpo": [
        "dpo",
        "--data",
        "own_pairs.jsonl",
        "--batch-size",
        "4",
        "--learning-rate",
        "1e-3",
        "--eval-every",
        "2",
        *MLX,
    ],
}
OWN_REWARD = """
def letters(prompts, responses, task, **rows):
    assert len(task) == len(prompts) == len(responses)
    return [sum(map(str.isalpha, response)) / 20 for response in responses]
"""


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "mlxrlhf_cli.main", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def mlxrlhf(folder, *arguments, code=0):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out + err


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Every stage once, in a fresh folder, with the flags a user has."""
    folder = tmp_path_factory.mktemp("project")
    said = mlxrlhf(folder, "prepare", "all", "--max-characters", "400000", "--dialogues", "60", "--pairs", "200")
    assert "left out" in said and "held-out pairs" in said
    (folder / "mine.py").write_text(OWN_REWARD)
    (folder / "own_pairs.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"Add {i}.", "chosen": f"return x + {i}", "rejected": f"print({i})"}) + "\n"
            for i in range(24)
        )
    )
    for arguments in STAGES.values():
        mlxrlhf(folder, *arguments)
    return folder


SMALL_MACHINE = """
import sys
from mlxrlhf import backends
backends.load("mlx", "cpu").memory.limit = lambda: 2**20
from mlxrlhf_cli.main import run
sys.argv[0] = "mlxrlhf"
run()
"""


@pytest.mark.parametrize("stage", ["language", "code", "reward", "rlhf", "dpo"])
def test_a_command_that_cannot_fit_says_so_before_it_writes(project, tmp_path, stage):
    done = subprocess.run(
        [sys.executable, "-c", SMALL_MACHINE, *STAGES[stage], "--out", str(tmp_path / "out")],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "or give --allow-swap" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def metrics(folder, stage):
    rows = (
        read_metrics(folder / "run" / "metrics.jsonl")
        if stage is None
        else read_metrics(folder / "weights" / "nano" / stage / "run" / "metrics.jsonl")
    )
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


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
    assert metrics(project, "language")[-1]["loss"] < metrics(project, "language")[0]["loss"]
    assert all(row["grad_norm"] > 0 for stage in ("rlhf", "grpo", "dpo") for row in metrics(project, stage))
    # The value head starts as the reward model; one that starts at zero explains exactly nothing.
    assert metrics(project, "rlhf")[0]["value/explained_variance"] != 0
    assert all(0 <= row["objective/pass_rate"] <= 1 for row in metrics(project, "rlhf"))
    row = metrics(project, "grpo")[0]
    assert row["objective/scores"] == pytest.approx(
        row["objective/reward/letters"] + 0.5 * row["objective/reward/lint"]
    )
    figures = json.loads((weights / "reward" / "run" / "summary.json").read_text())
    assert {"val_accuracy_by_criterion", "token_baseline_own_samples"} <= set(figures)


def kill_in_the_middle(project, out, arguments):
    """SIGKILL once two steps are logged."""
    process = start(project, *arguments, "--out", str(out), "--save-every", "1")
    deadline = time.monotonic() + 120
    while len(read_metrics(out / "run" / "metrics.jsonl")) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(read_metrics(out / "run" / "metrics.jsonl")) >= 2
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_resumes_to_the_same_metrics(project, tmp_path, stage):
    out = kill_in_the_middle(project, tmp_path / "out", STAGES[stage])
    mlxrlhf(project, *STAGES[stage], "--out", str(out), "--save-every", "1", "--resume")
    assert metrics(out, None) == metrics(project, stage)


@pytest.mark.parametrize("stage", ["code", "tools", "reward", "rlhf", "grpo", "dpo"])
def test_torch_runs_the_same_stage_to_the_same_first_step(project, tmp_path, stage):
    """Same checkpoint, same data, same random stream: only the array library differs."""
    out = tmp_path / "out"
    arguments = [a for a in STAGES[stage] if a not in MLX] + ["--backend", "torch"]
    mlxrlhf(project, *arguments, "--out", str(out))
    ours, other = metrics(out, None), metrics(project, stage)
    assert len(ours) == len(other)
    key = "objective/scores" if stage in ("rlhf", "grpo") else "loss"
    if stage == "reward":  # the head's first weights are each library's own draw
        assert ours[-1]["loss"] < ours[0]["loss"]
        return
    assert ours[0][key] == pytest.approx(other[0][key], abs=1e-3)
    if stage == "rlhf":
        assert ours[0]["response/length"] == other[0]["response/length"]
        said = mlxrlhf(project, "chat", "--model", str(out), "--prompt", "Hello", "--max-tokens", "4", *MLX)
        assert "tok/s" in said, "what one backend writes the other reads"


def test_a_killed_torch_run_resumes_to_the_same_metrics(project, tmp_path):
    arguments = [a for a in STAGES["rlhf"] if a not in MLX] + ["--backend", "torch"]
    mlxrlhf(project, *arguments, "--out", str(tmp_path / "whole"))
    out = kill_in_the_middle(project, tmp_path / "out", arguments)
    mlxrlhf(project, *arguments, "--out", str(out), "--save-every", "1", "--resume")
    assert metrics(out, None) == metrics(tmp_path / "whole", None)


def test_a_reward_model_with_a_base_of_its_own_scores_in_ppo_and_evaluate(project, tmp_path, monkeypatch):
    out, policy = tmp_path / "reward", tmp_path / "rlhf"
    arguments = [*STAGES["reward"], "--samples", "0", "--unfreeze-rank", "2", "--batch-size", "64", "--out", str(out)]
    mlxrlhf(project, *arguments)
    figures = json.loads((out / "run" / "summary.json").read_text())
    assert {"frozen_val_accuracy", "calibration_error", "token_baseline", "score_length_correlation"} <= set(figures)
    assert "<svg" in (out / "run" / "report.html").read_text()
    assert (out / "adapters" / "adapters.safetensors").is_file()
    before = metrics(out, None)
    last = sorted((out / "state").glob("step-*"))[-1]  # an interrupted run: the state before the base was unfrozen
    shutil.rmtree(last)
    mlxrlhf(project, *arguments, "--resume")
    assert metrics(out, None) == before
    mlxrlhf(project, *STAGES["rlhf"], "--steps-per-epoch", "1", "--reward-model", str(out), "--out", str(policy))
    assert metrics(policy, None)[0]["objective/scores"] != metrics(project, "rlhf")[0]["objective/scores"]
    mlxrlhf(
        project,
        "evaluate",
        "--checkpoint",
        str(policy),
        "--reward-model",
        str(out),
        "--prompts",
        "4",
        "--max-tokens",
        "8",
        *MLX,
    )
    # Its scores are those of the head on the checkpoint with the adapters merged in.
    monkeypatch.chdir(project)
    tools, fused = project / "weights" / "nano" / "tools", tmp_path / "fused"
    mlxrlhf(project, "fuse", "--model", str(tools), "--adapter", str(out / "adapters"), "--out", str(fused), *MLX)
    library, tokenizer = backends.load("mlx"), open_tokenizer(tools)
    prompts, answers = [tokenizer.encode("Sort a list."), tokenizer.encode("Hi")], [[5, 9, 7], [11, 4]]
    scores = scorer(out, library, tokenizer)(prompts, answers, None)
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
    out = ["--out", str(tmp_path / "out"), *MLX]
    said = mlxrlhf(project, "reward", "--data", str(path), "--num-epochs", "2", *out)
    assert f"40 HelpSteer3 rows; left out: 8 tied (the first: {path}:1)" in said
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert (summary["pairs"], summary["val_pairs"]) == (29, 3)
    path.write_text('{"prompt": "p", "chosen": "a"}')
    said = mlxrlhf(project, "reward", "--data", str(path), *out, code=2)
    assert ':1 has no "rejected"' in said


def test_an_unknown_source_of_preferences_is_one_sentence(project):
    said = mlxrlhf(project, "prepare", "preferences", "--sources", "books", code=2)
    assert "--sources books: choose among tasks, reasoning-gym, stdlib and package:NAME" in said


def test_ctrl_c_saves_and_says_how_to_continue(project, tmp_path):
    out = tmp_path / "out"
    process = start(project, *STAGES["language"], "--steps-per-epoch", "500", "--out", str(out))
    while not read_metrics(out / "run" / "metrics.jsonl"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "--resume continues" in err and "Traceback" not in err
    assert list((out / "state").glob("step-*"))


def test_a_damaged_last_save_falls_back_to_the_one_before(project, tmp_path):
    out = tmp_path / "out"
    arguments = [*STAGES["language"], "--out", str(out), "--save-every", "2"]
    mlxrlhf(project, *arguments)
    last = sorted((out / "state").glob("step-*"))[-1] / "arrays-00000.safetensors"
    content = bytearray(last.read_bytes())
    content[-100] ^= 1
    last.write_bytes(content)
    said = mlxrlhf(project, *arguments, "--resume")
    assert "damaged" in said and metrics(out, None) == metrics(project, "language")


def test_mlx_lm_loads_and_answers(project):
    from mlx_lm import generate, load

    model, tokenizer = load(str(project / "weights" / "nano" / "rlhf"))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    stock = generate(model, tokenizer, prompt, max_tokens=8)
    ours = mlxrlhf(project, "chat", "--prompt", "Hello", "--max-tokens", "8", "--temp", "0", *MLX)
    assert ours.split("[")[0].strip() == stock.strip()


def test_evaluate_compares_before_and_after(project):
    out = mlxrlhf(project, "evaluate", "--prompts", "6", "--max-tokens", "16", *MLX)
    assert "win rate" in out and "no insecure pattern" in out
    figures = json.loads((project / "weights/nano/rlhf/evaluation/summary.json").read_text())
    assert figures["before"]["win_rate"] == 0.5 and abs(figures["before"]["kl"]) < 1e-3


def test_dpo_is_evaluated_and_talks(project):
    mlxrlhf(project, "evaluate", "--checkpoint", "weights/nano/dpo", "--prompts", "2", "--max-tokens", "8", *MLX)
    assert (project / "weights/nano/dpo/evaluation/summary.json").is_file()
    said = mlxrlhf(project, "chat", "--model", "weights/nano/dpo", "--prompt", "Hello", "--max-tokens", "4", *MLX)
    assert "tok/s" in said


def test_own_prompts_and_tests_need_no_reward_model(project, tmp_path):
    row = {"prompt": "Write one.", "tests": ["assert one() == 1", "assert one() != 2"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    said = mlxrlhf(
        project,
        *STAGES["rlhf"],
        "--steps-per-epoch",
        "1",
        "--reward",
        "tests",
        "--reward-model",
        "nowhere",
        "--prompts",
        str(tmp_path / "own.jsonl"),
        "--out",
        str(tmp_path / "out"),
    )
    assert "note: 1 steps are too few" in said
    assert metrics(tmp_path / "out", None)[0]["objective/reward/tests"] == 0


def test_tiny_takes_one_step_of_every_stage(project):
    for part in ("tokenizer", "language", "code"):
        mlxrlhf(project, "prepare", part, "--size", "tiny", "--max-characters", "1500000")
    for name in ("tools_train.jsonl", "tools_val.jsonl"):
        shutil.copy(project / "data" / "nano" / name, project / "data" / "tiny")
    pairs = [{"prompt": f"Add {i}.", "chosen": "def add(a, b):\n    return a + b", "rejected": "no"} for i in range(3)]
    (project / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    tiny = ["--size", "tiny", *MLX]
    once = [*tiny, "--steps-per-epoch", "1", "--batch-size", "1", "--eval-batches", "1"]
    assert "val_loss" in mlxrlhf(project, "pretrain", *once, "--sequence-length", "16")
    for stage in ("code", "tools"):
        assert "val_loss" in mlxrlhf(project, "finetune", "--stage", stage, *once, "--sequence-length", "192")
    mlxrlhf(project, "reward", *tiny, "--data", "pairs.jsonl", "--num-epochs", "1")
    out = mlxrlhf(
        project,
        "ppo",
        *tiny,
        "--steps-per-epoch",
        "1",
        "--batch-size",
        "2",
        "--mini-batch-size",
        "2",
        "--ppo-epochs",
        "1",
        "--max-tokens",
        "4",
    )
    assert "kl_last" in out


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["ppo", "--size", "micro"], "mlxrlhf finetune --stage tools --size micro"),
        (["ppo", "--size", "micro", "--checkpoint", "weights/nano/tools"], "give the --size it was made with"),
        (["ppo", "--reward-model", "nowhere"], "run: mlxrlhf reward"),
        (["pretrain", "--batch-size", "0"], "--batch-size is 0"),
        (["pretrain", "--learning-rate", "-1"], "--learning-rate is -1"),
        (["pretrain", "--size", "huge"], "choose one of nano"),
        (["pretrain", "--out", "/proc/nothing", *SMALL], "choose another folder with --out"),
        (["pretrain", "--sequence-length", "4096"], "context of 2048"),
        (["finetune", "--data", "empty.jsonl"], "empty.jsonl is empty"),
        (["finetune", "--data", "bad.jsonl"], "bad.jsonl:2 is not valid JSON"),
        (["reward", "--data", "bad.jsonl"], "bad.jsonl:2 is not valid JSON"),
        (["chat", "--model", "corrupt", "--prompt", "x"], "is corrupt"),
        (["chat", "--prompt", "long " * 5000], "context of 2,048"),
        (["pretrain", "--data-dir", "nowhere"], "run: mlxrlhf prepare all"),
        (["prepare", "everything"], "choose one of tokenizer"),
        (["prepare", "language", "--language-sources", "nowhere"], "does not exist"),
        (["reward", "--checkpoint", "vocabulary"], "pieces and its model"),
        (["ppo", "--reward", "modle"], "choose model, tests, lint or FILE.py:function"),
        (["grpo", "--reward", "nowhere.py:f"], "there is no file nowhere.py"),
        (["grpo", "--reward", "mine.py:missing"], "defines no function missing"),
        (["grpo", "--responses-per-prompt", "1"], "it must be at least 2"),
        (["ppo", "--reward", "tests", "--prompts", "bad.jsonl"], "prompt 1 ('a') has no tests"),
        (["dpo", "--data", "bad.jsonl"], "bad.jsonl:2 is not valid JSON"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(project, arguments, message):
    (project / "empty.jsonl").write_text("")
    (project / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    for name in ("corrupt", "vocabulary"):
        shutil.rmtree(project / name, ignore_errors=True)
        shutil.copytree(project / "weights" / "nano" / "tools", project / name, ignore=shutil.ignore_patterns("state"))
    os.truncate(project / "corrupt" / "model.safetensors", 1_000)
    config = json.loads((project / "vocabulary" / "config.json").read_text())
    (project / "vocabulary" / "config.json").write_text(json.dumps({**config, "vocab_size": 5_000}))
    if "tests" in arguments:
        (project / "bad.jsonl").write_text('{"prompt": "a"}\n')
    if message.startswith("bad.jsonl:2") and arguments[0] in ("reward", "dpo"):
        (project / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": \n')
    assert message in mlxrlhf(project, *arguments, code=2)
