"""What is written survives: a failure at every call that changes the disk leaves the old or the new, and no stray."""

import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faults import KINDS, Faults, Killed

from mlxrlhf import files, plan
from mlxrlhf.config import SIZES, DPOConfig, PretrainConfig, RewardConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models.checkpoint import load_arrays, write_safetensors
from mlxrlhf.models.outputs import OutputFolder
from mlxrlhf.models.savepoints import SavePoints

#: every call in turn, or every eleventh: `make test` has other things to do
EVERY = 1 if os.environ.get("MLXRLHF_LONG") else 11


@pytest.fixture
def root(tmp_path):
    """A folder in memory where there is one: thousands of small files are written."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "root"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def tree(root):
    """Every file below a folder with its content, markers aside."""
    return {
        str(name): (root / name).read_bytes() if not (root / name).is_symlink() else os.readlink(root / name)
        for name in files.walk(root)
        if name.name != files.MARKER and not str(name).startswith("run")
    }


def strays(root):
    return [str(name) for name in root.rglob("*") if ".mlxrlhf-" in name.name or ".old" in name.name]


def failing(monkeypatch, root, work, prepare, check):
    """Run `work` with a failure of every kind at every call; after each, `check(failed)` and a good run of `work`."""
    counted = prepare()
    with monkeypatch.context() as patch:
        faults = Faults(patch, root)
        work(counted)
    total = faults.count
    assert total > 3
    for kind, once in (("kill", True), *itertools.product(KINDS, (True, False))):
        for number in range(1 + hash_of(kind, once) % EVERY, total + 1, EVERY):
            shutil.rmtree(root)
            root.mkdir()
            state = prepare()
            failed = None
            with monkeypatch.context() as patch:
                faults = Faults(patch, root, kind, number, once)
                try:
                    work(state)
                except (Killed, UserError, OSError) as error:
                    failed = error
            where = f"{kind}{'' if once else ' for good'} at call {number} of {total}: {faults.last}"
            check(failed, where)


def hash_of(*parts):
    return sum(map(ord, str(parts)))


def test_a_text_is_the_old_or_the_new_whatever_fails(root, monkeypatch):
    root.mkdir()
    path = root / "notes.json"

    def prepare():
        files.atomic_text(path, "old")
        return None

    def check(failed, where):
        assert path.read_text() in ("old", "new"), where
        if not isinstance(failed, Killed):
            assert failed is None or path.read_text() == "old" or "fsync" in where or "open" in where, where
        files.atomic_text(path, "newer")
        assert path.read_text() == "newer" and os.listdir(root) == ["notes.json"], where

    failing(monkeypatch, root, lambda _: files.atomic_text(path, "new"), prepare, check)


NAMES = ("config.json", "model.safetensors", "adapters/adapters.safetensors")


def fill(folder, text):
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + name)


def test_a_folder_is_the_old_or_the_new_whatever_fails(root, monkeypatch):
    root.mkdir()
    path = root / "tokenizer"

    def write(text):
        with files.atomic_folder(path, say=lambda line: None) as folder:
            fill(folder, text)

    def check(failed, where):
        found = tree(path)
        assert len(found) == 3 and len({content[:3] for content in found.values()}) == 1, where
        if failed is None:
            assert found["config.json"].startswith(b"new"), where
        write("newer")
        assert os.listdir(root) == ["tokenizer"], where

    failing(monkeypatch, root, lambda _: write("new"), lambda: write("old"), check)


# --- the folder of a run -------------------------------------------------------------------------------------------


def config(**changes):
    return SimpleNamespace(**{"resume": False, "restart": False, **changes})


def train(out, text, steps, *, at=0, stop=None, **changes):
    """A run as a stage writes one: a log, a save at every step, the result. `stop` ends it after that step."""
    with OutputFolder(out, stage="pretrain", config=config(**changes), say=lambda line: None) as folder:
        found = folder.points.latest() if changes.get("resume") else None
        start = found[1]["step"] if found else 0
        folder.begin()
        folder.run_folder.mkdir(exist_ok=True)
        files.atomic_text(folder.run_folder / "metrics.jsonl", f"{text} from {start}\n")
        for step in range(start + 1, steps + 1):
            folder.points.save(step, [("x", np.full(3, step, np.float32))], {"text": text})
            if step == stop:
                raise KeyboardInterrupt
        files.atomic_text(folder.run_folder / "summary.json", text)
        with folder.replace() as new:
            fill(new, text)
    return start


def test_a_run_leaves_its_result_its_log_and_its_saves(tmp_path):
    out = tmp_path / "weights" / "language"
    train(out, "one", 3)
    assert set(os.listdir(out)) == {"config.json", "model.safetensors", "adapters", "run", "state", files.MARKER}
    assert os.listdir(out.parent) == ["language"] and SavePoints(out).steps() == [2, 3]
    (out / "notes.txt").write_text("mine")
    (out / "adapters" / "own.txt").write_text("mine too")
    train(out, "two", 2)
    assert (out / "config.json").read_text() == "twoconfig.json" and (out / "run" / "summary.json").read_text() == "two"
    assert (out / "notes.txt").read_text() == "mine" and (out / "adapters" / "own.txt").read_text() == "mine too"
    assert SavePoints(out).steps() == [1, 2] and not strays(tmp_path)


def test_files_of_the_users_are_set_aside_where_the_new_result_stands(tmp_path, capsys):
    out = tmp_path / "language"
    train(out, "one", 1)
    (out / "config.json").write_text("edited by hand")
    (out / "model-mine.safetensors").write_text("mine")
    with OutputFolder(out, stage="pretrain", config=config()) as folder, folder.replace() as new:
        fill(new, "two")
    assert "in " + str(tmp_path / "language.old-1") in capsys.readouterr().out
    assert tree(tmp_path / "language.old-1") == {"config.json": b"edited by hand", "model-mine.safetensors": b"mine"}
    assert (out / "config.json").read_text() == "twoconfig.json" and not (out / "model-mine.safetensors").exists()


@pytest.mark.parametrize(
    "given, said",
    [
        (".", "the working folder"),
        ("..", "holds the working folder"),
        ("/", "holds the working folder"),
        ("~", "your home folder"),
        ("full/..", "is the working folder"),
        ("/proc", "mount point"),
        ("link", "symbolic link"),
        ("file", "is a file"),
        ("file/out", "cannot write"),
        ("full", "holds files that no run of mlxrlhf pretrain wrote (a.txt)"),
        ("other", "holds what mlxrlhf ppo wrote"),
        ("base", "would replace base"),
        ("base/x/..", "in use"),
        ("in_the_way", "run is in the way"),
        ("n" * 250, "cannot write"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused_and_untouched(tmp_path, monkeypatch, given, said):
    home, root = tmp_path / "home", tmp_path / "work"
    for name in ("home", "work", "work/full", "work/base", "work/other", "work/in_the_way"):
        (tmp_path / name).mkdir()
    (root / "file").write_text("mine")
    (root / "full" / "a.txt").write_text("mine")
    (root / "link").symlink_to(home)
    files.write_marker(root / "other", {"made_by": "ppo", "files": {}})
    files.write_marker(root / "in_the_way", {"made_by": "pretrain", "files": {}})
    (root / "in_the_way" / "run").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(root)
    before = tree(tmp_path), sorted(tmp_path.rglob("*"))
    path = os.path.expanduser(given)
    with pytest.raises(UserError, match=r"--out|cannot write|in the way") as raised:
        with OutputFolder(path, stage="pretrain", config=config(), sources=["base"]):
            raise AssertionError("taken")
    assert said in str(raised.value)
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == before


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("a/b/out", "empty"):
        with pytest.raises(UserError, match="no rows"):
            with OutputFolder(tmp_path / name, stage="pretrain", config=config()) as folder:
                folder.begin()
                raise UserError("no rows")
    assert os.listdir(tmp_path) == ["empty"] and not os.listdir(tmp_path / "empty")


def test_an_unfinished_run_is_continued_or_started_over_only_when_asked(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(out, "one", 9, stop=4)
    with pytest.raises(UserError, match=r"unfinished run, saved at step 4; give --resume to continue it, or --restart"):
        train(out, "two", 9)
    assert SavePoints(out).steps() == [3, 4]
    assert train(out, "one", 6, resume=True) == 4
    assert train(out, "two", 2) == 0, "over a finished run nothing need be asked"
    with pytest.raises(KeyboardInterrupt):
        train(out, "three", 9, stop=1)
    assert train(out, "four", 2, restart=True) == 0 and SavePoints(out).latest()[1]["text"] == "four"
    assert not strays(tmp_path)


def test_the_saves_before_stand_until_the_new_run_has_one(tmp_path):
    out = tmp_path / "out"
    train(out, "one", 3)
    with pytest.raises(UserError, match="before the first step"):
        with OutputFolder(out, stage="pretrain", config=config()) as folder:
            folder.begin()
            folder.run_folder.mkdir()
            files.atomic_text(folder.run_folder / "metrics.jsonl", "two")
            raise UserError("before the first step")
    assert (out / "config.json").read_text() == "oneconfig.json"
    assert train(out, "one", 3, resume=True) == 3
    assert (out / "run" / "metrics.jsonl").read_text() == "one from 3\n" and not strays(tmp_path)


def test_the_need_is_compared_with_the_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**9))
    with pytest.raises(UserError, match=r"up to 6.00 GB .* has 5.00 GB free; make room, or choose"):
        with OutputFolder(tmp_path / "a" / "out", stage="pretrain", config=config(), need_bytes=6 * 10**9):
            raise AssertionError("taken")
    assert not os.listdir(tmp_path)


def test_safetensors_are_those_of_the_library(tmp_path):
    import hashlib

    from safetensors.numpy import save

    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.array(3, np.int64),
        "half": np.ones(3, np.float16),
        "none": np.zeros((0, 2), np.uint8),
        "flag": np.array([True, False]),
    }
    for metadata in (None, {"format": "pt"}):
        digest = write_safetensors(tmp_path / "x", arrays, metadata)
        expected = save({k: np.ascontiguousarray(v) if v.ndim else v for k, v in arrays.items()}, metadata)
        assert (tmp_path / "x").read_bytes() == expected and digest == hashlib.sha256(expected).hexdigest()
        assert load_arrays(tmp_path / "x")["b"].tolist() == arrays["b"].tolist()


# --- a failure at every call of a whole run ------------------------------------------------------------------------


def one_result(out):
    """Whose result stands: every file of it is of one run."""
    texts = {(out / name).read_text().removesuffix(name) for name in NAMES}
    assert len(texts) == 1, texts
    return texts.pop()


@pytest.mark.parametrize("way", ["again", "resume", "restart", "two renames"])
def test_a_run_survives_a_failure_at_every_call(root, monkeypatch, way):
    changes = {"resume": {"resume": True}, "restart": {"restart": True}}.get(way, {})
    if way == "two renames":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    out = root / "language"
    root.mkdir()

    def prepare():
        train(out, "one", 2)
        (out / "notes.txt").write_text("mine")
        if changes:
            with pytest.raises(KeyboardInterrupt):
                train(out, "two", 9, stop=2)

    def check(failed, where):
        if out.exists() or way != "two renames":
            assert one_result(out) in ("one", "two"), where
            assert (out / "notes.txt").read_text() == "mine", where
        if failed is None:
            assert one_result(out) == "two", where
        elif not isinstance(failed, Killed):
            assert isinstance(failed, UserError) and "\n" not in str(failed), (where, failed)
        said = []
        with OutputFolder(out, stage="pretrain", config=config(resume=True), say=said.append) as folder:
            assert one_result(out) in ("one", "two"), where
            found = folder.points.latest(said.append)
            assert found and found[1]["step"] in (1, 2, 3), where
        assert train(out, "three", 4, resume=True) >= 1, where
        assert one_result(out) == "three" and (out / "notes.txt").read_text() == "mine", where
        assert not strays(root) and os.listdir(root) == ["language"] and not said, (where, said)

    failing(monkeypatch, root, lambda _: train(out, "two", 3, **changes), prepare, check)


def test_a_save_survives_a_failure_at_every_call(root, monkeypatch):
    points = SavePoints(root)

    def prepare():
        for step in (1, 2):
            points.save(step, [("x", np.full(3, step, np.float32))], {})

    def check(failed, where):
        said = []
        arrays, state = points.latest(said.append)
        assert state["step"] in (2, 3) and arrays["x"][0] == state["step"] and not said, where
        if failed is None:
            assert state["step"] == 3
        elif not isinstance(failed, Killed):
            assert isinstance(failed, UserError) and "--resume continues" in str(failed), where
        points.save(4, [("x", np.full(3, 4, np.float32))], {})
        assert len(os.listdir(points.folder)) == 2 and points.latest()[1]["step"] == 4, where

    root.mkdir()
    failing(monkeypatch, root, lambda _: points.save(3, [("x", np.full(3, 3, np.float32))], {}), prepare, check)


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    points = SavePoints(tmp_path)
    points.save(1, [("x", np.ones(2, np.float32))], {})
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="step 2 is not saved: x holds NaN or infinity; the save of step 1 stands"):
            points.save(2, [("x", np.array([1, bad], np.float32))], {})
    assert os.listdir(points.folder) == ["step-00000001"]


@pytest.mark.parametrize("change", [lambda s: s.replace(b"0.25", b"0.26"), lambda s: s[:-1], lambda s: b"[1]"])
def test_a_changed_state_is_damaged(tmp_path, change):
    points, said = SavePoints(tmp_path), []
    for step in (1, 2):
        points.save(step, [("x", np.ones(2, np.float32))], {"beta": 0.25})
    path = points.folder / "step-00000002" / "state.json"
    path.write_bytes(change(path.read_bytes()))
    assert points.latest(said.append)[1]["step"] == 1 and "step-00000002 is damaged" in said[0]


def test_what_a_run_writes_is_predicted():
    weights = SIZES["nano"].parameters()
    # Two saves of three float32 numbers for each weight and a third while it is written; the best weights.
    assert plan.disk_bytes(PretrainConfig(), SIZES["nano"]) == (3 * 12 + 4) * weights
    # Adapters of rank 16 in 4 blocks: q and o 192 + 192, k and v 192 + 64, gate, up and down 192 + 512 wide.
    adapters = 4 * 16 * (2 * 384 + 2 * 256 + 3 * 704)
    assert plan.disk_bytes(DPOConfig(), SIZES["nano"]) == 2 * 12 * adapters + 4 * (weights + adapters)
    # The head: Linear(192, 96) - Linear(96, 1).
    assert plan.disk_bytes(RewardConfig(), SIZES["nano"]) == 3 * 12 * (192 * 96 + 96 + 96 + 1)


def test_the_users_files_in_the_state_folder_are_never_deleted(tmp_path):
    points = SavePoints(tmp_path)
    for step in (1, 2):
        points.save(step, [("x", np.ones(2, np.float32))], {})
    (points.folder / "notes.txt").write_text("mine")
    (points.folder / "step-mine").mkdir()
    (points.folder / "step-mine" / "a").write_text("mine")
    (points.folder / "step-00000001" / "notes.txt").write_text("mine")
    points.save(3, [("x", np.ones(2, np.float32))], {})
    points.clear()
    assert tree(points.folder) == {
        "notes.txt": b"mine",
        "step-mine/a": b"mine",
        "step-00000001.old-1/notes.txt": b"mine",
    }


def test_where_folders_cannot_be_exchanged_two_renames_do(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "link", lambda *names, **more: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    out = tmp_path / "out"
    for text in ("one", "two"):
        train(out, text, 2)
        (out / "notes.txt").write_text("mine")
        assert one_result(out) == text and os.listdir(tmp_path) == ["out"]
    os.rename(out, files.beside(out, "old"))  # as a run leaves it that is killed between the two renames
    assert train(out, "three", 2, resume=True) == 2 and one_result(out) == "three"
    assert os.listdir(tmp_path) == ["out"] and (out / "notes.txt").read_text() == "mine"
