"""The program that runs inside the sandbox: it jails itself, then forks a child per snippet.

`runner.py` starts it as `python jail.py OPTIONS` and is the only caller. It uses the standard library
alone and imports nothing of this package, which a jailed process may not read.

    sandbox.py ──control socket──> launcher     namespaces, read-only mounts, a scratch folder of its own
                                      │ fork
                   ┌──line socket── warden      one per snippet: ends it when the line closes, reports its end
                   │                  │ fork
              one snippet            init       process 1 of a new PID namespace: when it ends, all in it die
                                      │ fork
                                   snippet      limits, Landlock, no privileges, system call filter; then the code

The launcher only ever receives file descriptors. Code arrives at the warden by the snippet's own line and
output goes from the snippet to `sandbox.py` by its own pipes, so no snippet finds another one's code or
result in the memory it was forked from.
"""

import atexit
import ctypes
import json
import os
import platform
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import traceback
import types

LINUX = sys.platform.startswith("linux")
libc = ctypes.CDLL(None, use_errno=True)

# Inside the namespace root is user 0, and code runs as this user: nobody outside, so that it owns no file
# and RLIMIT_NPROC, which never binds root, binds it.
SNIPPET_USER, NOBODY = 1000, 65534

# <linux/sched.h>, <sys/mount.h>, <linux/prctl.h>, <linux/capability.h>
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x4000, 0x40000
SYS_MOUNT_SETATTR, MOUNT_ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 442, 0x1, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
CAP_DAC_READ_SEARCH = 2

# <linux/landlock.h>; the system calls have the same numbers on every architecture
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_EXECUTE, LANDLOCK_WRITE_FILE, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
LANDLOCK_TRUNCATE, LANDLOCK_IOCTL_DEV = 1 << 14, 1 << 15
LANDLOCK_READ = LANDLOCK_EXECUTE | LANDLOCK_READ_FILE | LANDLOCK_READ_DIR
LANDLOCK_ON_FILES = LANDLOCK_EXECUTE | LANDLOCK_WRITE_FILE | LANDLOCK_READ_FILE | LANDLOCK_TRUNCATE | LANDLOCK_IOCTL_DEV

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

# System calls that no snippet needs and that reach the network, other processes or rarely used parts of the
# kernel. `socket` covers TCP, UDP and the Unix sockets of local services (Docker, ssh-agent), which
# Landlock does not; `socketpair` stays, asyncio needs it. Numbers: (x86-64, arm64).
FORBIDDEN_CALLS = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def check(result: int, what: str) -> int:
    """Pass on the result of a C call, or raise OSError when it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, *values) -> None:
    check(libc.prctl(option, *[ctypes.c_ulong(v) for v in values + (0,) * (4 - len(values))]), f"prctl {option}")


# --- the launcher's part: namespaces and mounts, once ------------------------------------------------


def enter_namespaces(scratch: str, scratch_bytes: int) -> None:
    """Move into new user, network, mount and IPC namespaces: no network, and nothing writable but `scratch`.

    Raises OSError where the kernel or a container's policy forbids it.
    """
    # An ordinary user may map only himself; root also maps the unprivileged user that the code will run as.
    # The map is written by a helper outside, which alone has the right.
    pid, uid, gid = os.getpid(), os.getuid(), os.getgid()
    ready, go = os.pipe()
    done, finished = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.close(done)
        ok = b"n"
        if os.read(ready, 1):
            try:
                for name, me in (("uid", uid), ("gid", gid)):
                    if name == "gid" and uid != 0:
                        write_file(f"/proc/{pid}/setgroups", "deny")
                    more = f"{SNIPPET_USER} {NOBODY} 1\n" if uid == 0 else ""
                    write_file(f"/proc/{pid}/{name}_map", f"{me} {me} 1\n{more}")
                ok = b"y"
            except OSError:
                pass
        os.write(finished, ok)
        os._exit(0)
    os.close(ready)
    os.close(finished)
    try:
        check(
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC),
            "unshare",
        )
        os.write(go, b"g")
    finally:
        os.close(go)
        answer = os.read(done, 1)
        os.close(done)
        os.waitpid(helper, 0)
    if answer != b"y":
        raise OSError("the user namespace could not be mapped")

    # Landlock does not control chmod, utime and the like; a read-only mount does. The scratch folder
    # is a small file system in memory, which bounds what a snippet can store.
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    read_only = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    check(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, read_only, len(read_only)), "mount_setattr")
    options = f"size={scratch_bytes},nr_inodes=8192,mode=0711".encode()
    check(libc.mount(b"tmpfs", scratch.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount tmpfs")


def write_file(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def landlock_version() -> int:
    """The version of the kernel's Landlock interface, 0 where there is none."""
    return max(0, libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)) if LINUX else 0


