"""Run code that nobody has read: fresh interpreter, limits, and a jail of the operating system.

    result = run_python("print(6 * 7)")
    result.stdout, result.returncode          # "42\\n", 0

Every snippet gets a Python that has imported nothing but a few standard modules, a scrubbed environment, a
folder of its own as current, home and temporary folder, limits on wall and CPU time, memory, output, files
and processes, and a session of its own, all of which ends with it. Around it stands the best jail that the
machine offers (`level()`):

- "landlock+namespaces" (Linux 5.13 and later): the snippet reads Python and the system's programs, writes only to its
  folder (a small file system in memory), sees no process of yours and has no network at all. Code started by
  root runs as nobody.
- "landlock": the same where a container or AppArmor forbids user namespaces. Sockets are refused by a
  system call filter; your other processes are visible to a snippet that guesses their numbers.
- "bubblewrap": where the kernel has no Landlock and `bwrap` works.
- "sandbox-exec" (macOS): a deny-default profile; memory and processes are polled, so a snippet can exceed
  its limit for about a tenth of a second, and a child that detaches itself within that time may outlive its
  parent, still jailed and still without network.
- "none": everything else. `run_*` refuse, unless the caller passes `unsafe=True`.

What none of them stops: a bug in the kernel that a jailed process can reach; timing and other side channels;
a snippet using its whole allowance (`processes` times `memory_bytes`, both cores until the time is up);
reading what every user may read in /usr, installed programs included. Snippets run one after
another in a launcher share nothing but the launcher's read-only state. This protects a personal machine from
careless and curious code; to run the code of someone who attacks you, use a virtual machine.
"""

import functools
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from mlxrlhf.errors import UserError

JAIL = Path(__file__).with_name("jail.py")
KILLED = -int(signal.SIGKILL)


@dataclass(frozen=True)
class Limits:
    """What one snippet may use. Memory, CPU time and file size count per process, the rest for all of it."""

    wall_seconds: float = 5.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20  # address space on Linux, resident size on macOS
    output_bytes: int = 64 << 10  # each for stdout and stderr; the snippet is ended at the limit
    file_bytes: int = 16 << 20  # the largest file; on Linux all files together may take four times this
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
    with _Launcher(_jail(unsafe), limits) as launcher:
        return launcher.run(_request(code=code, stdin=stdin, files=files, limits=limits), limits)


def run_bash(
    command: str,
    *,
    stdin: str = "",
    files: Mapping[str, str] = {},
    limits: Limits = Limits(),
    unsafe: bool = False,
) -> Result:
    """Run a shell command in the sandbox; arguments and errors as for `run_python`."""
    with _Launcher(_jail(unsafe), limits) as launcher:
        return launcher.run(_request(argv=_bash(command), stdin=stdin, files=files, limits=limits), limits)


