"""Attacks on the sandbox, each with a harmless twin that must still work, and the table of them in docs/safety.md.

An attack prints HARM when it gets what it wants, or leaves a trace outside that `Outside` finds; a twin prints fine.
In both, {secret}, {folder}, {pid}, {port}, {udp} and {socket} stand for a file, a folder, a process and open sockets of
the user. `python tests/sandbox_attacks.py` writes the table anew.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CALLS = """
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() in ("aarch64", "arm64")
def call(x86, arm, *arguments):
    return libc.syscall(arm if ARM else x86, *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
def harm(happened):
    print("HARM" if happened else "held")
"""
LANDLOCK, MACOS, BUBBLEWRAP = "landlock", "sandbox-exec", "bubblewrap"


@dataclass(frozen=True)
class Attack:
    name: str
    code: str
    twin: str
    held_by: str
    open_at: tuple[str, ...] = ()  # levels that do not stop it, and say so
    linux: bool = True  # whether it speaks to Linux alone
    next_one: bool = False  # its harm is to the snippet that comes after it
    limits: dict = field(default_factory=dict)


TREE = "the tree holds no such file; Landlock"
FILTER = "not in the list of system calls"
OWN = "a file system of its own for each snippet"

ATTACKS = [
    Attack(
        "read a file",
        "print('HARM' if open({secret!r}).read() else '')",
        "open('a', 'w').write('fine'); print(open('a').read())",
        TREE,
        linux=False,
    ),
    Attack(
        "list a folder",
        "import os; print('HARM' if 'secret' in os.listdir({folder!r}) else '')",
        "import os; os.mkdir('a'); open('a/b', 'w'); print('fine' if os.listdir('a') == ['b'] else '')",
        TREE,
        linux=False,
    ),
    Attack(
        "learn a file's size",
        "import os; print('HARM' if os.stat({secret!r}).st_size == 7 else '')",
        "import os; open('a', 'w').write('1234567'); print('fine' if os.stat('a').st_size == 7 else '')",
        TREE,
        open_at=(LANDLOCK,),
        linux=False,
    ),
    Attack(
        "read a file's extended attributes",
        "import os; print('HARM' if os.getxattr({secret!r}, 'user.mark') else '')",
        "import shutil; open('a', 'w').write('fine'); shutil.copy2('a', 'b'); print(open('b').read())",
        FILTER,
    ),
    Attack(
        "write a file",
        "open({folder!r} + '/written', 'w').write('x')",
        "open('a', 'w').write('x'); print('fine')",
        TREE,
        linux=False,
    ),
    Attack(
        "delete, rename or link a file",
        "import os\nfor act in (lambda: os.unlink({secret!r}), lambda: os.rename({secret!r}, 'mine'),\n"
        "            lambda: os.link({secret!r}, 'mine'), lambda: os.rename('.', {folder!r} + '/new')):\n"
        "    try: act(); print('HARM')\n    except OSError: pass",
        "import os; open('a', 'w'); os.rename('a', 'b'); os.link('b', 'c'); os.unlink('b'); print('fine')",
        TREE,
        linux=False,
    ),
    Attack(
        "empty a file by name",
        "import os; os.truncate({secret!r}, 0)",
        "f = open('a', 'w+'); f.write('12'); f.truncate(1); f.seek(0); print('fine' if f.read() == '1' else '')",
        "read-only mounts; Landlock 3, before it the list of system calls",
        linux=False,
    ),
    Attack(
        "empty Python's own files by opening them for reading",
        "import os; os.close(os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)); print('HARM')",
        "import os; print('fine' if os.read(os.open(os.__file__, os.O_RDONLY), 1) else '')",
        "read-only mounts; Landlock 3, before it the list of system calls",
        linux=False,
    ),
    Attack(
        "close a file to its owner",
        "import os; os.chmod({secret!r}, 0)",
        "import shutil; open('a', 'w').write('fine'); shutil.copy('a', 'b'); print(open('b').read())",
        "the tree; without one such calls do nothing",
        linux=False,
    ),
    Attack(
        "change a file's times",
        "import os; os.utime({secret!r}, (1, 1))",
        "import os; open('a', 'w'); os.utime('a', (1, 1)); print('fine')",
        "the tree; without one such calls do nothing",
        linux=False,
    ),
    Attack(
        "have the clean-up delete through a link",
        "import os; os.symlink({folder!r}, 'link'); os.mkdir('d'); os.symlink({folder!r}, 'd/link')",
        "import os; open('a', 'w').write('fine'); os.symlink('a', 'link'); print(open('link').read())",
        "links are removed, never followed",
        linux=False,
    ),
    Attack(
        "close the folder above to the next snippet",
        "import os\nfor path in ('..', '../..', '.'):\n    try: os.chmod(path, 0)\n    except OSError: pass",
        "import os; os.mkdir('a'); os.chmod('a', 0o700); print('fine')",
        OWN,
        linux=False,
        next_one=True,
    ),
    Attack(
        "leave a message in attributes of the folder above",
        "import os\nfor path in ('..', '../..'):\n    os.setxattr(path, 'user.mark', b'x'); print('HARM')",
        "import shutil, os; os.mkdir('a'); shutil.copytree('a', 'b'); print('fine')",
        f"{OWN}; {FILTER}",
    ),
    Attack(
        "folders too deep to delete",
        "import os\nfor _ in range(1200):\n    os.mkdir('d' * 100); os.chdir('d' * 100)",
        "import os; os.makedirs('/'.join('d' * 50)); print('fine')",
        OWN,
        linux=False,
        next_one=True,
    ),
    Attack(
        "fill the disk",
        "import os, time\nwritten = 0\ntry:\n    for n in range(30):\n        with open(f'f{n}', 'wb') as f:\n"
        "            for _ in range(8): written += f.write(bytes(1 << 20))\n        time.sleep(0.02)\n"
        "finally:\n    print('HARM' if written > 200 << 20 else 'held', flush=True)",
        "open('a', 'wb').write(bytes(4 << 20)); print('fine')",
        f"{OWN}, limited in size; elsewhere its use is polled",
        linux=False,
        next_one=True,
    ),
    Attack(
        "fill the disk with names",
        "import time\nfor n in range(100_000):\n    open(f'f{n}', 'w')\nprint('HARM')",
        "for n in range(500): open(f'f{n}', 'w')\nprint('fine')",
        f"{OWN}, limited in files; elsewhere their number is polled",
        open_at=(BUBBLEWRAP,),
        linux=False,
        next_one=True,
    ),
    Attack(
        "end a process",
        "import os, signal; os.kill({pid}, signal.SIGTERM)",
        "import os; os.kill(os.getpid(), 0); print('fine')",
        "process numbers of its own; Landlock 6, before it the list of system calls",
        linux=False,
    ),
    Attack(
        "end a group of processes",
        "import os, signal; os.kill(-{pid}, signal.SIGTERM)",
        "import subprocess; print('fine' if subprocess.run(['/bin/sh', '-c', 'exit 3']).returncode == 3 else '')",
        "process numbers of its own; Landlock 6, before it the list of system calls",
    ),
    Attack(
        "see a process",
        "import os; os.getpgid({pid}); print('HARM')",
        "import os; os.getpgid(0); print('fine')",
        "process numbers of its own",
        open_at=(LANDLOCK, MACOS),
        linux=False,
    ),
    Attack(
        "read what /proc tells of the machine and its processes",
        "import os\nnames = 'meminfo mounts self/mountinfo self/cgroup net/unix 1/cmdline {pid}/cmdline'.split()\n"
        "for name in names:\n"
        "    try: print('HARM' if open(f'/proc/{name}').read() else '')\n    except OSError: pass\n"
        "print('HARM' if os.listdir('/proc') else '')",
        "import os; print('fine' if os.getpid() > 1 and os.cpu_count() else '')",
        "a /proc of its own without the machine, closed by Landlock, or none",
    ),
    Attack(
        "change a process's priority",
        "import os; os.setpriority(os.PRIO_PROCESS, {pid}, 10)",
        "import os; print('fine' if os.nice(1) >= 1 else '')",
        "process numbers of its own; only for itself in the list of system calls",
    ),
    Attack(
        "change a process's cores",
        "import os; os.sched_setaffinity({pid}, [min(os.sched_getaffinity(0))]); print('HARM')",
        "import os; os.sched_setaffinity(0, os.sched_getaffinity(0)); print('fine')",
        "process numbers of its own; only for itself in the list of system calls",
    ),
    Attack(
        "change a process's limits",
        "import resource; resource.prlimit({pid}, resource.RLIMIT_NOFILE, (1, 1)); print('HARM')",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); print('fine')",
        "process numbers of its own; only for itself in the list of system calls",
    ),
    Attack(
        "read a process's memory",
        CALLS + "import ctypes\nharm(call(101, 117, 16, {pid}, 0, 0) == 0)  # ptrace, attach\n"
        "buffer = ctypes.create_string_buffer(48)\nharm(call(310, 270, {pid}, buffer, 1, buffer, 1, 0) >= 0 or "
        "ctypes.get_errno() not in (1, 38))",
        "import sys; sys.settrace(lambda *_: None); sys.settrace(None); print('fine')",
        FILTER,
    ),
    Attack(
        "watch files by inotify, fanotify or dnotify",
        CALLS + "harm(call(294, 26, 0) >= 0 or call(300, 262, 0, 0) >= 0)\n"
        "import fcntl; fcntl.fcntl(os.open('/usr', 0), fcntl.F_NOTIFY, fcntl.DN_ACCESS); harm(True)",
        "import select; e = select.epoll(); print('fine')",
        FILTER,
    ),
    Attack(
        "memory behind a descriptor (memfd)",
        CALLS + "harm(call(319, 279, b'x', 0) >= 0 or call(447, 447, 0) >= 0)",
        "import tempfile; f = tempfile.TemporaryFile(); f.write(bytes(1000)); print('fine')",
        FILTER,
    ),
    Attack(
        "memory in larger pipes",
        "import fcntl, os; print('HARM' if fcntl.fcntl(os.pipe()[1], 1031, 1 << 20) else '')",
        "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(w, fcntl.F_SETFL, os.O_NONBLOCK); os.write(w, b'fine')\n"
        "print(os.read(r, 9).decode())",
        FILTER,
    ),
    Attack(
        "have a signal sent by a descriptor",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {pid}); fcntl.fcntl(r, 10, 15)\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, fcntl.FASYNC); os.write(w, b'x')",
        "import fcntl; f = open('a', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); fcntl.flock(f, fcntl.LOCK_EX); print('fine')",
        FILTER,
    ),
    Attack(
        "System V shared memory, which outlives the snippet",
        CALLS + "harm(call(29, 194, 0, 1 << 20, 0o1600) >= 0)",
        "import mmap; m = mmap.mmap(-1, 1 << 20); m[:4] = b'fine'; print(m[:4].decode())",
        FILTER,
    ),
    Attack(
        "message queues, System V and POSIX",
        CALLS + "harm(call(68, 186, 0, 0o1600) >= 0 or call(64, 190, 0, 1, 0o1600) >= 0 or "
        "call(240, 180, b'mlxrlhf', 0o102, 0o600, 0) >= 0)",
        "import multiprocessing as m; a, b = m.Pipe(); a.send('fine'); print(b.recv())",
        FILTER,
    ),
    Attack(
        "shared memory under /dev/shm beyond the limit",
        "import time\nwritten = 0\ntry:\n    for n in range(30):\n        with open(f'/dev/shm/f{n}', 'wb') as f:\n"
        "            for _ in range(8): written += f.write(bytes(1 << 20))\n"
        "finally:\n    print('HARM' if written > 80 << 20 else 'held', flush=True)",
        "import threading; s = threading.Semaphore(1); s.acquire(); print('fine')",
        "it is part of the snippet's own file system, or closed",
    ),
    Attack(
        "TCP",
        "import socket; s = socket.create_connection(('127.0.0.1', {port})); s.send(b'HARM')",
        "import socket; a, b = socket.socketpair(); a.send(b'fine'); print(b.recv(9).decode())",
        "a network of its own, which is empty; " + FILTER,
        linux=False,
    ),
    Attack(
        "UDP",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'HARM', ('127.0.0.1', {udp}))",
        "import asyncio\nasync def main():\n    await asyncio.sleep(0); print('fine')\nasyncio.run(main())",
        "a network of its own, which is empty; " + FILTER,
        linux=False,
    ),
    Attack(
        "pass a descriptor out by a Unix datagram",
        "import socket, array\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendmsg([b'HARM'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))], 0, {socket!r})",
        "import array, os, socket\na, b = socket.socketpair()\nr, w = os.pipe()\nsocket.send_fds(a, [b'x'], [r])\n"
        "os.write(w, b'fine'); print(os.read(socket.recv_fds(b, 1, 1)[1][0], 9).decode())",
        "only pairs of streams in the list of system calls; the tree",
        linux=False,
    ),
    Attack(
        "new namespaces by clone, clone3 or unshare",
        CALLS + "flags = 0x10000000\nchild = call(56, 220, flags | 17, 0, 0, 0, 0)\nif child == 0: os._exit(0)\n"
        "arguments = (ctypes.c_uint64 * 8)(flags, 0, 0, 0, 17)\n"
        "other = call(435, 435, arguments, 64)\nif other == 0: os._exit(0)\n"
        "harm(child > 0 or other > 0 or libc.unshare(flags) == 0)",
        "import os, threading\nt = threading.Thread(target=print, args=['fine']); t.start(); t.join()\n"
        "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
        FILTER,
    ),
    Attack(
        "mount, by old and new calls",
        CALLS + "harm(call(165, 40, b'none', b'/', 0, 0x44000, 0) == 0 or call(430, 430, b'tmpfs', 0) >= 0 or "
        "call(428, 428, -100, b'/', 1) >= 0 or call(166, 39, b'/', 2) == 0 or call(155, 41, b'.', b'.') == 0 or "
        "call(161, 51, b'.') == 0)",
        "import os; print('fine' if os.statvfs('.').f_bsize else '')",
        FILTER,
    ),
    Attack(
        "rarely used parts of the kernel: io_uring, bpf, perf, userfaultfd, keys, file handles",
        CALLS
        + "tries = [(425, 425, 1, ctypes.create_string_buffer(120)), (321, 280, 0, 0, 0), (298, 241, 0, 0, -1, -1, 0),"
        " (323, 282, 1), (250, 219, 0, -3, 1), (304, 265, -100, 0, 0), (248, 217, b'user', b'x', b'y', 1, -4)]\n"
        "for one in tries: harm(call(*one) >= 0 or ctypes.get_errno() not in (1, 38))",
        "import hashlib, zlib, decimal, sqlite3; print('fine')",
        FILTER,
    ),
    Attack(
        "the second set of call numbers of x86-64",
        CALLS + "harm(not ARM and call((1 << 30) + 39, 0) > 0)",
        "import os; print('fine' if os.getpid() else '')",
        FILTER,
    ),
    Attack(
        "type into the terminal",
        CALLS + "harm(libc.ioctl(0, 0x5412, b'x') == 0 or ctypes.get_errno() not in (1, 25))\n"
        "harm(os.path.exists('/dev/tty') and os.open('/dev/tty', os.O_RDWR) >= 0)",
        "import sys; print('' if sys.stdin.isatty() else 'fine')",
        "no terminal; not in the list of device questions",
    ),
    Attack(
        "be root",
        "import os\nprint('HARM' if 0 in (os.getuid(), os.geteuid(), os.getgid()) or 0 in os.getgroups() else '')\n"
        "os.setuid(0); print('HARM')",
        "import os; print('fine' if os.getuid() else '')",
        "code that root starts is nobody's",
        linux=False,
    ),
    Attack(
        "learn the host's name",
        "import os; print('HARM' if os.uname().nodename == {host!r} else '')",
        "import os; print('fine' if os.uname().sysname else '')",
        "a host name of its own",
        open_at=(LANDLOCK, MACOS),
        linux=False,
    ),
    Attack(
        "more memory than allowed, in one process",
        "x = bytearray(1 << 30); print('HARM')",
        "x = bytearray(64 << 20); print('fine')",
        "a limit of the kernel; polled on macOS",
    ),
    Attack(
        "more memory than allowed, in many processes",
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(os.urandom(1 << 20)) * 60\n"
        "        time.sleep(2); print('HARM', flush=True); os._exit(0)\nfor _ in range(6): os.wait()",
        "import os\nif os.fork() == 0:\n    x = bytearray(40 << 20); print('fine', flush=True); os._exit(0)\nos.wait()",
        "all processes together are looked at five times a second",
        linux=False,
        limits={"memory_bytes": 200 << 20, "wall_seconds": 4},
    ),
    Attack(
        "more CPU time than allowed, in many processes",
        "import os, time\nstart = time.time()\nfor _ in range(4):\n    if os.fork() == 0:\n"
        "        while time.time() < start + 8: pass\n        print('HARM', flush=True); os._exit(0)\n"
        "for _ in range(4): os.wait()",
        "import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.1: pass\nprint('fine')",
        "all processes together are looked at five times a second",
        linux=False,
        limits={"cpu_seconds": 1, "wall_seconds": 6},
    ),
    Attack(
        "more processes than allowed",
        "import os, time\nmade = 0\nwhile made < 60:\n    if os.fork() == 0: time.sleep(9); os._exit(0)\n"
        "    made += 1\n    time.sleep(0.02)\nprint('HARM')",
        "import os\nfor _ in range(40):\n    if os.fork() == 0: os._exit(0)\n    os.wait()\nprint('fine')",
        "a limit of the kernel, counted for each snippet; elsewhere polled",
        linux=False,
        limits={"wall_seconds": 4},
    ),
]


class Outside:
    """What attacks are aimed at: files, a process and sockets of this user, and how to see that they were hit."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.secret = folder / "secret"
        self.secret.write_text("hunter2")
        with contextlib.suppress(OSError, AttributeError):
            os.setxattr(self.secret, "user.mark", b"x")
        self.times = self.secret.stat().st_mtime
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.priority = os.getpriority(os.PRIO_PROCESS, self.process.pid)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.unix.bind(str(folder / "s"))
        for server in (self.tcp, self.udp, self.unix):
            server.setblocking(False)
        self.names = sorted(os.listdir(folder))

    def filled(self, code: str) -> str:
        """The code with what it is aimed at."""
        values = {
            "secret": str(self.secret),
            "folder": str(self.folder),
            "pid": self.process.pid,
            "port": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "socket": self.unix.getsockname(),
            "host": socket.gethostname(),
        }
        for name, value in values.items():
            code = code.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", str(value))
        return code

    def harm(self) -> str:
        """What was done to it; empty if nothing."""
        if sorted(os.listdir(self.folder)) != self.names or self.secret.read_text() != "hunter2":
            return "files were changed"
        if self.secret.stat().st_mode & 0o777 == 0 or self.secret.stat().st_mtime != self.times:
            return "a file's mode or times were changed"
        if self.process.poll() is not None:
            return "a process was ended"
        if os.getpriority(os.PRIO_PROCESS, self.process.pid) != self.priority:
            return "a process has another priority"
        for server in (self.tcp, self.udp, self.unix):
            with contextlib.suppress(BlockingIOError):
                server.accept() if server is self.tcp else server.recv(9)
                return "something was sent"
        return ""

    def close(self) -> None:
        for server in (self.tcp, self.udp, self.unix):
            server.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def table() -> str:
    """The attacks as rows of Markdown."""
    rows = ["| attack | what holds it | open at |", "|---|---|---|"]
    rows += [f"| {a.name} | {a.held_by} | {', '.join(a.open_at) or '-'} |" for a in ATTACKS]
    return "\n".join(rows) + "\n"


PAGE = Path(__file__).parent.parent / "docs" / "safety.md"
START, END = "<!-- attacks on the sandbox, written by tests/sandbox_attacks.py -->\n", "<!-- end of the attacks -->\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + START + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