# --- the snippet's part: limits and jail, just before its code -----------------------------------------


def apply_landlock(version: int, writable: str) -> None:
    """Let this process read Python and the system's programs, write below `writable`, and no more."""
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1  # 2: rename across folders; 3: truncate
    if version >= 5:
        handled |= LANDLOCK_IOCTL_DEV
    tcp = 0b11 if version >= 4 else 0  # bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract Unix sockets, signals
    attributes = struct.pack("QQQ", handled, tcp, scoped)
    ruleset = check(
        libc.syscall(SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0),
        "landlock_create_ruleset",
    )
    rules = [(path, LANDLOCK_READ) for path in READABLE + python_folders()]
    rules += [(path, LANDLOCK_READ_FILE | LANDLOCK_WRITE_FILE) for path in DEVICES]
    rules += [(writable, handled)]
    for path, access in rules:
        try:
            fd = os.open(path, os.O_PATH)
        except OSError:
            continue  # not on this system
        if not os.path.isdir(path):
            access &= LANDLOCK_ON_FILES
        rule = struct.pack("=Qi", access & handled, fd)
        check(libc.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(fd)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    check(libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def python_folders() -> list[str]:
    """What reading Python itself needs; never a folder that holds the user's home."""
    home = os.path.realpath(OPTIONS["home"])
    folders = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}
    if any(os.path.commonpath([home, folder]) == folder for folder in folders):
        return [os.path.dirname(os.path.realpath(os.__file__)), os.path.realpath(sys.executable)]
    return sorted(folders)


def drop_privileges() -> None:
    """Give up every capability in the namespace and, for root, root's own identity."""
    keep = 0
    if os.getuid() == 0:
        prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(SNIPPET_USER, SNIPPET_USER, SNIPPET_USER)
        os.setresuid(SNIPPET_USER, SNIPPET_USER, SNIPPET_USER)
        # A Python below root's closed home stays readable by this capability; Landlock still decides.
        if not os.access(os.__file__, os.R_OK):
            keep = 1 << CAP_DAC_READ_SEARCH
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("IIIIII", keep, keep, keep, 0, 0, 0)), "capset")
    if keep:
        prctl(PR_CAP_AMBIENT, 2, CAP_DAC_READ_SEARCH)


def filter_system_calls() -> None:
    """Make the FORBIDDEN_CALLS fail with EPERM. Raises OSError where the kernel has no such filter."""
    column = list(AUDIT_ARCH).index(platform.machine())
    numbers = [entry[column] for entry in FORBIDDEN_CALLS.values()]
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06  # BPF instructions
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, AUDIT_ARCH[platform.machine()]),
        (answer, 0, 0, kill),  # a call by another architecture's numbers
        (load, 0, 0, 0),
        (at_least, len(numbers) + 1, 0, 0x40000000),  # x32 calls
        *[(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)],
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    prog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    check(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), prog, 0, 0), "seccomp")


def filter_available() -> bool:
    return (
        LINUX
        and platform.machine() in AUDIT_ARCH
        and sys.maxsize > 2**32
        and os.path.exists("/proc/sys/kernel/seccomp")
    )


