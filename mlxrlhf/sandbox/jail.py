"""The program that runs inside the sandbox: it jails itself, then forks a keeper for each snippet.

`runner.py` starts it as `python jail.py OPTIONS` and is the only caller. It uses the standard library and, on Linux,
the files beside it; a snippet finds none of them.

    runner.py ──control socket──> launcher     namespaces and a read-only tree of its own, made once
                                     │ fork
                   ┌──line socket── keeper     one for each snippet: ends it when the line closes, reports its end.
                   │                 │ fork    With namespaces it is process 1 of a new one: when it ends, all in it die
              one snippet         snippet      limits, no privileges, Landlock, system call filter; then the code

The launcher only ever receives file descriptors, and it serves several snippets at once. Code arrives at the keeper by
the snippet's own line and output goes from the snippet to `runner.py` by its own pipes, so no snippet finds another
one's code or result in the memory it was forked from.
"""

import atexit
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import types
from dataclasses import dataclass, field
from typing import NoReturn

LINUX = sys.platform.startswith("linux")
if LINUX:
    if __name__ == "__main__":
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from mlxrlhf.sandbox import kernel, landlock, namespaces, processes, seccomp

    if __name__ == "__main__":
        del sys.path[0]

#: What a snippet may read. With namespaces nothing else is there.
READABLE = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
]
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
NOBODY = 65534
#: Records on a line, each of one letter and a number: the keeper's process number, how the snippet ended.
RECORD, KEEPER, ENDED = struct.Struct("=ci"), b"k", b"e"


READABLE_HERE: list[str] = []
#: Made once where it is the same for all snippets.
CALL_FILTER = b""


@dataclass
class Jail:
    """What the launcher was asked for, and which parts of it work here. Sent to `runner.py` as JSON."""

    kind: str  # landlock, bubblewrap, sandbox-exec, none
    namespaces: bool
    landlock: int = 0  # version of the interface, 0: not in use
    filter: bool = False
    as_nobody: bool = False  # whether root started this: a snippet then becomes nobody
    error: str = ""
    others: int = 0  # with namespaces: how many processes count besides a snippet's own
    home: str = field(default="", repr=False)

    @property
    def contained(self) -> bool:
        """Whether the snippet's mounts and process numbers are its own."""
        return self.namespaces or self.kind == "bubblewrap"


def readable() -> list[str]:
    """What a snippet may read: the system's programs, and Python without a folder that holds the user's home."""
    home = os.path.realpath(JAIL.home)
    folders = sorted({os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)})
    if any(os.path.commonpath([home, folder]) == folder for folder in folders):
        folders = [os.path.dirname(os.path.realpath(os.__file__)), os.path.realpath(sys.executable)]
    return READABLE + folders


def call_filter(own_number: int = 0) -> bytes:
    """The system call filter of this jail for a snippet of this process number."""
    rules = seccomp.rules(contained=JAIL.contained, landlock=JAIL.landlock)
    return seccomp.encoded(seccomp.program(os.uname().machine, rules, own_number))


# --- the snippet: limits and jail, just before its code ----------------------------------------------------------


def set_limits(limits: dict, others: int) -> None:
    """Apply the rlimits; `others` is how many processes count besides the snippet's own."""
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 128,  # each socket holds memory of the kernel, which no other limit counts
        resource.RLIMIT_NPROC: limits["processes"] + others,
    }
    if LINUX:  # macOS accepts RLIMIT_AS and ignores it
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def become_nobody() -> None:
    """Give up root, where there is no user namespace to do so, and every capability. Raises OSError."""
    keep = 0
    if JAIL.as_nobody:
        if LINUX:
            kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setregid(NOBODY, NOBODY)
        os.setreuid(NOBODY, NOBODY)
        # A Python below root's closed home stays readable by this capability; Landlock still decides.
        if LINUX and not os.access(os.__file__, os.R_OK):
            keep = 1 << kernel.CAP_DAC_READ_SEARCH
    if LINUX:
        kernel.drop_capabilities(keep)
        if keep:
            kernel.prctl(kernel.PR_CAP_AMBIENT, 2, kernel.CAP_DAC_READ_SEARCH)


