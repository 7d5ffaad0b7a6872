"""Run code that nobody has read: a forked interpreter, limits, and a jail of the operating system.

    result = run_python("print(6 * 7)")
    result.stdout, result.returncode          # "42\\n", 0

Every snippet gets a Python that has imported nothing but a few standard modules, a scrubbed environment, a folder of
its own as current, home and temporary folder, limits on wall and CPU time, memory, output, files and processes, and a
session of its own, all of which ends with it. Around it stands the best jail that the machine offers (`level()`), found
by trying; `describe()` says what that one leaves open, and docs/safety.md which attacks were tried on it.

- "landlock+namespaces" (Linux 5.13 and later): the snippet sees Python and the system's programs and libraries, a small
  file system in memory of its own, and nothing else of the machine: no other file, process or network. Landlock and a
  list of allowed system calls are second and third layer.
- "namespaces": the same where the kernel has no Landlock.
- "bubblewrap": the same by `bwrap`, where only that program may make namespaces. Each snippet starts its own.
- "landlock": where a container or AppArmor forbids namespaces. Files cannot be opened; the system call filter stands in
  for most of the rest.
- "sandbox-exec" (macOS): a deny-default profile. Memory, processes and disk use are polled.
- "none": everything else. `run_*` refuse, unless the caller passes `unsafe=True`.

Code that root starts runs as nobody at every level. What no level stops: a bug in the kernel that a jailed process can
reach; timing and other side channels; a snippet using its whole allowance; reading what every user may read in /usr,
installed programs included, and where Python is installed. This protects a personal machine from careless and curious
code; to run the code of someone who attacks you, use a virtual machine.

A launcher is started at first use and kept until the program ends: it forks a jailed child for each snippet, several at
a time, more than there are cores, since one that sleeps uses none.
"""

import atexit
import functools
import json
import os
import selectors
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import macos, namespaces, processes
from mlxrlhf.sandbox.jail import DEVICES, KEEPER, NOBODY, READABLE, RECORD

JAIL = Path(__file__).with_name("jail.py")
KILLED = -int(signal.SIGKILL)
LINUX, MACOS = sys.platform.startswith("linux"), sys.platform == "darwin"


@dataclass(frozen=True)
class Limits:
    """What one snippet may use, all its processes together.

    The kernel holds each process to the limits on CPU time and memory at once; that all together keep them is looked at
    a few times a second. Time in line for a core does not count as wall time where the system counts it (on macOS it is
    estimated), so that the load of the machine decides nothing.
    """

    wall_seconds: float = 5.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20  # address space of each process on Linux; resident size of all
    output_bytes: int = 64 << 10  # each for stdout and stderr; the snippet is ended at the limit
    file_bytes: int = 16 << 20  # the largest file; all files together may take four times this
    processes: int = 16  # threads count too on Linux

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise UserError(f"The sandbox limit {name} must be above 0, not {value}.")


@dataclass(frozen=True)
class Result:
    """How a snippet ended. `returncode` is negative for a signal, as in `subprocess`: -9 when it was ended."""

    stdout: str
    stderr: str
    returncode: int
    seconds: float  # wall time
    timed_out: bool  # ended at limits.wall_seconds
    truncated: bool  # ended at limits.output_bytes

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and with exit code 0."""
        return self.returncode == 0 and not self.timed_out and not self.truncated


def run_python(
    code: str,
    *,
    stdin: str = "",
    files: Mapping[str, str] = {},
    limits: Limits = Limits(),
    unsafe: bool = False,
) -> Result:
    """Run Python source in the sandbox.

    `files` maps relative paths to text and is laid out in the snippet's folder; the code itself is there as
    `main.py`. Raises UserError when this machine has no jail and `unsafe` is not set; never because of what
    the code does.
    """
    return _run(_jail(unsafe), _request(code=code, stdin=stdin, files=files, limits=limits), limits)


def run_bash(
    command: str,
    *,
    stdin: str = "",
    files: Mapping[str, str] = {},
    limits: Limits = Limits(),
    unsafe: bool = False,
) -> Result:
    """Run a shell command in the sandbox; arguments and errors as for `run_python`."""
    return _run(_jail(unsafe), _request(argv=_bash(command), stdin=stdin, files=files, limits=limits), limits)


def run_many(
    codes: Sequence[str],
    *,
    limits: Limits = Limits(),
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Result]:
    """Run many Python snippets, each alone in its own jail, and return their results in order.

    workers: how many run at once (default: four for each core, 16 to 32). Those that sleep or wait then hold up
    nobody; those that compute share the cores, and what they wait for one does not count as wall time. Raises UserError
    as `run_python` does.
    """
    requests = [_request(code=code, limits=limits) for code in codes]
    return _run_requests(requests, limits=limits, workers=workers, unsafe=unsafe)


def run_many_bash(
    commands: Sequence[str],
    *,
    limits: Limits = Limits(),
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Result]:
    """The same as `run_many` for shell commands."""
    requests = [_request(argv=_bash(command), limits=limits) for command in commands]
    return _run_requests(requests, limits=limits, workers=workers, unsafe=unsafe)


# --- which jail ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Jail:
    level: str
    kind: str  # what jail.py is told: landlock, bubblewrap, sandbox-exec, none
    namespaces: bool = False
    strict: bool = True  # macOS: the narrow profile

    @property
    def box_inside(self) -> bool:
        """Whether the snippet's folder exists only inside, in a file system that ends with it."""
        return self.namespaces or self.kind == "bubblewrap"


