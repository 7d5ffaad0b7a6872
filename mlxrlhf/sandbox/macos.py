"""macOS: the profile under which `sandbox-exec` starts the launcher.

Written by reasoning and tried by the macOS workflow; there is no Mac where most of this was built. Should the strict
profile keep Python from starting on some version of macOS, the looser one is taken, and `doctor` says so.
"""

from collections.abc import Sequence
from pathlib import PurePath

#: What Python and the C library ask of the machine's properties: processor, version, and the host's name, without which
#: os.uname fails and with it `import uuid`. Not: processes, network, boot arguments.
_PROPERTIES = (
    "hw.activecpu hw.byteorder hw.cacheconfig hw.cachelinesize hw.cachelinesize_compat hw.cpufamily hw.cputype "
    "hw.l1dcachesize_compat hw.l1icachesize_compat hw.l2cachesize_compat hw.l3cachesize_compat hw.logicalcpu "
    "hw.logicalcpu_max hw.machine hw.memsize hw.ncpu hw.nperflevels hw.packages hw.pagesize hw.pagesize_compat "
    "hw.physicalcpu hw.physicalcpu_max hw.tbfrequency_compat hw.vectorunit kern.argmax kern.hostname "
    "kern.maxfilesperproc kern.osproductversion kern.osrelease kern.ostype kern.osvariant_status kern.osversion "
    "kern.secure_kernel kern.usrstack64 kern.version sysctl.proc_cputype"
).split()
_PREFIXES = ("hw.optional.", "hw.perflevel")
_SYSTEM = ["/usr", "/bin", "/sbin", "/System", "/Library/Apple", "/Library/Developer", "/private/var/db/dyld"]
_LIBRARIES = ["/opt/homebrew/opt", "/opt/homebrew/Cellar", "/usr/local/opt", "/usr/local/Cellar"]
#: Links on the way to other places.
_LINKS = ["/etc", "/tmp", "/var"]
_TIMEZONE = "/private/etc/localtime"


def profile(scratch: str, program: str, python: Sequence[str], *, strict: bool) -> str:
    """A profile that denies what it does not allow: read the system, `program` and Python; no network.

    scratch: holds a folder for each snippet, which may be written below and neither listed nor changed itself.
    strict: without it, names, sizes and times of all files, every property of the machine, and signals to the other
        snippets of the same launcher are left open.
    """
    readable = [*_SYSTEM, *_LIBRARIES, *python]
    boxes = f"(regex #{_quoted('^' + _escaped(scratch) + '/[^/]+/')})"
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow process-exec)",
        f'(allow file-read* (literal "/") (literal {_quoted(program)}) (literal {_quoted(_TIMEZONE)}))',
        f"(allow file-read* {_paths('subpath', readable)})",
        '(allow file-read* file-write-data (literal "/dev/null") (literal "/dev/zero"))',
        '(allow file-read* (literal "/dev/random") (literal "/dev/urandom"))',
        f"(allow file-read* file-write* {boxes})",
        f"(allow file-read* (regex #{_quoted('^' + _escaped(scratch) + '/[^/]+$')}))",
    ]
    if strict:
        above = {str(folder) for path in [*readable, program, scratch, _TIMEZONE] for folder in PurePath(path).parents}
        lines += [
            f"(allow file-read-metadata {_paths('literal', sorted(above | {scratch, *_LINKS}))})",
            f"(allow sysctl-read {_paths('sysctl-name', _PROPERTIES)} {_paths('sysctl-name-prefix', _PREFIXES)})",
            "(allow signal (target self) (target children) (target pgrp))",
        ]
    else:
        lines += ["(allow file-read-metadata)", "(allow sysctl-read)", "(allow signal (target same-sandbox))"]
    return "\n".join(lines) + "\n"


def _paths(kind: str, paths: Sequence[str]) -> str:
    return " ".join(f"({kind} {_quoted(path)})" for path in paths)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(path: str) -> str:
    """The path as a regular expression: characters that mean something stand in brackets."""
    return "".join(f"[{c}]" if c in ".+*?()|{}$" else c for c in path)
