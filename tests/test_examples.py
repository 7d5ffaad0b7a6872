"""The examples run as they stand."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, mlxrlhf

from mlxrlhf import config
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.rewards.components import parse_reward
from mlxrlhf.settings import read_yaml

EXAMPLES = ROOT / "examples"


def test_ppo_from_python(tmp_path):
    command = [sys.executable, EXAMPLES / "ppo.py", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "wrote weights/shipped/rlhf" in done.stdout
    summary = json.loads((tmp_path / "weights" / "shipped" / "rlhf" / "run" / "summary.json").read_text())
    assert summary["updates"] == 1


def test_the_reward_by_hand():
    [component] = parse_reward(f"{EXAMPLES / 'own_reward.py'}:short_and_documented")
    # 120 words, twice what earns the full half; and a docstring in three words.
    scores = component.function([{"prompt": "p"}] * 2, ["word " * 120, 'def f(): """Doc."""'])
    assert scores.tolist() == [0.25, 1.0]


def test_the_pairs_are_read():
    assert len(load_pairs(str(EXAMPLES / "own_pairs.jsonl"))) == 4


@pytest.mark.parametrize("size", config.SIZES)
def test_the_settings_of_each_size(size, tmp_path):
    settings = config.PPOConfig(**read_yaml(EXAMPLES / f"{size}.yaml", config.PPOConfig))
    assert settings.size == size
    shown = mlxrlhf(tmp_path, "ppo", "-c", str(EXAMPLES / f"{size}.yaml"), "--print-config").out
    assert f"size: {size}" in shown