def run_many(
    codes: Sequence[str],
    *,
    limits: Limits = Limits(),
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Result]:
    """Run many Python snippets, each alone in its own jail, and return their results in order.

    An interpreter is started per worker (default: one per core) and forked per snippet, which makes a snippet
    an order of magnitude cheaper than `run_python`. Raises UserError as `run_python` does.
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


def level() -> str:
    """The jail in use: landlock+namespaces, landlock, bubblewrap, sandbox-exec or none."""
    jail = _best_jail()
    return "none" if jail is None else jail.level


def describe() -> str:
    """`level()` and, in a sentence, what it does not stop."""
    return f"{level()}: {_SHORTCOMINGS[level()]}"


_SHORTCOMINGS = {
    "landlock+namespaces": "does not stop a kernel exploit, side channels, or reading what all users may read in /usr",
    "landlock": "no user namespaces here, so it also does not stop changing the mode or times of your own "
    "files, or signals to your own processes before Linux 6.12",
    "bubblewrap": "does not stop a kernel exploit, side channels, or reading what all users may read in /usr",
    "sandbox-exec": "memory and processes are polled, so their limits can be exceeded for a tenth of a second "
    "and a child that detaches itself quickly can outlive its parent, still jailed",
    "none": "nothing keeps code from your files and the network; only time, memory and output are limited",
}


# --- which jail ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Jail:
    level: str
    kind: str  # what jail.py is told: landlock, bubblewrap, sandbox-exec, none
    namespaces: bool = False


@functools.cache
def _best_jail() -> _Jail | None:
    """The strongest jail that really starts here, found by starting it."""
    if sys.platform == "darwin":
        candidates = [_Jail("sandbox-exec", "sandbox-exec")]
    elif sys.platform.startswith("linux"):
        candidates = [
            _Jail("landlock+namespaces", "landlock", namespaces=True),
            _Jail("landlock", "landlock"),
            _Jail("bubblewrap", "bubblewrap"),
        ]
    else:
        candidates = []
    for jail in candidates:
        try:
            with _Launcher(jail, Limits()) as launcher:
                state = launcher.state
                network = jail.namespaces or state["filter"]
                as_asked = state["landlock"] and state["namespaces"] == jail.namespaces and network
                if jail.kind == "landlock" and not as_asked:
                    continue
                if launcher.run(_request(code="print(1)", limits=Limits()), Limits()).ok:
                    return jail
        except (OSError, ValueError):
            continue
    return None


def _jail(unsafe: bool) -> _Jail:
    jail = _best_jail()
    if jail is None and not unsafe:
        raise UserError(
            "This machine has no sandbox for model-written code (Landlock, bubblewrap or sandbox-exec); "
            "pass --unsafe-exec to run it with limits on time and memory alone."
        )
    return jail or _Jail("none", "none")


# --- running -------------------------------------------------------------------------------------------


def _request(*, code="", argv=(), stdin="", files=None, limits: Limits) -> dict:
    files = dict(files or {})
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UserError(f"A sandbox file needs a relative path inside the snippet's folder, not {name!r}.")
    if not argv:
        files["main.py"] = code  # so that tracebacks can quote the line
    return {"code": code, "argv": list(argv), "stdin": stdin, "files": files, "limits": asdict(limits)}


def _bash(command: str) -> list[str]:
    return [shutil.which("bash") or "/bin/sh", "-c", command]


def _run_requests(requests: list[dict], *, limits: Limits, workers: int | None, unsafe: bool) -> list[Result]:
    if workers is not None and workers < 1:
        raise UserError(f"The sandbox needs at least 1 worker, not {workers}.")
    jail = _jail(unsafe)
    results: list[Result | None] = [None] * len(requests)
    waiting = iter(enumerate(requests))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work():
        try:
            with _Launcher(jail, limits) as launcher:
                while not failures:
                    with lock:
                        index, request = next(waiting, (None, None))
                    if index is None:
                        return
                    results[index] = launcher.run(request, limits)
        except BaseException as error:
            failures.append(error)

    count = min(workers or os.cpu_count() or 1, len(requests))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C: let the workers end their snippet and leave
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    return results


class _Launcher:
    """A running jail.py. One thread may use it, for one snippet at a time."""

    def __init__(self, jail: _Jail, limits: Limits):
        self.jail, self.limits = jail, limits
        self._start()

    def _start(self) -> None:
        self.scratch = os.path.realpath(tempfile.mkdtemp(prefix="mlxrlhf-"))
        ours, theirs = socket.socketpair()
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        options = {
            "control": theirs.fileno(),
            "jail": self.jail.kind,
            "namespaces": self.jail.namespaces,
            "scratch": self.scratch,
            "scratch_bytes": 4 * self.limits.file_bytes,
            "home": str(Path.home()),
            "user_processes": _user_processes() if sys.platform == "darwin" else 0,
        }
        # -s -P and a scrubbed environment are what -I means; -I itself would ignore PYTHONHASHSEED, and with
        # it the order in which a snippet prints a set would change from run to run.
        command = [python, "-s", "-P", "-B", "-X", "utf8", str(JAIL), json.dumps(options)]
        environment = {
            "PATH": os.pathsep.join([os.path.dirname(python), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": self.scratch,
            "TMPDIR": self.scratch,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONSAFEPATH": "1",
            "PYTHONNOUSERSITE": "1",
        }
        self.process = None
        self.control = ours
        try:
            self.process = subprocess.Popen(
                _wrap(self.jail, command, self.scratch),
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=self.scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this program, which then closes the line
            )
            theirs.close()
            ours.settimeout(30)
            answer = ours.recv(4096)
            if not answer:
                raise OSError(f"the sandbox's launcher ended at once under {self.jail.level}")
            self.state = json.loads(answer)
        except BaseException:
            theirs.close()
            self.close()
            raise

    def close(self) -> None:
        self.control.close()
        if self.process:
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def run(self, request: dict, limits: Limits) -> Result:
        """Run one request to its end."""
        if self.process.poll() is not None:
            self.close()
            self._start()
        line, their_line = socket.socketpair()
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        try:
            try:
                socket.send_fds(self.control, [b"r"], [their_out, their_err, their_line.fileno()])
            finally:
                their_line.close()
                os.close(their_out)
                os.close(their_err)
            message = json.dumps(request).encode()
            line.settimeout(30)
            line.sendall(struct.pack(">Q", len(message)) + message)
            return self._follow(line, out, err, limits)
        finally:
            line.close()
            os.close(out)
            os.close(err)

    def _follow(self, line: socket.socket, out: int, err: int, limits: Limits) -> Result:
        """Collect the output until the warden reports the end, and call for the end at a limit."""
        started = time.monotonic()
        deadline = started + limits.wall_seconds
        text = {out: bytearray(), err: bytearray()}
        report, timed_out, truncated, ending = b"", False, False, False
        with selectors.DefaultSelector() as selector:
            for fd in (out, err):
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            selector.register(line, selectors.EVENT_READ)
            while True:
                patience = deadline - time.monotonic()
                if sys.platform == "darwin" and not ending:
                    patience = min(patience, 0.1)
                ready = [key.fileobj for key, _ in selector.select(max(0.0, patience))]
                for fd in (out, err):
                    if fd in ready:
                        piece = os.read(fd, 1 << 16)
                        text[fd] += piece
                        if not piece:
                            selector.unregister(fd)
                end = False
                if any(len(data) > limits.output_bytes for data in text.values()) and not ending:
                    truncated = end = True
                elif line in ready:
                    piece = line.recv(4096)
                    report += piece
                    if not piece or report.endswith(b"}"):
                        break
                elif time.monotonic() >= deadline:
                    if ending:  # the warden does not answer: end the launcher, and so everything below it
                        self.process.kill()
                        self.process.wait()
                        break
                    timed_out = end = True
                elif sys.platform == "darwin" and not ending and not ready:
                    end = _over_the_limit_on_macos(self.process.pid, limits)
                if end:
                    ending, deadline = True, time.monotonic() + 5.0
                    line.shutdown(socket.SHUT_WR)
            # What was written before the end is still in the pipes.
            for fd in (out, err):
                try:
                    while len(text[fd]) <= limits.output_bytes and (piece := os.read(fd, 1 << 16)):
                        text[fd] += piece
                except BlockingIOError:
                    pass  # a process outside any namespace still holds it; it is not waited for
                truncated = truncated or len(text[fd]) > limits.output_bytes
        return Result(
            stdout=text[out][: limits.output_bytes].decode(errors="replace"),
            stderr=text[err][: limits.output_bytes].decode(errors="replace"),
            returncode=json.loads(report)["returncode"] if report else KILLED,
            seconds=time.monotonic() - started,
            timed_out=timed_out,
            truncated=truncated,
        )


# --- the jails that wrap the launcher ------------------------------------------------------------------


def _python_folders() -> list[str]:
    return sorted({os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)})


def _wrap(jail: _Jail, command: list[str], scratch: str) -> list[str]:
    """The command line that starts `command` inside `jail`; Landlock's is applied by jail.py itself."""
    if jail.kind == "bubblewrap":
        return ["bwrap", *_bubblewrap_options(scratch), *command]
    if jail.kind == "sandbox-exec":
        return ["/usr/bin/sandbox-exec", "-p", _macos_profile(scratch), *command]
    return command


