"""Levels: which jails there are, which one starts here, and what each leaves open."""

import functools
import sys
from dataclasses import dataclass, field, replace

from mlxrlhf.sandbox.launcher import Jail, Launcher, request_for
from mlxrlhf.sandbox.limits import Limits


@dataclass
class Found:
    """The jail to use, what its launcher said of itself, and why stronger ones were passed over."""

    jail: Jail | None = None
    state: dict = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def candidates() -> list[Jail]:
    """The jails of this system, strongest first."""
    if sys.platform == "darwin":
        return [Jail("sandbox-exec", "sandbox-exec"), Jail("sandbox-exec", "sandbox-exec", strict=False)]
    if sys.platform.startswith("linux"):
        return [
            Jail("landlock+namespaces", "landlock", namespaces=True),
            Jail("bubblewrap", "bubblewrap"),
            Jail("landlock", "landlock"),
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
def find_jail() -> Found:
    """The strongest jail that really starts here, found by starting it."""
    search = Found()
    for jail in candidates():
        try:
            search.state = tried(jail)
        except (OSError, ValueError) as error:
            search.refused.append(f"{jail.level} ({error})")
            continue
        # With a tree of its own Landlock is only the second layer.
        search.jail = jail if search.state["landlock"] or not jail.namespaces else replace(jail, level="namespaces")
        break
    return search


def tried(jail: Jail) -> dict:
    """What the launcher of a jail says of itself. Raises OSError when the jail lacks a part or runs nothing."""
    limits = Limits()
    request = request_for(code=_TRIAL, limits=limits)
    with Launcher(jail, request["box_bytes"]) as launcher:
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


_ALWAYS_OPEN = "does not stop a kernel exploit, side channels, or reading what all users may read in /usr"
LEFT_OPEN = {
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


def shortcomings(found: Found, name: str) -> list[str]:
    """What the level `name` leaves open here, and why no stronger one is used."""
    open_here = [LEFT_OPEN[name]]
    if name == "landlock":
        version = found.state.get("landlock", 0)
        open_here += [text for before, text in _UNTIL_LANDLOCK.items() if version < before]
    if name == "sandbox-exec" and found.jail and not found.jail.strict:
        open_here.append(_LOOSE_PROFILE)
    if name in ("landlock", "none"):
        open_here += [f"not used here: {reason}" for reason in found.refused]
    return open_here
