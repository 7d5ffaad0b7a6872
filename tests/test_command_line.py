"""What every command's flags have in common: groups, a YAML of the settings in use, one root for what is written."""

import dataclasses

import pytest
import yaml
from helpers import mlxrlhf

from mlxrlhf import config
from mlxrlhf.settings import read_yaml, write_yaml

COMMANDS = {
    "prepare": config.PrepareConfig,
    "pretrain": config.PretrainConfig,
    "finetune": config.FinetuneConfig,
    "reward": config.RewardConfig,
    "ppo": config.PPOConfig,
    "grpo": config.GRPOConfig,
    "dpo": config.DPOConfig,
    "evaluate": config.EvaluateConfig,
    "chat": config.ChatConfig,
    "serve": config.ServeConfig,
    "export": config.ExportConfig,
    "fuse": config.FuseConfig,
    "annotate": config.AnnotateConfig,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_in_a_panel(command):
    from mlxrlhf_cli.panels import panel

    names = [f.name for f in dataclasses.fields(COMMANDS[command]) if panel(f.name) is None]
    assert not names, f"{names} of {command} belong to no panel of cli/panels.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_yaml_of_a_command_reads_back(command, tmp_path):
    settings = COMMANDS[command]()
    (tmp_path / "settings.yaml").write_text(write_yaml(settings))
    assert COMMANDS[command](**read_yaml(tmp_path / "settings.yaml", COMMANDS[command])) == settings


def test_print_config_shows_the_flags_that_were_given(tmp_path):
    (tmp_path / "own.yaml").write_text("batch-size: 4\nsteps-per-epoch: 7\n")
    said = mlxrlhf(tmp_path, "ppo", "-c", "own.yaml", "--batch-size", "5", "--print-config")
    shown = yaml.safe_load(said.out)
    assert shown["batch-size"] == 5 and shown["steps-per-epoch"] == 7 and shown["gamma"] == 0.99
    assert not list(tmp_path.glob("weights")), "nothing was run"


def test_fine_tuning_a_published_model_trains_adapters():
    own, published = config.FinetuneConfig(size="nano"), config.FinetuneConfig(model="some/model")
    assert (own.lora_rank, own.learning_rate) == (0, 6e-4)
    assert (published.lora_rank, published.learning_rate) == (16, 2e-4)
    whole = config.FinetuneConfig(model="some/model", lora_rank=0)
    assert (whole.lora_rank, whole.learning_rate) == (0, 2e-5)
    assert config.FinetuneConfig(model="some/model", learning_rate=1e-3).learning_rate == 1e-3


def test_weights_data_and_runs_hang_on_one_root(tmp_path):
    (tmp_path / "here").mkdir()
    said = mlxrlhf(tmp_path / "here", "pretrain", "--root", "../there", code=2)
    assert "../there/data/nano" in said.err
