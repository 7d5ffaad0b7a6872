"""Files and folders written so that a reader sees the old one or the new one, never half of it.

Everything is written under another name beside its place (`.NAME.mlxrlhf-new`), flushed to the disk, and renamed. A
folder that is there already changes places with the new one in one system call. What a killed writer left is found
again by that name and by the marker inside.

A folder of ours lists its files in its marker, mlxrlhf.json. Only files listed there, and unchanged since, are ever
deleted. What is not listed belongs to somebody else: it is set aside as NAME.old-1, and that is said.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxrlhf.errors import UserError

#: the file that marks a folder as ours
MARKER = "mlxrlhf.json"
#: names that files have while they are written
TEMPORARY = re.compile(r"\..*\.mlxrlhf-(new|old|lock)")
#: what a file system answers that cannot exchange two folders, make hard links or lock
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.ENOLCK}

Say = Callable[[str], None]


class InUse(UserError):
    """Another process is writing there."""


class NotWritten(UserError):
    """The file system refused: the disk is full, read-only, busy. What was there before stands."""


# --- one file ------------------------------------------------------------------------------------------------------


def atomic_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that a reader sees the old one or the new one. Raises OSError."""
    atomic_bytes(path, text.encode("utf-8"))


def atomic_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one. Raises OSError; then the old one stands."""
    path = Path(os.path.realpath(path))
    new = beside(path, "new")
    descriptor = _open_locked(new, wait=True)
    try:
        os.ftruncate(descriptor, 0)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    finally:
        os.close(descriptor)
    sync(path.parent)


def beside(path: Path, kind: str) -> Path:
    """The name beside `path` under which its next version is built (new), its last one leaves (old), or its lock."""
    return path.with_name(f".{path.name}.mlxrlhf-{kind}")


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems, network ones above all, cannot flush a folder.
        if not (os.path.isdir(path) and error.errno in UNSUPPORTED):
            raise
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- locks ---------------------------------------------------------------------------------------------------------


def _open_locked(path: Path, *, wait: bool) -> int:
    """A descriptor of the file that stands at `path`, made where there is none, which this process alone holds.

    Raises BlockingIOError where another process holds it and `wait` is false. A lock ends with its process.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            # Its last holder may have renamed or removed it while we waited.
            held, there = os.fstat(descriptor), os.stat(path)
            if (held.st_ino, held.st_dev) == (there.st_ino, there.st_dev):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the only right to write `path`. Raises InUse, naming the process that holds it."""
    lock = beside(path, "lock")
    try:
        descriptor = _open_locked(lock, wait=wait)
    except BlockingIOError:
        with contextlib.suppress(OSError):
            holder = lock.read_text(encoding="utf-8", errors="replace").strip()
            raise InUse(f"{path} is being written by {holder}; wait for it, or choose another folder") from None
        raise InUse(f"{path} is being written by another process; wait for it, or choose another folder") from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        try:
            with contextlib.suppress(OSError):
                os.unlink(lock)
        finally:
            os.close(descriptor)


# --- the marker of a folder of ours --------------------------------------------------------------------------------


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What mlxrlhf.json of a folder says, or None where there is none that can be read."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        return None
    return content


def write_marker(folder: Path, marker: Mapping[str, Any]) -> None:
    """Write FOLDER/mlxrlhf.json."""
    atomic_text(folder / MARKER, json.dumps(marker, indent=1) + "\n")


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, symbolic links as such, relative to it."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                yield from (Path(entry.name) / below for below in walk(Path(entry.path)))
            else:
                yield Path(entry.name)


def _listing(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file, by which a later run knows it as ours."""
    return {str(name): stamp(folder / name) for name in walk(folder) if str(name) != MARKER}


def stamp(path: Path) -> list[int]:
    """Size and time of a file: it changes when somebody else writes the file."""
    stat = os.lstat(path)
    return [stat.st_size, stat.st_mtime_ns]


# --- one folder ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_folder(path: Path, made_by: str = "mlxrlhf", say: Say = print) -> Iterator[Path]:
    """Yield a folder to fill; it stands at `path` when the block ends well, and is gone when it does not.

    A folder already there is replaced, as `replaced` says. Raises NotWritten.
    """
    path = Path(path)
    made: list[Path] = []
    try:
        made = make_folder(path.parent)
        with locked(path, wait=True):
            recover(path, say)
            with replaced(path, {"made_by": made_by}, say=say) as folder:
                yield folder
    except BaseException as error:
        remove_empty(made)
        if is_file_system_error(error):
            raise NotWritten(f"cannot write to {path}: {reason(error)}; choose another folder with --out") from None
        raise


