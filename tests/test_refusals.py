"""Wrong input to every command is one sentence and exit code 2, before anything is written."""

import json
import os
import shutil

import pytest
from helpers import mlxrlhf, mlxrlhf_process
from project import SMALL, STAGES

from mlxrlhf import backends

GOOD = {
    "finetune": {"prompt": "a", "completion": "b"},
    "reward": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
}


@pytest.fixture(scope="module")
def wrong(project_once, tmp_path_factory):
    """The project seen from another folder, with files beside it in which something is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("data", "weights", "mine.py", "own_pairs.jsonl"):
        (folder / name).symlink_to(project_once / name)
    (folder / "empty.jsonl").write_text("")
    for command, row in GOOD.items():
        (folder / f"{command}.jsonl").write_text(json.dumps(row) + '\n{"prompt": \n')
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    for name in ("corrupt", "vocabulary"):
        shutil.copytree(folder / "weights" / "nano" / "tools", folder / name, ignore=shutil.ignore_patterns("state"))
    os.truncate(folder / "corrupt" / "model.safetensors", 1_000)
    config = json.loads((folder / "vocabulary" / "config.json").read_text())
    (folder / "vocabulary" / "config.json").write_text(json.dumps({**config, "vocab_size": 5_000}))
    return folder


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
        (["finetune", "--data", "finetune.jsonl"], "finetune.jsonl:2 is not valid JSON"),
        (["reward", "--data", "reward.jsonl"], "reward.jsonl:2 is not valid JSON"),
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
        (["ppo", "--reward", "tests", "--prompts", "prompts.jsonl"], "prompt 1 ('a') has no tests"),
        (["dpo", "--data", "dpo.jsonl"], "dpo.jsonl:2 is not valid JSON"),
        (
            ["prepare", "preferences", "--sources", "books"],
            "choose among tasks, reasoning-gym, stdlib and package:NAME",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_sentence_and_exit_code_2(wrong, arguments, message):
    assert message in mlxrlhf(wrong, *arguments, code=2).err


def test_the_shell_sees_exit_code_2_and_no_traceback(tmp_path):
    said = mlxrlhf_process(tmp_path, "pretrain", "--batch-size", "0", code=2)
    assert said.err.startswith("mlxrlhf: --batch-size is 0") and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("stage", ["language", "code", "reward", "rlhf", "dpo"])
def test_a_command_that_cannot_fit_says_so_before_it_writes(project, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(backends.load("mlx", "cpu").memory, "limit", lambda: 2**20)
    said = mlxrlhf(project, *STAGES[stage], "--out", tmp_path / "out", code=2)
    assert "or give --allow-swap" in said.err and not (tmp_path / "out").exists()
