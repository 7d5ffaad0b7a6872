"""`chat`, `serve` and `export` without arguments: the model that was trained last, whatever its name and stage."""

import os
from pathlib import Path

import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.models import folders


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that makes weights/NAME/STAGE as if it had been written at a time."""
    monkeypatch.chdir(tmp_path)

    def write(name, seconds, file="config.json"):
        folder = Path("weights") / name
        folder.mkdir(parents=True)
        (folder / file).write_text("{}")
        os.utime(folder / file, (seconds, seconds))
        return folder

    return write


def test_the_last_one_by_time_is_taken_and_said(trained, capsys):
    trained("nano/rlhf", 100)
    for folder in (
        trained("micro/language", 200),  # a larger size and an earlier stage
        trained("SmolLM2-135M/rlhf", 300),  # a published model
        trained("shipped/dpo", 400),  # the demo's folder, and a stage that other stages do not start from
        trained("nano/grpo", 500),
    ):
        os.utime(folder / "config.json", (600, 600))
        assert folders.find_model("") == (str(folder), folder, "")
        assert capsys.readouterr().err == f"taking {folder}, which was trained last; --model FOLDER takes another\n"
        os.utime(folder / "config.json", (50, 50))
    assert folders.find_model("", size="micro").folder == Path("weights/micro/language")


def test_of_one_time_the_later_stage_is_taken(trained):
    for stage in ("tools", "rlhf", "code", "language"):
        trained(f"nano/{stage}", 100)
    assert folders.last_trained() == Path("weights/nano/rlhf")


def test_what_is_no_model_is_passed_over(trained):
    trained("nano/reward", 300, "reward.json")
    trained("nano/.rlhf-a1b2", 300)  # half-written
    trained(".old/rlhf", 300)
    trained("nano/rlhf.old-1", 300)  # set aside
    trained("nano/rlhf/run", 300)  # a run's own config.json stands one level deeper
    assert folders.last_trained() is None
    with pytest.raises(UserError, match="no trained model under weights/nano"):
        folders.find_model("", size="nano")
    assert trained("nano/code", 100) == folders.last_trained()
