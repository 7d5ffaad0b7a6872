"""Save points: the states of a run that an interrupted one continues from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.files import atomic_folder

#: bytes of one file of a save point
SHARD = 2**28


class SavePoints:
    """The last two states of a run under `folder`/state, each complete or absent, each checked by its sha256."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "state"

    def save(self, step: int, arrays: Iterable[tuple[str, np.ndarray]], state: dict) -> None:
        """Write one state: `arrays` (weights, optimizer) and `state` (JSON: controller, best loss, configuration).

        Arrays are taken one by one and written in files of SHARD bytes, so that a save costs no more memory than that.
        """
        if not parallel.first():
            return
        from safetensors.numpy import save_file

        with atomic_folder(self.folder / f"step-{step:08d}") as folder:
            shard: dict[str, np.ndarray] = {}
            digests: dict[str, str] = {}

            def flush() -> None:
                name = f"arrays-{len(digests):05d}.safetensors"
                save_file(shard, folder / name)
                digests[name] = _digest(folder / name)
                shard.clear()

            for name, array in arrays:
                if shard and sum(a.nbytes for a in shard.values()) + array.nbytes > SHARD:
                    flush()
                shard[name] = np.asarray(array, order="C")
            flush()
            (folder / "state.json").write_text(json.dumps({"step": step, "sha256": digests, **state}))
        for old in self._steps()[:-2]:
            shutil.rmtree(old)

    def latest(self, say=print) -> tuple[Mapping[str, np.ndarray], dict] | None:
        """The newest undamaged state, or None. A damaged one is named through `say` and passed over."""
        for folder in reversed(self._steps()):
            try:
                state = json.loads((folder / "state.json").read_text())
                files = {folder / name: digest for name, digest in state["sha256"].items()}
                if any(_digest(file) != digest for file, digest in files.items()):
                    raise ValueError("checksum mismatch")
                return _Arrays(files), state
            except (OSError, ValueError, KeyError, AttributeError) as error:
                say(f"{folder} is damaged ({error}); going back to the save before it")
        return None

    def clear(self) -> None:
        """Forget every state: a new run starts."""
        if not parallel.first():
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())


class _Arrays(Mapping):
    """The arrays of safetensors files, each read when it is asked for."""

    def __init__(self, files: Iterable[Path]):
        from safetensors import safe_open

        opened = [safe_open(file, framework="numpy") for file in files]
        self._owners = {name: file for file in opened for name in file.keys()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._owners[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


def _digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
