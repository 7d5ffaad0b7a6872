"""Launchers: running jail.py inside the jail of a level, kept between runs.

`run` is what the rest needs: it starts the launcher of a jail at first use, starts another when that one has ended, and
runs one request in it.
"""

import atexit
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import macos, namespaces, processes
from mlxrlhf.sandbox.folders import remove_tree
from mlxrlhf.sandbox.following import Following
from mlxrlhf.sandbox.jail import DEVICES, NOBODY, READABLE
from mlxrlhf.sandbox.limits import Limits, Result

JAIL = Path(__file__).with_name("jail.py")
MACOS = sys.platform == "darwin"


@dataclass(frozen=True)
class Jail:
    """A way of holding snippets; `level` is its name in `doctor` and the docs."""

    level: str
    kind: str  # what jail.py is told: landlock, bubblewrap, sandbox-exec, none
    namespaces: bool = False
    strict: bool = True  # macOS: the narrow profile

    @property
    def box_inside(self) -> bool:
        """Whether the snippet's folder exists only inside, in a file system that ends with it."""
        return self.namespaces or self.kind == "bubblewrap"


def request_for(
    *,
    code: str = "",
    argv: Sequence[str] = (),
    stdin: str = "",
    files: Mapping[str, str] | None = None,
    limits: Limits,
) -> dict:
    """What jail.py is sent for one run: Python `code`, or a program and its arguments (`argv`), and what it gets.

    Raises UserError for a file outside the snippet's folder.
    """
    laid_out = dict(files or {})
    for name in laid_out:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise UserError(f"A sandbox file needs a relative path inside the snippet's folder, not {name!r}.")
    if not argv:
        laid_out["main.py"] = code  # so that tracebacks can quote the line
    given = sum(len(text.encode("utf-8", "replace")) for text in (stdin, *laid_out.values()))
    return {
        "code": code,
        "argv": list(argv),
        "stdin": stdin,
        "files": laid_out,
        "limits": asdict(limits),
        "box_bytes": 4 * limits.file_bytes + given + (1 << 20),
    }


def bash(command: str) -> list[str]:
    """The program and its arguments that run a shell command."""
    shell = shutil.which("bash") or "/bin/sh"
    if not any(shell.startswith(f"{folder}/") for folder in READABLE):
        shell = os.path.realpath(shell)  # the link itself is not shown inside
    return [shell, "-c", command]


# --- running ---------------------------------------------------------------------------------------------------------


def run(jail: Jail, request: dict, limits: Limits, cancelled: Callable[[], bool] = lambda: False) -> Result:
    """Run one request to its end. Raises UserError when the machine cannot start it, twice."""
    for _ in range(2):
        try:
            if jail.kind == "bubblewrap":  # its folder is the launcher's, so each snippet needs its own
                with Launcher(jail, request["box_bytes"]) as launcher:
                    return launcher.run(request, limits, cancelled)
            return running(jail).run(request, limits, cancelled)
        except OSError as failure:
            error = failure
    raise UserError(f"The sandbox cannot start a process ({error}); free some memory or end some processes.")


_launchers: dict[Jail, "Launcher"] = {}
_starting = threading.Lock()


def _forget_launchers() -> None:
    """In a forked child: it starts its own, and does not hold its parent's alive."""
    global _launchers, _starting
    for launcher in _launchers.values():
        launcher.control.close()
    _launchers, _starting = {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_launchers)


def running(jail: Jail) -> "Launcher":
    """The launcher of this jail, started when there is none or it has ended."""
    with _starting:
        launcher = _launchers.get(jail)
        if launcher is None or launcher.process.poll() is not None:
            if launcher:
                launcher.close()
            _launchers[jail] = Launcher(jail)
        return _launchers[jail]


@atexit.register
def _close_launchers() -> None:
    for launcher in list(_launchers.values()):
        launcher.close()


