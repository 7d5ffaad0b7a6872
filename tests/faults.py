"""Failures of the file system, injected: the n-th call fails, or the process ends there."""

import builtins
import errno
import io
import os

from mlxrlhf import files

#: what counts as a call; each changes the disk
CALLS = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "write", "pwrite", "ftruncate")
KINDS = {"full": errno.ENOSPC, "busy": errno.EBUSY, "read-only": errno.EROFS}
#: what still works on a full disk
FREEING = ("unlink", "rmdir", "rename", "replace", "exchange", "fsync", "ftruncate")


class Killed(BaseException):
    """Stands for SIGKILL: from here on no call reaches the disk, whatever is caught and cleaned up."""


class Faults:
    """Counts the calls that change the disk under `root` and lets the n-th fail.

    kind: "kill", or one of KINDS. once: only that call fails; otherwise every later one too, as on a disk that stays
    full. A file opened for writing is counted where it is opened, at each write, and where it is closed.
    """

    def __init__(self, monkeypatch, root, kind="", number=10**9, once=True):
        self.root, self.kind, self.number, self.once = str(root), kind, number, once
        self.count, self.last = 0, ""
        self.true_open = io.open
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        true_os_open = os.open

        def os_open(path, flags, *rest, **more):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.check("open", path)
            return true_os_open(path, flags, *rest, **more)

        def opened(path, mode="r", *rest, **more):
            writing = not isinstance(path, int) and set(mode) & set("wax+")
            if writing:
                self.check("open", path)
            stream = self.true_open(path, mode, *rest, **more)
            return Counted(stream, self, path) if writing else stream

        monkeypatch.setattr(os, "open", os_open)
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(files, "exchange", self._wrapped("exchange", files.exchange))

    def _wrapped(self, name, call):
        def wrapper(first, *rest, **more):
            self.check(name, first)
            return None if name == "fsync" else call(first, *rest, **more)

        return wrapper

    def check(self, name, path):
        """Count one call and fail where it is its turn."""
        if not isinstance(path, int) and not os.path.abspath(os.fspath(path)).startswith(self.root):
            return
        self.count += 1
        if self.count == self.number:
            self.last = f"{name} {path}"
        if self.count < self.number or not self.kind:
            return
        if self.kind == "kill":
            raise Killed
        if self.count > self.number and (self.once or (self.kind == "full" and name in FREEING)):
            return
        if self.kind == "full" and name in ("unlink", "rmdir"):
            return
        raise OSError(KINDS[self.kind], os.strerror(KINDS[self.kind]), str(path))


class Counted:
    """A file whose writes and whose end are calls too."""

    def __init__(self, stream, faults, path):
        self.stream, self.faults, self.path = stream, faults, path

    def write(self, content):
        self.faults.check("write", self.path)
        return self.stream.write(content)

    def close(self):
        self.faults.check("close", self.path)
        self.stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.close()
        finally:
            self.stream.close()

    def __getattr__(self, name):
        return getattr(self.stream, name)