@dataclass
class _Found:
    """The jail to use, what its launcher said of itself, and why stronger ones were passed over."""

    jail: _Jail | None = None
    state: dict = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def _candidates() -> list[_Jail]:
    """The jails of this system, strongest first."""
    if MACOS:
        return [_Jail("sandbox-exec", "sandbox-exec"), _Jail("sandbox-exec", "sandbox-exec", strict=False)]
    if LINUX:
        return [
            _Jail("landlock+namespaces", "landlock", namespaces=True),
            _Jail("bubblewrap", "bubblewrap"),
            _Jail("landlock", "landlock"),
        ]
    return []


#: Reads a module that is not loaded yet, starts a program and ends it: what every jail must allow.
_TRIAL = """
import decimal, subprocess
child = subprocess.Popen(["/bin/sh", "-c", "echo started; sleep 9"], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "started\\n"
child.terminate()
"""


@functools.cache
def _find_jail() -> _Found:
    """The strongest jail that really starts here, found by starting it."""
    found = _Found()
    for jail in _candidates():
        try:
            found.state = _tried(jail)
        except (OSError, ValueError) as error:
            found.refused.append(f"{jail.level} ({error})")
            continue
        # With a tree of its own Landlock is only the second layer.
        found.jail = jail if found.state["landlock"] or not jail.namespaces else replace(jail, level="namespaces")
        break
    return found


def _tried(jail: _Jail) -> dict:
    """What the launcher of a jail says of itself. Raises OSError when the jail lacks a part or runs nothing."""
    limits = Limits()
    request = _request(code=_TRIAL, limits=limits)
    with _Launcher(jail, request["box_bytes"]) as launcher:
        state = launcher.state
        if jail.namespaces and not state["namespaces"]:
            raise OSError(state["error"])
        if jail.kind in ("landlock", "bubblewrap") and not state["filter"]:
            raise OSError("no system call filter for this kernel and processor")
        if jail.kind == "landlock" and not jail.namespaces and not state["landlock"]:
            raise OSError("the kernel has no Landlock")
        result = launcher.run(request, limits)
    if not result.ok:
        raise OSError(result.stderr.strip()[-200:] or "it runs nothing")
    return state


def _best_jail() -> _Jail | None:
    return _find_jail().jail


def _jail(unsafe: bool) -> _Jail:
    jail = _best_jail()
    if jail is None and not unsafe:
        raise UserError(
            "This machine has no sandbox for model-written code (Landlock, bubblewrap or sandbox-exec); "
            "pass --unsafe-exec to run it with limits on time and memory alone."
        )
    return jail or _Jail("none", "none")


def level() -> str:
    """The jail in use: landlock+namespaces, namespaces, bubblewrap, landlock, sandbox-exec or none."""
    jail = _best_jail()
    return "none" if jail is None else jail.level