class Launcher:
    """A running jail.py. Any number of threads may use it at once."""

    def __init__(self, jail: Jail, box_bytes: int = 0):
        self.jail, self.box_bytes = jail, box_bytes  # bubblewrap: size of the snippet's file system
        self.sending = threading.Lock()
        self.scratch = os.path.realpath(tempfile.mkdtemp(prefix="mlxrlhf-"))
        self.control, theirs = socket.socketpair()
        try:
            if os.getuid() == 0:
                os.chmod(self.scratch, 0o711)  # the snippets' user passes through
            with theirs:
                self.process = self._started(theirs)
            self.control.settimeout(30)
            answer = self.control.recv(4096)
            if not answer:
                raise OSError(f"the sandbox's launcher ended at once under {jail.level}")
            self.state = json.loads(answer)
            if jail.box_inside:
                remove_tree(self.scratch)  # its tree was built on this folder and has moved away from it
        except BaseException:
            self.close()
            raise

    def _started(self, control: socket.socket) -> subprocess.Popen:
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        options = {
            "control": control.fileno(),
            "kind": self.jail.kind,
            "namespaces": self.jail.namespaces,
            "tree": self.scratch,
            "home": str(Path.home()),
        }
        # -s -P and a scrubbed environment are what -I means; -I itself would ignore PYTHONHASHSEED, and with
        # it the order in which a snippet prints a set would change from run to run.
        program = _PROGRAM_IN_BUBBLEWRAP if self.jail.kind == "bubblewrap" else str(JAIL)
        command = [python, "-s", "-P", "-B", "-X", "utf8", program, json.dumps(options)]
        environment = {
            "PATH": os.pathsep.join([os.path.dirname(python), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": self.scratch,
            "TMPDIR": self.scratch,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONSAFEPATH": "1",
            "PYTHONNOUSERSITE": "1",
        }
        # Elsewhere jail.py itself turns root into nobody; bwrap would leave it the owner of root's files.
        nobody = self.jail.kind == "bubblewrap" and os.getuid() == 0
        return subprocess.Popen(
            _wrap(self.jail, command, self.scratch, self.box_bytes),
            pass_fds=[control.fileno()],
            env=environment,
            cwd="/" if nobody else self.scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this program, which then closes the line
            user=NOBODY if nobody else None,
            group=NOBODY if nobody else None,
            extra_groups=[] if nobody else None,
        )

    @property
    def bwrap(self) -> subprocess.Popen | None:
        """The process of bwrap, which gives those below it numbers of their own, and serves one run."""
        return self.process if self.jail.kind == "bubblewrap" else None

    def close(self) -> None:
        self.control.close()
        if process := getattr(self, "process", None):
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        remove_tree(self.scratch)

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, request: dict, limits: Limits, cancelled: Callable[[], bool] = lambda: False) -> Result:
        """Run one request to its end. Raises OSError when it cannot be started."""
        folder = None
        if not self.jail.box_inside:
            os.makedirs(self.scratch, mode=0o711, exist_ok=True)  # something may have tidied the temporary folder
            folder = tempfile.mkdtemp(dir=self.scratch)
        if MACOS:
            request = {**request, "user_processes": processes.processes_of_user()}
        line, their_line = socket.socketpair()
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        try:
            try:
                if self.state["as_nobody"]:
                    for stream in (their_out, their_err):
                        os.fchown(stream, NOBODY, NOBODY)  # so that it may be opened again, as /dev/stderr
                with self.sending:
                    socket.send_fds(self.control, [b"r"], [their_out, their_err, their_line.fileno()])
            finally:
                their_line.close()
                os.close(their_out)
                os.close(their_err)
            message = json.dumps({**request, "folder": folder}).encode()
            line.settimeout(30)
            line.sendall(struct.pack(">Q", len(message)) + message)
            return Following(self.bwrap, line, (out, err), limits, folder, request["box_bytes"], cancelled).result()
        finally:
            line.close()
            os.close(out)
            os.close(err)
            if folder:
                remove_tree(folder)


# --- the jails that wrap the launcher --------------------------------------------------------------------------------


def _python_folders() -> list[str]:
    return sorted({os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)})


def _wrap(jail: Jail, command: list[str], scratch: str, box_bytes: int) -> list[str]:
    """The command line that starts `command` inside `jail`; what Linux itself offers is applied by jail.py."""
    if jail.kind == "bubblewrap":
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise FileNotFoundError("bwrap is not installed")
        return [bwrap, *_bubblewrap_options(box_bytes), *command]
    if jail.kind == "sandbox-exec":
        profile = macos.profile(scratch, str(JAIL), _python_folders(), strict=jail.strict)
        return ["/usr/bin/sandbox-exec", "-p", profile, *command]
    return command


#: Where the launcher's program is shown inside, whatever the name of the folder that it lies in.
_PROGRAM_IN_BUBBLEWRAP = "/launcher/mlxrlhf/sandbox/jail.py"


def _bubblewrap_options(box_bytes: int) -> list[str]:
    """The same tree as `namespaces.enter` builds. A bwrap that knows no --size (before 0.7) refuses these options."""
    options = ["--unshare-all", "--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in (*READABLE, *_python_folders()):
        options += ["--ro-bind-try", path, path]
    package = os.path.dirname(os.path.dirname(_PROGRAM_IN_BUBBLEWRAP))
    for name in ("__init__.py", "sandbox"):
        options += ["--ro-bind", str(JAIL.parent.with_name(name)), f"{package}/{name}"]
    for path in DEVICES:
        options += ["--dev-bind", path, path]
    options += ["--size", str(box_bytes), "--tmpfs", namespaces.BOX, "--symlink", namespaces.SHARED, "/dev/shm"]
    if not any(path.startswith("/tmp/") for path in _python_folders()):
        options += ["--symlink", namespaces.TEMPORARY, "/tmp"]
    return [*options, "--remount-ro", "/", "--chdir", namespaces.BOX]
