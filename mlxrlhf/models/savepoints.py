"""Save points: the states of a run that an interrupted one continues from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import files, parallel
from mlxrlhf.errors import UserError
from mlxrlhf.models.checkpoint import write_safetensors

#: bytes of one file of a save point
SHARD = 2**28
#: save points that are kept
KEPT = 2
#: what a run writes into its log, OUT/run
RUN_FILES = ("config.json", "metrics.jsonl", "summary.json", "report.html", "traceback.txt")


class SavePoints:
    """The last two states of a run under `folder`/state, each complete or absent, each checked by its sha256."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "state"

    def save(self, step: int, arrays: Iterable[tuple[str, np.ndarray]], state: Mapping[str, Any]) -> None:
        """Write one state: `arrays` (weights, optimizer) and `state` (JSON: controller, best loss, configuration).

        Arrays are taken one by one and written in files of SHARD bytes, so that a save costs no more memory than that.
        Raises UserError where it cannot be written, or where a value is not finite; the saves before it stand.
        """
        if not parallel.first():
            return
        try:
            files.make_folder(self.folder)
            place = self.folder / f"step-{step:08d}"
            files.recover(place)
            with files.replaced(place, {"made_by": "save"}) as folder:
                digests = _write_arrays(folder, arrays)
                content = {"step": step, "sha256": digests, **state}
                content["checksum"] = _checksum(content)
                (folder / "state.json").write_text(json.dumps(content), encoding="utf-8")
        except (OSError, NotFinite) as error:
            stands = [number for number in self.steps() if number != step]
            then = f"the save of step {stands[-1]} stands" if stands else "there is no save before it"
            if isinstance(error, NotFinite):
                raise UserError(f"step {step} is not saved: {error}; {then}") from None
            raise files.NotWritten(
                f"step {step} could not be saved to {self.folder}: {files.reason(error)}; {then}; put that right, "
                "and the same command with --resume continues"
            ) from None
        with contextlib.suppress(OSError):  # else the next save does it
            self._drop_all_but(self.steps()[-KEPT:])
            self.drop_aside()

    def latest(self, say: files.Say = print) -> tuple[Mapping[str, np.ndarray], dict[str, Any]] | None:
        """The newest undamaged state, or None. A damaged one is named through `say` and passed over."""
        # Of several processes the first may just be about to bring back what was set aside.
        where = self.folder if self.steps() else self.aside
        for step in reversed(_steps(where)):
            folder = where / f"step-{step:08d}"
            try:
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                if state["checksum"] != _checksum(state):
                    raise ValueError("checksum mismatch in state.json")
                arrays = {folder / name: digest for name, digest in state["sha256"].items()}
                if any(files.digest(file) != digest for file, digest in arrays.items()):
                    raise ValueError("checksum mismatch")
                return _Arrays(arrays), state
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                say(f"{folder} is damaged ({error}); going back to the save before it")
        return None

    def steps(self) -> list[int]:
        """The steps that were saved, in order."""
        return _steps(self.folder)

    def clear(self) -> None:
        """Forget every state: a new run starts."""
        if parallel.first():
            self._drop_all_but([])

    # --- the saves of a run that is started over: kept until the new one has its first --------------------------

    @property
    def aside(self) -> Path:
        """Where they are kept."""
        return self.folder.with_name("state.old")

    def put_aside(self, log: Path | None = None) -> bool:
        """Set the saves aside, with the log of their run; False where there is none.

        Those set aside before are dropped where there are newer ones.
        """
        there_were = bool(self.steps())
        if there_were:
            self.drop_aside()
            os.rename(self.folder, self.aside)
            if log and log.is_dir():
                os.rename(log, self.aside / log.name)
        # What is left of a save that was killed would stand in the way of the new run's.
        self._drop_all_but([])
        return there_were

    def bring_back(self) -> bool:
        """Take the saves set aside again, where the run that set them aside was killed before it saved."""
        if not _steps(self.aside) or self.steps():
            return False
        self._drop_all_but([])
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.folder)
        os.rename(self.aside, self.folder)
        return True

    def drop_aside(self) -> None:
        """Delete the saves set aside."""
        drop_log(self.aside / "run")
        _drop(self.aside, [])
        if self.aside.is_dir():
            if any(self.aside.iterdir()):  # somebody else's files
                os.rename(self.aside, files.set_aside_name(self.folder))
            else:
                os.rmdir(self.aside)

    def aside_files(self) -> dict[str, list[int]]:
        """What was written there, with size and time, by names relative to it."""
        marks = {f"run/{name}": mark for name, mark in log_files(self.aside / "run").items()}
        for step in _steps(self.aside):
            place = self.aside / f"step-{step:08d}"
            _mark(place)
            if marker := files.read_marker(place):
                names = {**marker["files"], files.MARKER: files.stamp(place / files.MARKER)}
                marks |= {f"{place.name}/{name}": mark for name, mark in names.items()}
        return marks

    def _drop_all_but(self, kept: list[int]) -> None:
        _drop(self.folder, kept)


def _steps(folder: Path) -> list[int]:
    matches = (re.fullmatch(r"step-(\d{8,})", p.name) for p in folder.glob("step-*") if p.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def _drop(folder: Path, kept: list[int]) -> None:
    """Delete save points, and what a killed save left. A file in them that no save wrote is set aside."""
    for left in [*folder.glob(".step-*.mlxrlhf-old"), *folder.glob(".step-*.mlxrlhf-new")]:
        files.recover(folder / left.name.removeprefix(".").rpartition(".mlxrlhf-")[0])
    for step in _steps(folder):
        if step not in kept:
            place = folder / f"step-{step:08d}"
            _mark(place)
            # First out of its name, in one step: a save point is there or it is not.
            os.rename(place, files.beside(place, "old"))
            files.discard(files.beside(place, "old"), place)


def log_files(folder: Path) -> dict[str, list[int]]:
    """The files of a run's log, with size and time."""
    return {name: files.stamp(folder / name) for name in RUN_FILES if (folder / name).is_file()}


def drop_log(folder: Path) -> None:
    """Delete a run's log. Other files in its folder stay."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for name in RUN_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / name)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _mark(folder: Path) -> None:
    """Give a save point of version one the marker that it lacks: its files are known by their names."""
    if (folder / files.MARKER).exists() or not (folder / "state.json").is_file():
        return
    listed = [*folder.glob("arrays-*.safetensors"), folder / "state.json"]
    files.write_marker(folder, {"made_by": "save", "files": {p.name: files.stamp(p) for p in listed}})


class NotFinite(ValueError):
    """An array holds NaN or infinity."""


def _write_arrays(folder: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Write arrays in files of SHARD bytes; returns the sha256 of each file."""
    shard: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}

    def flush() -> None:
        name = f"arrays-{len(digests):05d}.safetensors"
        digests[name] = write_safetensors(folder / name, shard)
        shard.clear()

    for name, array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NotFinite(f"{name} holds NaN or infinity")
        if shard and sum(a.nbytes for a in shard.values()) + array.nbytes > SHARD:
            flush()
        shard[name] = array
    flush()
    return digests


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of safetensors files, each read when it is asked for."""

    def __init__(self, paths: Iterable[Path]):
        from safetensors import safe_open

        opened = [safe_open(path, framework="numpy") for path in paths]
        self._owners = {name: file for file in opened for name in file.keys()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._owners[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


def _checksum(state: Mapping[str, Any]) -> str:
    """The sha256 of all that state.json says beside it."""
    content = {key: value for key, value in state.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