def describe() -> str:
    """`level()`, what it leaves open, and why no stronger one is used."""
    found, name = _find_jail(), level()
    open_here = [_LEFT_OPEN[name]]
    if name == "landlock":
        version = found.state.get("landlock", 0)
        open_here += [text for before, text in _UNTIL_LANDLOCK.items() if version < before]
    if name == "sandbox-exec" and found.jail and not found.jail.strict:
        open_here.append(_LOOSE_PROFILE)
    if name in ("landlock", "none"):
        open_here += [f"not used here: {reason}" for reason in found.refused]
    return f"{name}: " + "; ".join(open_here)


_ALWAYS_OPEN = "does not stop a kernel exploit, side channels, or reading what all users may read in /usr"
_LEFT_OPEN = {
    "landlock+namespaces": _ALWAYS_OPEN,
    "namespaces": _ALWAYS_OPEN,
    "bubblewrap": f"{_ALWAYS_OPEN}; how many files a snippet makes in memory is limited by its time alone",
    "landlock": f"{_ALWAYS_OPEN}; names, sizes and times of files can be asked for, but no file opened; process "
    "numbers and the host name are the machine's; modes, owners and times of files cannot be changed, the snippet's "
    "own included (such calls do nothing); disk use is polled",
    "sandbox-exec": "does not stop a kernel exploit, side channels, or reading what all users may read in /usr and "
    "/System, the host's name and which process numbers are in use; memory, processes and disk use are polled, so "
    "their limits can be exceeded for a tenth of a second, and a child that detaches itself within that time can "
    "outlive its parent, still jailed",
    "none": "nothing keeps code from your files and the network; only time, memory and output are limited",
}
#: What the kernel's Landlock cannot do before a version, and what the system call filter does instead.
_UNTIL_LANDLOCK = {
    3: "files cannot be emptied, but nor can the snippet's own by name (Linux before 6.2)",
    6: "no signals to other processes, the snippet's own children included (Linux before 6.12)",
}
_LOOSE_PROFILE = (
    "the narrow profile does not work here, so names, sizes and times of files and the machine's properties can be "
    "read, and a snippet can end others that run at the same time"
)


# --- running -------------------------------------------------------------------------------------------


def _request(
    *,
    code: str = "",
    argv: Sequence[str] = (),
    stdin: str = "",
    files: Mapping[str, str] | None = None,
    limits: Limits,
) -> dict:
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


def _bash(command: str) -> list[str]:
    shell = shutil.which("bash") or "/bin/sh"
    if not any(shell.startswith(f"{folder}/") for folder in READABLE):
        shell = os.path.realpath(shell)  # the link itself is not shown inside
    return [shell, "-c", command]


def _run_requests(requests: list[dict], *, limits: Limits, workers: int | None, unsafe: bool) -> list[Result]:
    if workers is not None and workers < 1:
        raise UserError(f"The sandbox needs at least 1 worker, not {workers}.")
    jail = _jail(unsafe)
    results: dict[int, Result] = {}
    waiting = iter(enumerate(requests))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not failures:
                with lock:
                    index, request = next(waiting, (-1, {}))
                if index < 0:
                    return
                results[index] = _run(jail, request, limits, lambda: bool(failures))
        except BaseException as error:
            failures.append(error)

    count = min(workers or min(32, max(16, 4 * (os.cpu_count() or 1))), len(requests))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C: the workers end their snippets and leave
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(requests))]


def _run(jail: _Jail, request: dict, limits: Limits, cancelled: Callable[[], bool] = lambda: False) -> Result:
    """Run one request to its end. Raises UserError when the machine cannot start it, twice."""
    for _ in range(2):
        try:
            if jail.kind == "bubblewrap":  # its folder is the launcher's, so each snippet needs its own
                with _Launcher(jail, request["box_bytes"]) as launcher:
                    return launcher.run(request, limits, cancelled)
            return _running(jail).run(request, limits, cancelled)
        except OSError as failure:
            error = failure
    raise UserError(f"The sandbox cannot start a process ({error}); free some memory or end some processes.")


_launchers: dict[_Jail, "_Launcher"] = {}
_starting = threading.Lock()


def _forget_launchers() -> None:
    """In a forked child: it starts its own, and does not hold its parent's alive."""
    global _launchers, _starting
    for launcher in _launchers.values():
        launcher.control.close()
    _launchers, _starting = {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_launchers)


def _running(jail: _Jail) -> "_Launcher":
    """The launcher of this jail, started when there is none or it has ended."""
    with _starting:
        launcher = _launchers.get(jail)
        if launcher is None or launcher.process.poll() is not None:
            if launcher:
                launcher.close()
            _launchers[jail] = _Launcher(jail)
        return _launchers[jail]


