"""A training run and its files: identity on resume, its folder, failures while it trains and while it writes."""

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, Killed

from mlxrlhf import backends, files
from mlxrlhf.backends.protocol import ModelSettings
from mlxrlhf.config import ModelConfig, PPOConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import published
from mlxrlhf.models.adapters import load_model
from mlxrlhf.models.folders import Checkpoint
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.rewards.model import Normaliser, write_reward_model
from mlxrlhf.stages.run import Run, Training

TOY = ModelConfig(50, 32, 1, 2, 1, 64, head_dim=16)


class Steps(Training):
    """Three steps that do nothing, and a result as stages write it: a model with adapters, or a reward model."""

    title, total = "toy", 3

    def __init__(self, run, reward):
        self.run, self.reward = run, reward
        self.model = run.model()

    def step(self, number):
        return {"loss": 1.0, "skipped": 0.0, "grad_norm": 1.0}, 1

    def summary(self, rows):
        return {"steps": len(rows)}

    def write(self, folder, tokenizer):
        if not self.reward:
            return super().write(folder, tokenizer)
        head = self.run.backend.Head(TOY.hidden_size)
        rest = {"lora_rank": 2, "accuracy": 0.5}
        write_reward_model(folder, head, Normaliser(0, 1), self.model, self.run.source, tokenizer, **rest)

    def report(self, folder, figures):
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    write_base(folder, 0)
    return folder


def write_base(folder, seed):
    folder.mkdir(exist_ok=True)
    backends.load("mlx").Model(TOY, ModelSettings(seed=seed)).save(folder, pad_id=0, end_id=1)


def train(base, out, *, data="rows", stage="rlhf", reward=False, **changes):
    config = PPOConfig(backend="mlx", out=str(out), save_every=1, lora_rank=2)
    config = dataclasses.replace(config, **changes)
    checkpoint = Checkpoint(base, TOY, open_tokenizer(published.shipped()))
    with Run(config, stage, checkpoint, uses={"set of prompts": data}) as run:
        return run.train(Steps(run, reward))


def test_a_run_is_not_resumed_on_something_else(base, tmp_path):
    out = tmp_path / "out"
    train(base, out)
    train(base, out, resume=True)
    with pytest.raises(UserError, match=r"another set of prompts \(\w{16}\) than it would meet \(\w{16}\); bring that"):
        train(base, out, resume=True, data="other rows")
    other = tmp_path / "base"
    write_base(other, seed=1)
    with pytest.raises(UserError, match=r"the save in .*out was made with another base \(\w{16}\) than"):
        train(other, out, resume=True)
    with pytest.raises(UserError, match="holds what mlxrlhf ppo wrote, and this is mlxrlhf pretrain; choose another"):
        train(base, out, resume=True, stage="language")
    with pytest.raises(UserError, match="would replace .*base, which this run reads"):
        train(base, base, resume=True)
    assert files.read_marker(out)["finished"], "what is refused changes nothing"
    train(other, out, data="other rows")
    marker = files.read_marker(out)
    assert marker["finished"] and marker["base"] == SavePoints(out).latest()[1]["identity"]["base"]


def test_adapters_go_on_the_weights_they_were_trained_on(base, tmp_path):
    out, other, library = tmp_path / "out", tmp_path / "other", backends.load("mlx")
    train(base, out)
    write_base(other, seed=1)
    adapters = str(out / "adapters")
    load_model(library, base, adapters)
    with pytest.raises(UserError, match=rf"adapters was made with another base .* the --model .*\({base}\)"):
        load_model(library, other, adapters)
    described = json.loads((out / "adapters" / "adapter_config.json").read_text())
    del described["base_digest"]
    (out / "adapters" / "adapter_config.json").write_text(json.dumps(described))
    load_model(library, other, adapters)  # mlx-lm's do not say


def test_a_run_without_room_is_refused_before_it_starts(base, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match="has 0.00 GB free; make room"):
        train(base, tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_a_disk_that_fills_up_while_steps_are_logged(base, tmp_path, monkeypatch):
    def full(*content, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def step(self, number):
        if number == 2:
            monkeypatch.setattr(
                json, "dumps", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
        return {"loss": 1.0, "skipped": 0.0, "grad_norm": 1.0}, 1

    monkeypatch.setattr(Steps, "step", step)
    with pytest.raises(UserError, match="cannot write to .*No space left on device; the save of step 2 stands"):
        train(base, tmp_path / "out")
    monkeypatch.undo()
    assert train(base, tmp_path / "out", resume=True)["steps"] == 3


def test_a_step_whose_files_cannot_be_written_is_not_saved_as_the_one_before(base, tmp_path, monkeypatch):
    taken = []

    def step(self, number):
        taken.append(number)
        if taken == [0, 1, 2]:  # the step was taken when the best weights meet a full disk
            raise files.NotWritten("cannot write to best: No space left on device")
        return {"loss": 1.0, "skipped": 0.0, "grad_norm": 1.0}, 1

    monkeypatch.setattr(Steps, "step", step)
    monkeypatch.setattr(Steps, "named_arrays", lambda self: iter([("taken", np.float32([len(taken)]))]))
    monkeypatch.setattr(Steps, "load_state", lambda self, arrays, state: None)
    with pytest.raises(UserError, match="cannot write to best"):
        train(base, tmp_path / "out")
    arrays, state = SavePoints(tmp_path / "out").latest()
    assert state["step"] == 2 and arrays["taken"][0] == 2
    train(base, tmp_path / "out", resume=True)
    assert taken == [0, 1, 2, 2]


@pytest.mark.parametrize("reward", [False, True], ids=["model", "reward"])
def test_a_stage_survives_a_failure_at_every_call_of_its_writes(base, monkeypatch, reward):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        root = Path(name)
        out = root / "out"

        def size(text):
            return sum(map(len, text.values()))

        def written():
            names = [n for n in files.walk(out) if n.parts[0] not in ("run", "state", "run.old", "state.old")]
            return {str(n): (out / n).read_bytes() for n in names if n.name != files.MARKER}

        train(base, out, reward=reward)
        expected = written()
        assert len(expected) >= 4 and size(expected) > 1_000
        with monkeypatch.context() as patch:
            faults = Faults(patch, root)
            train(base, out, reward=reward)
        every = 1 if os.environ.get("MLXRLHF_LONG") else 41
        for kind in ("kill", "full"):
            for number in range(1 + len(kind), faults.count + 1, every):
                with monkeypatch.context() as patch:
                    failing = Faults(patch, root, kind, number)
                    try:
                        train(base, out, reward=reward, restart=True)
                    except Killed:
                        pass
                    except UserError as error:
                        assert "No space left on device" in str(error), failing.last
                assert written() == expected, failing.last
                assert SavePoints(out).latest() or any((out / "state.old").iterdir()), failing.last
                assert train(base, out, reward=reward, resume=True)["steps"] == 3, failing.last
                assert written() == expected and os.listdir(root) == ["out"], failing.last