def enter_jail(folder: str, limits: dict, others: int) -> None:
    """Everything that holds a snippet, applied to this process. Raises OSError when a part of it fails."""
    if JAIL.namespaces:
        namespaces.leave_privileges()
    else:
        become_nobody()
    set_limits(limits, others)
    if JAIL.landlock:
        box = namespaces.BOX if JAIL.namespaces else folder
        # Nothing of /proc is readable; descriptors by their names there (/dev/fd, /dev/stdin) are no files and work.
        landlock.apply(JAIL.landlock, readable=READABLE_HERE, writable=box, devices=DEVICES)
    if JAIL.filter:
        seccomp.install(CALL_FILTER or call_filter(os.getpid()))


def run_snippet(request: dict, folder: str, fds: list[int], others: int) -> NoReturn:
    """Become the snippet."""
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    os.closerange(3, 1 << 16)
    os.chdir(folder)
    os.umask(0o077)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.update(HOME=folder, TMPDIR=namespaces.TEMPORARY if JAIL.contained else folder)
    enter_jail(folder, request["limits"], others)

    if request["argv"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as a shell's programs expect
        os.execv(request["argv"][0], request["argv"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlxrlhf"]:
        del sys.modules[name]
    main = types.ModuleType("__main__")
    main.__file__ = "main.py"
    sys.modules["__main__"] = main
    sys.argv = sys.orig_argv = ["main.py"]
    status = 0
    try:
        exec(compile(request["code"], "main.py", "exec", dont_inherit=True), main.__dict__)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if status and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        status = 1
        # The frame of this file is not the snippet's.
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    # What a normal end does, without the milliseconds of tearing the interpreter down.
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = status or 1
    os._exit(status & 0xFF)


# --- the keeper: one for each snippet ----------------------------------------------------------------------------


def keep(fds: list[int]) -> NoReturn:
    """Run one snippet, end it when the line closes, report how it ended."""
    *streams, line_fd = fds
    line = socket.socket(fileno=line_fd)
    request = receive(line)
    folder, others = prepare(request)
    standard_input = os.path.join(folder, ".stdin")
    write_file(standard_input, request["stdin"])
    streams = [os.open(standard_input, os.O_RDONLY), *streams]
    os.unlink(standard_input)
    for name, text in request["files"].items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, text)
    if JAIL.as_nobody and not JAIL.namespaces:
        for parent, _, files in os.walk(folder):
            for path in (parent, *(os.path.join(parent, name) for name in files)):
                os.chown(path, NOBODY, NOBODY)

    wake, woken = os.pipe()
    for fd in (wake, woken):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    snippet = os.fork()
    if snippet == 0:
        try:
            run_snippet(request, folder, streams, others)
        except BaseException as error:  # the jail itself failed: say so and run nothing
            os.write(2, f"sandbox: {error}\n".encode())
        finally:
            os._exit(126)
    for fd in streams:
        os.close(fd)
    status = wait_for(snippet, line, wake)
    end_all(snippet)
    try:
        line.sendall(RECORD.pack(ENDED, status))
    except OSError:
        pass  # nobody is listening any more
    os._exit(0)


def prepare(request: dict) -> tuple[str, int]:
    """The snippet's folder, and how many processes count besides its own. With namespaces the folder is made here."""
    if JAIL.namespaces:
        namespaces.make_box(request["box_bytes"], JAIL.as_nobody)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        return namespaces.HOME, JAIL.others
    if JAIL.kind == "bubblewrap":
        for folder in (namespaces.HOME, namespaces.TEMPORARY, namespaces.SHARED):
            os.mkdir(folder, 0o700)
    if LINUX:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if JAIL.kind == "bubblewrap":
        return namespaces.HOME, 4  # bwrap, its first process, launcher, keeper
    if LINUX:
        # Others may start meanwhile: what is exact is runner.py's count.
        return request["folder"], processes_of_user() + 7 * request["limits"]["processes"]
    return request["folder"], request["user_processes"]


def write_file(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)


def wait_for(snippet: int, line: socket.socket, wake: int) -> int:
    """Adopt and reap orphans until the snippet ends or the line closes; the snippet's return code."""
    waiting: list[int | socket.socket] = [wake, line]
    while True:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == snippet:
                    return os.waitstatus_to_exitcode(ended[1])
        except ChildProcessError:
            return -signal.SIGKILL
        ready, _, _ = select.select(waiting, [], [])
        if line in ready:
            return -signal.SIGKILL
        try:
            os.read(wake, 4096)
        except BlockingIOError:
            pass


def end_all(snippet: int) -> None:
    """End whatever the snippet left."""
    if JAIL.namespaces:
        try:
            os.kill(-1, signal.SIGKILL)  # everything in this process namespace but its first process, which is this
        except ProcessLookupError:
            pass
    else:
        try:
            os.killpg(snippet, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        if JAIL.kind == "bubblewrap" or not LINUX:
            return  # they end with the launcher, which serves no other; runner.py remembers and ends them
        # Orphans have become this process's children, level by level as their parents die.
        while left := processes.descendants(os.getpid()):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def processes_of_user() -> int:
    """How many threads run as the snippet's user: RLIMIT_NPROC counts them all where there is no namespace."""
    uid = NOBODY if JAIL.as_nobody else os.getuid()
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it ended meanwhile
    return count


def receive(line: socket.socket) -> dict:
    """Read one JSON message with its length in front; ends the process when the line closes first."""

    def exactly(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = line.recv(size - len(data))
            if not piece:
                os._exit(0)
            data += piece
        return bytes(data)

    return json.loads(exactly(struct.unpack(">Q", exactly(8))[0]))


# --- the launcher ------------------------------------------------------------------------------------------------


def jail_launcher(tree: str) -> None:
    """Enter what all snippets share, and note in JAIL what works here."""
    if not LINUX:
        JAIL.as_nobody = os.getuid() == 0
        return
    JAIL.as_nobody = kernel.root_with_nobody()
    if JAIL.kind == "none":
        return
    JAIL.filter = seccomp.available()
    if JAIL.kind == "landlock":
        JAIL.landlock = landlock.version()
    if JAIL.namespaces:
        # Until Linux 5.14 processes were counted by user alone, whatever the namespace; inside they cannot be seen.
        JAIL.others = 0 if kernel.version() >= (5, 14) else processes_of_user() + 64
        try:
            # Only Landlock closes the files of /proc, where mounts and the like are told.
            JAIL.as_nobody = namespaces.enter(tree, READABLE_HERE, DEVICES, proc=JAIL.landlock > 0)
        except OSError as error:
            JAIL.namespaces, JAIL.error = False, str(error)  # runner.py starts again without


def main(control: socket.socket, tree: str) -> None:
    """Jail this process, say on the control socket what worked, then fork a keeper for each request."""
    global CALL_FILTER
    READABLE_HERE.extend(readable())
    jail_launcher(tree)
    if JAIL.filter and (JAIL.contained or JAIL.landlock >= 6):  # else it depends on the snippet's number
        CALL_FILTER = call_filter()
    control.sendall(json.dumps(vars(JAIL)).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers that ended leave nothing behind
    gc.collect()
    gc.freeze()
    while True:
        _, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not fds:
            try:
                os.rmdir(tree)  # where runner.py was ended before it could
            except OSError:
                pass
            return
        try:
            keeper = namespaces.fork() if JAIL.namespaces else os.fork()
        except OSError:
            keeper = -1  # no memory or processes left: the line closes with nothing said
        if keeper == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            try:
                keep(fds)
            except BaseException as error:
                os.write(fds[1], f"sandbox: {error}\n".encode())
                os.write(fds[2], RECORD.pack(ENDED, 126))
            finally:  # whatever went wrong, a keeper never goes on as a launcher
                os._exit(1)
        line = socket.socket(fileno=fds.pop())
        try:
            if keeper > 0:
                line.sendall(RECORD.pack(KEEPER, keeper))
        except OSError:
            pass  # the caller has gone
        line.close()
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    OPTIONS = json.loads(sys.argv[1])
    JAIL = Jail(OPTIONS["kind"], OPTIONS["namespaces"], home=OPTIONS["home"])
    main(socket.socket(fileno=OPTIONS["control"]), OPTIONS["tree"])