def set_limits(limits: dict, others: int) -> None:
    """Apply the rlimits; `others` is how many processes this user has besides the snippet's own."""
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_NPROC: limits["processes"] + others,
    }
    if LINUX:  # macOS accepts RLIMIT_AS and ignores it
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def run_snippet(request: dict, folder: str, fds: list[int], state: dict) -> None:
    """Become the snippet: never returns."""
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    os.closerange(3, 1 << 16)
    os.chdir(folder)
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.update(HOME=folder, TMPDIR=folder)
    set_limits(request["limits"], state["others"])
    if state["landlock"]:
        apply_landlock(state["landlock"], folder)
    if state["namespaces"]:
        drop_privileges()
    if state["filter"]:
        filter_system_calls()

    if request["argv"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as a shell's programs expect
        os.execv(request["argv"][0], request["argv"])
    main = types.ModuleType("__main__")
    main.__file__ = "main.py"
    sys.modules["__main__"] = main
    sys.argv = ["main.py"]
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
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        status = status or 1
    os._exit(status & 0xFF)


# --- between the two: one warden and one init per snippet ----------------------------------------------


def watch(fds: list[int], number: int, state: dict) -> None:
    """The warden: run one snippet, end it when the line closes, report {"returncode"}. Never returns."""
    *streams, line_fd = fds
    line = socket.socket(fileno=line_fd)
    request = receive(line)
    folder = os.path.join(OPTIONS["scratch"], str(number))
    os.mkdir(folder, 0o700)
    own = [folder]
    for name, text in request["files"].items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, text)
    if state["namespaces"] and os.getuid() == 0:
        for parent, folders, files in os.walk(folder):
            own += [os.path.join(parent, name) for name in folders + files]
        for path in own:
            os.chown(path, SNIPPET_USER, SNIPPET_USER)
    stdin = os.path.join(OPTIONS["scratch"], f"{number}.stdin")
    write_file(stdin, request["stdin"])
    streams = [os.open(stdin, os.O_RDONLY), *streams]
    os.unlink(stdin)

    if state["namespaces"]:
        check(libc.unshare(CLONE_NEWPID | CLONE_NEWIPC), "unshare")
        state["others"] = 4  # launcher, warden, init; root's bookkeeping differs by one
    elif LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        state["others"] = processes_of_user()
    else:
        state["others"] = OPTIONS["user_processes"]
    news, teller = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(news)
        line.close()
        serve_as_init(request, folder, streams, state, teller)
    os.close(teller)
    for fd in streams:
        os.close(fd)

    snippet, status = 0, -signal.SIGKILL
    told = b""
    while True:
        ready, _, _ = select.select([news, line], [], [], None if state["namespaces"] or not LINUX else 0.02)
        if news in ready:
            piece = os.read(news, 16)
            told += piece
            if len(told) >= 4 and not snippet:
                snippet = struct.unpack("i", told[:4])[0]
            if len(told) == 8:
                status = struct.unpack("i", told[4:])[0]
                break
            if not piece:
                break
        elif line in ready:
            break
        elif not ready and len(descendants(os.getpid())) > request["limits"]["processes"] + 1:
            break
    try:
        os.kill(init, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if not state["namespaces"]:
        if snippet:
            try:
                os.killpg(snippet, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        sweep()
    try:
        os.waitpid(init, 0)
    except ChildProcessError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    try:
        line.sendall(json.dumps({"returncode": status}).encode())
    except OSError:
        pass  # nobody is listening any more
    os._exit(0)


def serve_as_init(request: dict, folder: str, streams: list[int], state: dict, teller: int) -> None:
    """Fork the snippet, adopt and reap its orphans, tell its pid and then how it ended. Never returns."""
    if LINUX:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    snippet = os.fork()
    if snippet == 0:
        try:
            run_snippet(request, folder, streams, state)
        except BaseException as error:  # the jail itself failed: say so and run nothing
            os.write(2, f"sandbox: {error}\n".encode())
        finally:
            os._exit(126)
    for fd in streams:
        os.close(fd)
    os.write(teller, struct.pack("i", snippet))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == snippet:
            os.write(teller, struct.pack("i", os.waitstatus_to_exitcode(status)))
            os._exit(0)


def descendants(root: int) -> list[int]:
    """Every process below `root`, by /proc."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        found += children
        queue += children
    return found


def sweep() -> None:
    """Kill what a snippet left behind, where no PID namespace does: orphans become the warden's children."""
    while LINUX and (left := descendants(os.getpid())):
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


def processes_of_user() -> int:
    """How many threads run under this user: RLIMIT_NPROC counts them all where there is no namespace."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
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


def main() -> None:
    """Jail this process, say on the control socket what worked, then run snippets one after another."""
    control = socket.socket(fileno=OPTIONS["control"])
    state = {"landlock": 0, "namespaces": False, "filter": False}
    if OPTIONS["jail"] == "landlock":
        state["landlock"] = landlock_version()
        state["filter"] = filter_available()
        if OPTIONS["namespaces"]:
            try:
                enter_namespaces(OPTIONS["scratch"], OPTIONS["scratch_bytes"])
                state["namespaces"] = True
            except (OSError, AttributeError) as error:
                # Half a namespace is worse than none: the caller starts again without.
                state["error"] = str(error)
    elif OPTIONS["jail"] == "bubblewrap":
        state["filter"] = filter_available()
    control.sendall(json.dumps(state).encode())
    number = 0
    while True:
        _, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not fds:
            return
        number += 1
        warden = os.fork()
        if warden == 0:
            control.close()
            try:
                watch(fds, number, dict(state))
            finally:  # whatever went wrong, a warden never goes on as a launcher
                os._exit(1)
        for fd in fds:
            os.close(fd)
        os.waitpid(warden, 0)


if __name__ == "__main__":
    OPTIONS = json.loads(sys.argv[1])
    main()