def _bubblewrap_options(scratch: str) -> list[str]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/etc/alternatives"):
        options += ["--ro-bind-try", folder, folder]
    for path in ("/etc/ld.so.cache", "/etc/localtime", *_python_folders(), str(JAIL)):
        options += ["--ro-bind-try", path, path]
    return [*options, "--bind", scratch, scratch, "--chdir", scratch]


def _macos_profile(scratch: str) -> str:
    """A deny-default profile: read the system and Python, write `scratch`, no network."""

    def quoted(path: str) -> str:
        return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'

    readable = ["/usr", "/bin", "/sbin", "/System", "/Library/Apple", "/Library/Developer", "/private/var/db/dyld"]
    folders = " ".join(f"(subpath {quoted(path)})" for path in [*readable, *_python_folders(), scratch])
    libraries = ["/opt/homebrew/opt", "/opt/homebrew/Cellar", "/usr/local/opt", "/usr/local/Cellar"]
    folders += " " + " ".join(f"(subpath {quoted(path)})" for path in libraries)
    return f"""(version 1)
(deny default)
(allow process-fork)
(allow process-exec)
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (literal "/") (literal {quoted(str(JAIL))}) (literal "/private/etc/localtime") {folders})
(allow file-read* file-write-data (literal "/dev/null") (literal "/dev/zero"))
(allow file-read* (literal "/dev/random") (literal "/dev/urandom"))
(allow file-write* (subpath {quoted(scratch)}))
"""


def _ps(*columns: str) -> list[list[int]]:
    """Those numbers of every process, by macOS's `ps`."""
    command = ["/bin/ps", "-axo", ",".join(f"{column}=" for column in columns)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [[int(word) for word in line.split()] for line in lines]


def _user_processes() -> int:
    return sum(uid == os.getuid() for (uid,) in _ps("uid"))


def _over_the_limit_on_macos(launcher: int, limits: Limits) -> bool:
    """Whether the launcher's descendants use more memory or processes than one snippet may."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid, parent, kib in _ps("pid", "ppid", "rss"):
        children.setdefault(parent, []).append((pid, kib << 10))
    found, queue = [], [launcher]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [pid for pid, _ in below]
    # The warden and init, below the launcher, are ours.
    return any(size > limits.memory_bytes for _, size in found) or len(found) > limits.processes + 2
