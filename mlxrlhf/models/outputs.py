"""The folder that a run writes: taken for one run at a time, checked before the work, replaced when the work is done.

    with OutputFolder(path, stage="ppo", config=config, need_bytes=...) as out:
        ...                                          # whatever may still refuse the run: nothing is changed until
        out.begin()                                  # this; a command that writes a result alone leaves it out
        log = RunLog(out.run_folder, ...)            # OUT/run: config.json, metrics.jsonl, summary.json, report.html
        points = SavePoints(out.folder)              # OUT/state/step-NNNNNNNN
        ...
        with out.replace() as folder:                # an empty folder beside OUT; complete, it takes OUT's place
            folders.save_checkpoint(model, folder, tokenizer)

What stands in OUT before (a result, its log, its saves) stands until the new result is complete. While a run that
started over has no save of its own, the saves before it are kept in OUT/state.old, and the log of the result that
still stands in OUT/run.old.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from mlxrlhf import __version__, files, parallel
from mlxrlhf.errors import UserError
from mlxrlhf.models.savepoints import SavePoints, drop_log, log_files

#: what may be missing from a prediction of the space that is needed
SPARE_BYTES = 2**24


class OutputFolder:
    """The right to write one folder, for the length of a run.

    path: the folder. stage: what marks it; only a folder that is absent, empty or marked by the same stage is taken.
    config: its `resume` and `restart` say what to do with saves that are there. need_bytes: what the run will write at
    most; compared with the free space. sources: folders the run reads, which must not be the one it writes.

    Entering raises UserError, and changes nothing, where the folder cannot be taken or the run could not end well.
    Of several processes the first alone takes the folder and writes.
    """

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        config: Any = None,
        need_bytes: int = 0,
        sources: Sequence[Path] = (),
        say: files.Say = print,
    ):
        self.given, self.stage, self.config, self.say = Path(path), stage, config, say
        self.need_bytes, self.sources = need_bytes, [Path(source) for source in sources]
        self.resume = bool(getattr(config, "resume", False))
        self.restart = bool(getattr(config, "restart", False))
        self.folder = Path(path)
        #: set by replace(): the new result stands
        self.finished = False
        self._held = contextlib.ExitStack()
        self._found: dict[str, Any] = {"files": {}}

    @property
    def run_folder(self) -> Path:
        """OUT/run, for RunLog."""
        return self.folder / "run"

    @property
    def points(self) -> SavePoints:
        """The saves under OUT/state."""
        return SavePoints(self.folder)

    # --- taking the folder --------------------------------------------------------------------------------------

    def __enter__(self) -> OutputFolder:
        refuse_path(self.given, self.sources)
        if not parallel.first():
            return self
        with contextlib.ExitStack() as held:
            try:
                made = files.make_folder(self.given.parent)
                held.callback(files.remove_empty, made)
                held.enter_context(files.locked(self.given))
                files.recover(self.given, self.say)
                self._found = self._marker()
                self._refuse_saves(self._found)
                _probe(self.given)
                self._refuse_space()
                held.callback(self._leave_nothing, self.given.exists())
                if self.resume:
                    self._bring_back()
            except OSError as error:
                raise files.NotWritten(
                    f"cannot write to {self.given}: {files.reason(error)}; choose another folder with --out"
                ) from None
            self._held = held.pop_all()
        return self

    def _marker(self) -> dict[str, Any]:
        """The marker of a folder that this stage may take. Raises UserError for any other."""
        marker = files.read_marker(self.given)
        if marker:
            if marker.get("made_by") != self.stage:
                raise UserError(
                    f"{self.given} holds what mlxrlhf {marker.get('made_by')} wrote, and this is mlxrlhf {self.stage}; "
                    "choose another folder with --out, or move that one away"
                )
        elif not self.given.is_dir() or not any(self.given.iterdir()):
            marker = {"files": {}, "finished": False}
        elif self._version_one():
            marker = {"files": {}, "finished": (self.given / "run" / "summary.json").is_file()}
        else:
            some = ", ".join(sorted(p.name for p in self.given.iterdir())[:3])
            raise UserError(
                f"{self.given} holds files that no run of mlxrlhf {self.stage} wrote ({some}); "
                "choose another folder with --out"
            )
        for name in ("run", "state", "best"):
            below = self.given / name
            if below.is_symlink() or (below.exists() and not below.is_dir()):
                raise UserError(f"{below} is in the way: a folder of this name will be written; move it away")
        return marker

    def _version_one(self) -> bool:
        """Whether a run of this command wrote an unmarked folder: its log holds its settings."""
        if not is_dataclass(self.config):
            return False
        log = self.run_folder if self.run_folder.is_dir() else self.given
        try:
            settings = json.loads((log / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        names = {f.name for f in fields(self.config)}
        return (
            isinstance(settings, dict)
            and len(settings) > 10
            and set(settings) <= names
            and settings.get("stage") == getattr(self.config, "stage", None)
        )

    def _refuse_saves(self, marker: dict[str, Any]) -> None:
        if self.resume or self.restart or marker.get("finished"):
            return
        steps = SavePoints(self.given).steps()
        if steps:
            raise UserError(
                f"{self.given} holds an unfinished run, saved at step {steps[-1]}; give --resume to continue it, "
                "or --restart to begin again"
            )

    def _refuse_space(self) -> None:
        if not self.need_bytes:
            return
        free = shutil.disk_usage(self.given.parent).free
        # Saves and the best weights that are there are deleted when new ones stand.
        freed = sum(_size(self.given / name) for name in ("state", "best"))
        if free + freed < self.need_bytes + SPARE_BYTES:
            raise UserError(
                f"this run will write up to {self.need_bytes / 1e9:.2f} GB to {self.given}, and its disk has "
                f"{free / 1e9:.2f} GB free; make room, or choose another folder with --out"
            )

    def _bring_back(self) -> None:
        """Undo the start of a run over this one that was killed before it had a save."""
        if not self.points.bring_back():
            return
        # Their log came with them, or it is that of the result which still stands.
        log, came, old = self.run_folder, self.points.folder / "run", self.given / "run.old"
        drop_log(log)
        if not log.exists() and (came.exists() or old.exists()):
            os.rename(came if came.exists() else old, log)

    def begin(self) -> None:
        """Mark the folder as that of a run which is not finished; set saves and log aside where it starts over.

        To be called before OUT/run and OUT/state are written, once nothing can refuse the run any more.
        """
        if not parallel.first():
            return
        files.make_folder(self.given)
        listed: dict[str, Any] = dict(self._found["files"])
        self._mark_unfinished(listed)
        if self.resume:
            return
        log, old, aside = self.run_folder, self.given / "run.old", self.points.aside
        if self._found.get("finished"):
            self.points.put_aside()
            if log.is_dir():
                drop_log(old)
                os.rename(log, old if not old.exists() else files.set_aside_name(log))
        elif not self.points.put_aside(log):
            drop_log(log)
        # Listed, they do not go over into the new result.
        listed |= {f"{old.name}/{name}": stamp for name, stamp in log_files(old).items()}
        listed |= {f"{aside.name}/{name}": stamp for name, stamp in self.points.aside_files().items()}
        self._mark_unfinished(listed)

    def _mark_unfinished(self, listed: dict[str, Any]) -> None:
        files.write_marker(self.given, {**self._description(), "finished": False, "files": listed})

    def _description(self) -> dict[str, Any]:
        return {"made_by": self.stage, "version": __version__}

    # --- the result ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def replace(self, **said: Any) -> Iterator[Path]:
        """Yield an empty folder; when the block ends well it takes OUT's place, with the run's log and saves.

        said: what the marker shall say beside the files, such as digests. What becomes of other files in OUT is told
        at files.replaced. Raises UserError, and OUT stands as it was, when writing fails.
        """
        description = {**self._description(), **said, "finished": True}
        try:
            with files.replaced(self.folder, description, self.say) as folder:
                yield folder
        except BaseException as error:
            if files.is_file_system_error(error):
                steps = self.points.steps()
                then = (
                    f"; the save of step {steps[-1]} stands: the same command with --resume continues" if steps else ""
                )
                raise files.NotWritten(f"{self.folder} could not be written: {files.reason(error)}{then}") from None
            raise
        self.finished = True

    # --- leaving ------------------------------------------------------------------------------------------------

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._held.close()
        if error is not None and isinstance(error, OSError) and files.is_file_system_error(error):
            steps = self.points.steps()
            then = f"; the save of step {steps[-1]} stands: the same command with --resume continues" if steps else ""
            raise files.NotWritten(f"cannot write to {self.given}: {files.reason(error)}{then}") from None

    def _leave_nothing(self, existed: bool) -> None:
        """A run that wrote nothing leaves nothing."""
        with contextlib.suppress(OSError):
            if not self._found.get("made_by") and os.listdir(self.given) == [files.MARKER]:
                os.unlink(self.given / files.MARKER)
                if not existed:
                    os.rmdir(self.given)


def refuse_path(path: Path, sources: Sequence[Path] = ()) -> None:
    """Raises UserError for a folder that no run may write, whatever is in it."""
    say = "choose another folder with --out"
    if path.is_symlink():
        raise UserError(f"--out {path} is a symbolic link, which cannot be replaced; give the folder it points to")
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; {say}")
    real = Path(os.path.realpath(path))
    for busy, what in ((Path.cwd(), "the working folder"), (Path.home(), "your home folder")):
        if real == busy.resolve():
            raise UserError(f"--out {path} is {what}; {say}")
        if real in busy.resolve().parents:
            raise UserError(f"--out {path} holds {what}; {say}")
    if not path.name or path.name == "..":
        raise UserError(f"--out {path} is a folder that is in use; {say}")
    if os.path.ismount(real) or str(real) in _mount_points():
        raise UserError(f"--out {path} is a mount point, which cannot be replaced; give a folder in it")
    for source in sources:
        other = Path(os.path.realpath(source))
        if other == real or real in other.parents:
            raise UserError(f"--out {path} would replace {source}, which this run reads; {say}")


def _probe(path: Path) -> None:
    """Do beside `path` once what the end of the run will do. Raises OSError."""
    with files.scratch(path) as folder:
        os.mkdir(folder / "one")
        os.rename(folder / "one", folder / "other")
    if not path.is_dir():
        return
    # In a folder such as /tmp only their owner may rename things.
    sticky = path.parent.stat().st_mode & stat.S_ISVTX
    foreign = os.geteuid() not in (0, path.stat().st_uid, path.parent.stat().st_uid)
    if (sticky and foreign) or not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _size(folder: Path) -> int:
    return sum(files.stamp(folder / name)[0] for name in files.walk(folder)) if folder.is_dir() else 0


def _mount_points() -> set[str]:
    """Linux's mount points: os.path.ismount does not see one where a folder of the same disk is mounted."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # A blank, a tab, a line end and a backslash in a name are written as octal numbers.
    return {re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in lines}
