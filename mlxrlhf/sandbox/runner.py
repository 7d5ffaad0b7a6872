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

import os
import threading
from collections.abc import Mapping, Sequence

from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import launcher, levels
from mlxrlhf.sandbox.launcher import Jail, bash, request_for
from mlxrlhf.sandbox.limits import STANDARD, Limits, Result

__all__ = ["Limits", "Result", "describe", "level", "run_bash", "run_many", "run_many_bash", "run_python"]


def run_python(
    code: str,
    *,
    stdin: str = "",
    files: Mapping[str, str] = {},
    limits: Limits = STANDARD,
    unsafe: bool = False,
) -> Result:
    """Run Python source in the sandbox.

    `files` maps relative paths to text and is laid out in the snippet's folder; the code itself is there as
    `main.py`. Raises UserError when this machine has no jail and `unsafe` is not set; never because of what
    the code does.
    """
    return launcher.run(_jail(unsafe), request_for(code=code, stdin=stdin, files=files, limits=limits), limits)


def run_bash(
    command: str,
    *,
    stdin: str = "",
    files: Mapping[str, str] = {},
    limits: Limits = STANDARD,
    unsafe: bool = False,
) -> Result:
    """Run a shell command in the sandbox; arguments and errors as for `run_python`."""
    return launcher.run(_jail(unsafe), request_for(argv=bash(command), stdin=stdin, files=files, limits=limits), limits)


def run_many(
    codes: Sequence[str],
    *,
    limits: Limits = STANDARD,
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Result]:
    """Run many Python snippets, each alone in its own jail, and return their results in order.

    workers: how many run at once (default: four for each core, 16 to 32). Those that sleep or wait then hold up
    nobody; those that compute share the cores, and what they wait for one does not count as wall time. Raises UserError
    as `run_python` does.
    """
    requests = [request_for(code=code, limits=limits) for code in codes]
    return _run_requests(requests, limits=limits, workers=workers, unsafe=unsafe)


def run_many_bash(
    commands: Sequence[str],
    *,
    limits: Limits = STANDARD,
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Result]:
    """The same as `run_many` for shell commands."""
    requests = [request_for(argv=bash(command), limits=limits) for command in commands]
    return _run_requests(requests, limits=limits, workers=workers, unsafe=unsafe)


def level() -> str:
    """The jail in use: landlock+namespaces, namespaces, bubblewrap, landlock, sandbox-exec or none."""
    jail = _best_jail()
    return "none" if jail is None else jail.level


def describe() -> str:
    """`level()`, what it leaves open, and why no stronger one is used."""
    return f"{level()}: " + "; ".join(levels.shortcomings(levels.find_jail(), level()))


def _best_jail() -> Jail | None:
    return levels.find_jail().jail


def _jail(unsafe: bool) -> Jail:
    jail = _best_jail()
    if jail is None and not unsafe:
        raise UserError(
            "This machine has no sandbox for model-written code (Landlock, bubblewrap or sandbox-exec); "
            "pass --unsafe-exec to run it with limits on time and memory alone."
        )
    return jail or Jail("none", "none")


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
                results[index] = launcher.run(jail, request, limits, lambda: bool(failures))
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