@contextlib.contextmanager
def replaced(path: Path, marker: Mapping[str, Any], say: Say = print) -> Iterator[Path]:
    """The body of atomic_folder, for one who holds the lock and has called `recover`. Raises OSError.

    marker: what the new folder's marker says beside its files. Of a folder already there, the listed files go. The
    others (a run's log and saves, files of the user's) go over into the new one. Where that has a file of the same
    name, and for *.safetensors, which loaders would take for a part of the model, they are set aside as NAME.old-1.
    """
    new = beside(path, "new")
    os.mkdir(new)
    try:
        write_marker(new, {**marker, "building": True, "files": {}})
        yield new
        listing = _listing(new)
        _sync_tree(new)
        _carry_over(path, new)
        write_marker(new, {**marker, "files": listing})
        _swap(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            discard(new, path, say)
        raise
    # The new one stands. What of the old one cannot be deleted now, the next run deletes.
    with contextlib.suppress(OSError):
        discard(new, path, say)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, on the same disk, which is gone afterwards. The caller holds the lock.

    What a killed process left of one is removed by the next that writes `path`.
    """
    recover(path)
    new = beside(path, "new")
    os.mkdir(new)
    try:
        write_marker(new, {"building": True, "files": {}})
        yield new
    finally:
        with contextlib.suppress(OSError):
            discard(new, path)


def _carry_over(path: Path, new: Path) -> None:
    """Link what no marker lists from the folder that is there into the new one."""
    if not path.is_dir():
        return
    listed = (read_marker(path) or {"files": {}})["files"]
    for name in list(walk(path)):
        ours = str(name) == MARKER or listed.get(str(name)) == stamp(path / name)
        weights = len(name.parts) == 1 and name.suffix == ".safetensors"
        if not (ours or weights or os.path.lexists(new / name)):
            _link(path / name, new / name)


def _swap(new: Path, path: Path) -> None:
    """Put `new` at `path`. What was at `path` is at `new` afterwards."""
    if not os.path.lexists(path):
        os.rename(new, path)
    elif not exchange(new, path):
        old = beside(path, "old")
        os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
        os.rename(old, new)
    sync(path.parent)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change places in one step; False where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, 2)  # RENAME_SWAP
        else:
            here = -100  # AT_FDCWD: names are relative to the working folder
            failed = libc.renameat2(here, names[0], here, names[1], 2)  # RENAME_EXCHANGE
    except AttributeError:  # an older C library
        return False
    if failed and ctypes.get_errno() not in UNSUPPORTED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed


def recover(path: Path, say: Say = print) -> None:
    """Finish or undo what a killed writer of `path` left beside it. The caller holds the lock."""
    new, old = beside(path, "new"), beside(path, "old")
    if os.path.lexists(old):  # killed between the two renames that stand for an exchange
        if not os.path.lexists(path):
            marker = read_marker(new)
            os.rename(new if marker and not marker.get("building") else old, path)
        discard(old, path, say)
    discard(new, path, say)


def discard(folder: Path, standing: Path, say: Say = print) -> None:
    """Delete a folder that `standing` has replaced: the files its marker lists, and those that stand there unchanged.

    Where others remain, the folder with them is set aside as NAME.old-1.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    marker = read_marker(folder)
    building, listed = (marker.get("building"), marker["files"]) if marker else (False, {})
    for name in list(walk(folder)):
        own = stamp(folder / name)
        ours = building or listed.get(str(name)) == own or TEMPORARY.fullmatch(name.name)
        if str(name) != MARKER and (ours or _has(standing / name, own)):
            os.unlink(folder / name)
    left = any(str(name) != MARKER for name in walk(folder))
    for below in _folders(folder)[:-1]:
        if not any(walk(below)):
            os.rmdir(below)
    if marker:  # last, so that a deletion that is killed is taken up again
        os.unlink(folder / MARKER)
    if left:
        aside = set_aside_name(standing)
        os.rename(folder, aside)
        say(f"{standing} held files that mlxrlhf did not write; they are in {aside}")
    else:
        os.rmdir(folder)


def set_aside_name(path: Path) -> Path:
    """The first of NAME.old-1, NAME.old-2, ... that is free."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.old-{number}")):
        number += 1
    return aside


def _has(path: Path, own: list[int]) -> bool:
    return os.path.lexists(path) and stamp(path) == own


def _folders(folder: Path) -> list[Path]:
    """A folder and all below it, the deepest first."""
    return [Path(name) for name, _, _ in os.walk(folder, topdown=False)]


def _sync_tree(folder: Path) -> None:
    for name in walk(folder):
        if not (folder / name).is_symlink():
            sync(folder / name)
    for below in _folders(folder):
        sync(below)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        shutil.copy2(source, target, follow_symlinks=False)
        sync(target)


def make_folder(path: Path) -> list[Path]:
    """Make a folder and those above it; returns the ones that were missing, the highest first. Raises OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    missing.reverse()
    for number, folder in enumerate(missing):
        try:
            os.mkdir(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been faster
                remove_empty(missing[:number])
                raise
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that make_folder made, as far as nothing was written into them."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


# --- what went wrong -----------------------------------------------------------------------------------------------


def is_file_system_error(error: BaseException) -> bool:
    """Whether an exception says that the disk is full, read-only or refuses: whoever raised it.

    MLX and safetensors write by themselves and raise exceptions of their own.
    """
    if isinstance(error, OSError):
        return not isinstance(
            error, (FileNotFoundError, BlockingIOError, BrokenPipeError, InterruptedError, TimeoutError)
        )
    return type(error).__name__ in ("RuntimeError", "SafetensorError") and bool(
        re.search(r"Unable to write|I/O error|os error \d+", str(error))
    )


def reason(error: BaseException) -> str:
    """The words of the system for what went wrong."""
    text = str(error)
    if "Unable to write" in text or re.search(r"\d+ requested and \d+ written", text):
        return "No space left on device"
    if match := re.search(r"(?:I/O error: )?([^:]*) \(os error \d+\)", text):
        return match[1]
    return getattr(error, "strerror", None) or text