@atexit.register
def _close_launchers() -> None:
    for launcher in list(_launchers.values()):
        launcher.close()


class _Launcher:
    """A running jail.py. Any number of threads may use it at once."""

    def __init__(self, jail: _Jail, box_bytes: int = 0):
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

    def close(self) -> None:
        self.control.close()
        if process := getattr(self, "process", None):
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        remove_tree(self.scratch)

    def __enter__(self) -> "_Launcher":
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
            return _Following(self, line, (out, err), limits, folder, request["box_bytes"], cancelled).result()
        finally:
            line.close()
            os.close(out)
            os.close(err)
            if folder:
                remove_tree(folder)


class _Following:
    """The run of one request, seen from outside: collects its output and ends it at a limit."""

    #: Seconds between two looks at what its processes use; on macOS these looks are the only limit on some of it.
    LOOK_EVERY = 0.1 if MACOS else 0.2
    #: A snippet that never gets a core is ended nevertheless, at this multiple of its wall time.
    PATIENCE = 20

    def __init__(
        self,
        launcher: _Launcher,
        line: socket.socket,
        streams: tuple[int, int],
        limits: Limits,
        folder: str | None,
        box_bytes: int,
        cancelled: Callable[[], bool],
    ):
        self.launcher, self.line, self.limits, self.cancelled = launcher, line, limits, cancelled
        self.folder, self.box_bytes = folder, box_bytes
        self.text = {stream: bytearray() for stream in streams}
        self.records = bytearray()
        self.keeper, self.line_closed = 0, False
        self.status: int | None = None
        self.timed_out = self.truncated = self.ending = False
        self.started = self.clock_started = time.monotonic()
        self.deadline = self.started + 30  # until the keeper is there
        self.next_look = self.started + self.LOOK_EVERY
        self.remembered: processes.Remembered | None = None

    def result(self) -> Result:
        """Follow it to its end. Raises OSError when it was never started."""
        with selectors.DefaultSelector() as selector:
            for stream in self.text:
                os.set_blocking(stream, False)
                selector.register(stream, selectors.EVENT_READ)
            selector.register(self.line, selectors.EVENT_READ)
            while self.status is None and not self.line_closed:
                until = min(self.deadline, self.next_look) - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(max(0.0, until))]
                for stream in self.text:
                    if stream in ready and not self._read(stream):
                        selector.unregister(stream)
                if self.line in ready:
                    self._read_records()
                elif not self.ending and (self._printed_too_much() or self._look() or self._time_is_up()):
                    self._end()
                elif self.ending and time.monotonic() >= self.deadline:
                    self._force_end()
        if self.remembered:
            self.remembered.end()
        if not self.keeper:
            raise OSError("the sandbox's launcher did not start it")
        # What was written before the end is still in the pipes.
        for stream in self.text:
            while len(self.text[stream]) <= self.limits.output_bytes and self._read(stream):
                pass
        self.truncated = self._printed_too_much()
        out, err = (bytes(data[: self.limits.output_bytes]).decode(errors="replace") for data in self.text.values())
        return Result(
            stdout=out,
            stderr=err,
            returncode=KILLED if self.status is None else self.status,
            seconds=time.monotonic() - self.started,
            timed_out=self.timed_out,
            truncated=self.truncated,
        )

    def _read(self, stream: int) -> int:
        """Read what is there; how much it was."""
        try:
            piece = os.read(stream, 1 << 16)
        except BlockingIOError:
            return 0  # a process that was left behind may hold it open: it is not waited for
        self.text[stream] += piece
        return len(piece)

    def _read_records(self) -> None:
        try:
            piece = self.line.recv(4096)
        except ConnectionError:  # the keeper was ended from outside
            piece = b""
        self.line_closed = not piece
        self.records += piece
        while len(self.records) >= RECORD.size:
            kind, number = RECORD.unpack(self.records[: RECORD.size])
            del self.records[: RECORD.size]
            if kind == KEEPER:
                self.keeper = number
                self.clock_started = time.monotonic()
                self.deadline = self.clock_started + self.limits.wall_seconds
                if MACOS:
                    self.remembered = processes.Remembered(number)
            else:
                self.status = number

    def _printed_too_much(self) -> bool:
        return any(len(data) > self.limits.output_bytes for data in self.text.values())

    @property
    def _top(self) -> int:
        """The process below which everything of this snippet is."""
        # bwrap gives its processes numbers of their own.
        return self.launcher.process.pid if self.launcher.jail.kind == "bubblewrap" else self.keeper

    def _look(self) -> bool:
        """Now and then: whether its processes use more than they may together, or nobody waits for it any more."""
        now = time.monotonic()
        if now < self.next_look or not self.keeper:
            return False
        self.next_look = now + self.LOOK_EVERY
        if self.cancelled():
            return True
        if self.remembered:
            self.remembered.look()
        limits, used = self.limits, processes.usage(self._top, now - self.clock_started)
        ours = 3 if self.launcher.jail.kind == "bubblewrap" else 0  # bwrap, launcher, keeper
        if used.processes > limits.processes + ours or used.cpu_seconds > limits.cpu_seconds + 0.5:
            return True
        if used.memory_bytes > limits.memory_bytes:
            exact = None if MACOS else processes.shared_memory_counted_once(self._top)
            if (exact or used.memory_bytes) > limits.memory_bytes:
                return True
        return self.folder is not None and folder_exceeds(self.folder, self.box_bytes)

    def _time_is_up(self) -> bool:
        """Whether its wall time is over, without the time that it stood in line for a core."""
        now = time.monotonic()
        if now < self.deadline:
            return False
        if not self.keeper:
            return True
        wall = self.limits.wall_seconds
        waited = processes.usage(self._top, now - self.clock_started).waited_seconds
        later = self.clock_started + wall + min(waited, wall * (self.PATIENCE - 1))
        if later > now + 0.01:
            self.deadline = later
            return False
        self.timed_out = True
        return True

    def _end(self) -> None:
        """Ask the keeper to end it, by closing the line."""
        self.ending, self.deadline = True, time.monotonic() + 5.0
        self.next_look = self.deadline
        self.line.shutdown(socket.SHUT_WR)

    def _force_end(self) -> None:
        """The keeper does not answer: end it, and with it all below it."""
        if self.launcher.jail.kind == "bubblewrap" or not self.keeper:
            self.launcher.process.kill()
        else:
            try:
                os.kill(self.keeper, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.line_closed = True


# --- folders -------------------------------------------------------------------------------------------


def folder_exceeds(folder: str, limit: int, entries: int = 4096) -> bool:
    """Whether what is below takes more than `limit` bytes on disk or has more than so many entries."""
    size, count, queue = 0, 0, [folder]
    while queue:
        try:
            with os.scandir(queue.pop()) as found:
                for entry in found:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    count += 1
                    if size > limit or count > entries:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except OSError:
            continue  # it changed meanwhile, was closed to us, or lies too deep to have a path
    return False


def remove_tree(folder: str) -> None:
    """Remove a folder that a snippet filled, however deep and whatever its modes; nothing is followed out of it."""
    try:
        os.chmod(folder, 0o700)
        here = os.open(folder, _FOLDER)
        try:
            waiting = [_emptied_of_files(here)]  # folders still to remove, level by level
            names: list[str] = []
            while names or waiting[-1]:
                if waiting[-1]:
                    names.append(waiting[-1].pop())
                    os.chmod(names[-1], 0o700, dir_fd=here)
                    here = _moved(here, names[-1])
                    waiting.append(_emptied_of_files(here))
                else:
                    waiting.pop()
                    here = _moved(here, "..")
                    os.rmdir(names.pop(), dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(folder)
    except OSError:
        pass  # it is in the temporary folder, which the system tidies


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _moved(here: int, name: str) -> int:
    """The folder `name` of the open folder `here`, opened in its place."""
    there = os.open(name, _FOLDER, dir_fd=here)
    os.close(here)
    return there


def _emptied_of_files(here: int) -> list[str]:
    """Delete what is no folder in the open folder `here`; the names of its folders."""
    folders = []
    for name in os.listdir(here):
        if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=here)
    return folders


# --- the jails that wrap the launcher ------------------------------------------------------------------


def _python_folders() -> list[str]:
    return sorted({os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)})


def _wrap(jail: _Jail, command: list[str], scratch: str, box_bytes: int) -> list[str]:
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
