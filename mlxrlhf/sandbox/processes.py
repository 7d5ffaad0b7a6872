"""What a snippet's processes use, seen from outside; on macOS with `ps`, elsewhere by /proc.

The kernel limits each process. What all processes of a snippet use together, how many they are, and how long they had
to wait for a core is measured here, a few times a second.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

MACOS = sys.platform == "darwin"
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a tree of processes uses at one moment."""

    processes: int
    cpu_seconds: float
    memory_bytes: int
    waited_seconds: float  # for a core, while it could have run


def usage(keeper: int, age: float) -> Usage:
    """Of everything below the process `keeper`, which has run for `age` seconds; the keeper's waiting counts too."""
    if MACOS:
        return _usage_by_ps(keeper, age)
    running = descendants(keeper)
    cpu = _cpu_seconds(keeper, own=False)  # of what it has reaped
    waited = max((_waited_seconds(pid) for pid in running), default=0.0)
    memory = sum(_own_memory(pid) for pid in running)
    return Usage(
        len(running), cpu + sum(_cpu_seconds(pid) for pid in running), memory, waited + _waited_seconds(keeper)
    )


def shared_memory_counted_once(keeper: int) -> int | None:
    """Bytes that the tree below `keeper` holds, pages shared by n processes counting 1/n each; None if unknown.

    Takes milliseconds, unlike `usage`, which counts such pages n times.
    """
    total = 0
    for pid in descendants(keeper):
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) << 10
    return total or None


def descendants(root: int) -> list[int]:
    """Every process below `root`."""
    if MACOS:
        return [process.pid for process in _below({root}, _table())]
    if not os.path.exists("/proc/self/task"):
        return []
    children_of = (
        _children_by_list if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _children_by_search
    )
    below, queue = [], [root]
    while queue:
        children = children_of(queue.pop())
        below += children
        queue += children
    return below


# --- Linux -------------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    """The file's text; empty when its process has ended."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _children_by_list(pid: int) -> list[int]:
    return [int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _children_by_search(pid: int) -> list[int]:
    """The same where the kernel keeps no such list (CONFIG_PROC_CHILDREN)."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [each for each in numbers if _read(f"/proc/{each}/stat").rpartition(")")[2].split()[1:2] == [str(pid)]]


def _cpu_seconds(pid: int, own: bool = True) -> float:
    """CPU time of a process's ended children, and its own."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11 if own else 13 : 15]) / _TICK


def _own_memory(pid: int) -> int:
    """Resident bytes that are no file's."""
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


def _waited_seconds(pid: int) -> float:
    """How long a process stood in line for a core; 0 where the kernel does not count it."""
    fields = _read(f"/proc/{pid}/schedstat").split()
    return int(fields[1]) / 1e9 if fields else 0.0


# --- macOS -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A line of `ps`."""

    pid: int
    parent: int
    uid: int
    memory_bytes: int
    state: str
    cpu_seconds: float
    started: str  # with the number it names a process for good


def parsed(text: str) -> list[Process]:
    """The lines of `ps -axo pid=,ppid=,uid=,rss=,state=,time=,lstart=`."""
    table = []
    for line in text.splitlines():
        words = line.split(None, 6)
        if len(words) != 7:
            continue
        seconds = 0.0
        for part in words[5].replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        table.append(
            Process(int(words[0]), int(words[1]), int(words[2]), int(words[3]) << 10, words[4], seconds, words[6])
        )
    return table


_reading = threading.Lock()
_last: tuple[float, list[Process]] = (0.0, [])


def _table(newest: bool = False) -> list[Process]:
    """All processes, at most 50 ms old: snippets that run at once share a reading."""
    global _last
    with _reading:
        if newest or time.monotonic() - _last[0] > 0.05:
            command = ["/bin/ps", "-axo", "pid=,ppid=,uid=,rss=,state=,time=,lstart="]
            environment = {"LC_ALL": "C", "PATH": "/bin:/usr/bin"}
            import subprocess  # not in a launcher, which needs none of this

            text = subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout
            _last = (time.monotonic(), parsed(text))
        return _last[1]


def _below(roots: set[int], table: Iterable[Process]) -> list[Process]:
    """The processes of a table whose parent is a root, and theirs."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    family, queue = [], list(roots)
    while queue:
        below = children.pop(queue.pop(), [])
        family += below
        queue += [process.pid for process in below]
    return family


def _usage_by_ps(keeper: int, age: float) -> Usage:
    running = _below({keeper}, _table())
    cpu = sum(process.cpu_seconds for process in running)
    # macOS does not count waiting: a snippet that could run now is taken to have waited whenever it did not run.
    runs = any(process.state.startswith("R") for process in running)
    return Usage(len(running), cpu, sum(p.memory_bytes for p in running), max(0.0, age - cpu) if runs else 0.0)


def processes_of_user() -> int:
    """How many processes this user has, by `ps`."""
    return sum(process.uid == os.getuid() for process in _table())


class Remembered:
    """Every process ever seen below a keeper: a child that detached itself is ended with the rest (macOS).

    What starts and detaches itself between two looks, a tenth of a second apart, is not seen.
    """

    def __init__(self, keeper: int):
        self.keeper = keeper
        self.seen: set[tuple[int, str]] = set()

    def look(self, newest: bool = False) -> list[Process]:
        """The processes that are there now: below the keeper, seen earlier, or below one of those."""
        table = _table(newest)
        known = [process for process in table if (process.pid, process.started) in self.seen]
        running = known + _below({self.keeper} | {process.pid for process in known}, table)
        self.seen |= {(process.pid, process.started) for process in running}
        return list(dict.fromkeys(running))

    def end(self) -> None:
        """End them all, until a look finds none."""
        for _ in range(20):
            left = [process for process in self.look(newest=True) if not process.state.startswith("Z")]
            if not left:
                return
            for process in left:
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
