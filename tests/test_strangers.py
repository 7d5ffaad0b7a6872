"""Files from strangers: no code of a model ever runs, and what came from the hub is known by its commit."""

import io
import json
import shutil
import sys

import pytest

from mlxrlhf import hub
from mlxrlhf.config import ModelConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import gguf_files, published
from mlxrlhf.report.runlog import RunLog

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A function that makes a model's folder whose tokenizer and model are Python files, and says yes on stdin."""
    ran = tmp_path / "it-ran"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))

    def make(**settings):
        folder = tmp_path / "model"
        shutil.copytree(published.shipped(), folder, ignore=shutil.ignore_patterns("adapters", "reward"))
        code = f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as Theirs\nModel = Theirs\n"
        (folder / "theirs.py").write_text(code)
        for name, change in settings.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        return folder, ran

    return make


def test_no_code_of_a_tokenizer_runs(with_code):
    folder, ran = with_code(
        tokenizer_config={"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": [None, "theirs.Theirs"]}},
    )
    (folder / "chat_template.jinja").write_text("{{ messages }}")  # no tokenizer of ours: transformers reads it
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="needs Python code that comes with it, and mlxrlhf runs no model's code"):
        open_tokenizer(folder)
    with pytest.raises(Exception, match="trust_remote_code"):
        gguf_files._add_tokenizer(None, folder, 100)
    assert not ran.exists()


def test_no_code_of_a_model_runs(with_code):
    from mlxrlhf import backends

    folder, ran = with_code(config={"model_type": "theirs", "model_file": "theirs.py", "auto_map": {}})
    with pytest.raises(UserError, match="mlx-lm cannot load"):
        backends.load("mlx").Model(
            ModelConfig(800, 96, 2, 3, 1, 192, head_dim=32, family="theirs"),
            folder=folder,
        )
    assert not ran.exists()


def test_every_loader_is_told_so():
    """Whoever adds a loader must say it: the libraries' own defaults ask, or run the code."""
    import ast
    from pathlib import Path

    loaders = {"from_pretrained", "convert", "load", "load_model", "load_tokenizer"}
    found = 0
    for path in Path(published.__file__).parents[1].rglob("*.py"):
        text = path.read_text()
        if "mlx_lm" not in text and "transformers" not in text:
            continue
        imported = {
            alias.asname or alias.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("mlx_lm", "transformers")
            for alias in node.names
        }
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            theirs = isinstance(called, ast.Name) and called.id in imported & loaders
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                theirs = called.attr in loaders and called.value.id in imported | {"mlx_lm"}
            if theirs:
                assert "trust_remote_code" in ast.unparse(node), f"{path}:{node.lineno} does not say trust_remote_code"
                found += 1
    assert found >= 5


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub cache with one model, of a commit that main and v1 stand for, and no network."""
    from huggingface_hub import constants

    root = tmp_path / "models--someone--small"
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (root / "refs").mkdir()
    for name in ("main", "v1"):
        (root / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "fetched", {})
    return folder


@pytest.mark.parametrize("name", ["someone/small", "someone/small@v1", f"someone/small@{COMMIT}"])
def test_a_revision_can_be_named_and_the_commit_is_in_the_run(cached, tmp_path, name):
    assert published.fetch(name) == cached and published.label(name) == "small"
    with RunLog(tmp_path / "run", "t", 1, {"model": name}, quiet=True):
        pass
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept == {"model": name, "fetched": {"someone/small": COMMIT}}


@pytest.mark.parametrize("name", ["someone/small@v2", "someone/other", "some one/x", "someone/small@", "a/b@refs/pr/1"])
def test_what_is_not_there_is_one_sentence(cached, name):
    if name.endswith("@"):
        assert published.fetch(name) == cached, "no revision is the newest"
        return
    with pytest.raises(UserError, match="is no folder and could not be fetched from the hub") as caught:
        published.fetch(name)
    assert "\n" not in str(caught.value) and not hub.fetched


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a@b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(published.fetch("runs/a@b")) == "runs/a@b" and published.label("runs/a@b") == "a@b"


def test_a_data_set_takes_a_revision_too(monkeypatch, tmp_path):
    import huggingface_hub

    from mlxrlhf.data import files

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **settings: asked.append((name, settings)) or str(tmp_path)
    )
    (tmp_path / "train.jsonl").write_text("{}\n")
    files._hub_files("hub:someone/pairs@v1:train")
    assert asked == [
        ("someone/pairs", {"repo_type": "dataset", "allow_patterns": ["*train*"], "revision": "v1"}),
    ]
