"""Landlock: which files a process may open, by a rule of the kernel that the process cannot take back."""

import ctypes
import os
import struct
from collections.abc import Sequence

from mlxrlhf.sandbox import kernel

# <linux/landlock.h>; the system calls have the same numbers on every machine
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_FOLDER
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def version() -> int:
    """The version of the kernel's Landlock interface, 0 where there is none."""
    return max(0, kernel.libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def apply(version: int, *, readable: Sequence[str], writable: str, devices: Sequence[str]) -> None:
    """Let this process read and start what is `readable`, write below `writable` and to `devices`, and no more.

    Paths that are not there are passed over. Raises OSError.
    """
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1  # 2: rename across folders; 3: truncate
    if version >= 5:
        handled |= _IOCTL_DEV
    tcp = 0b11 if version >= 4 else 0  # bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract Unix sockets, signals
    attributes = struct.pack("QQQ", handled, tcp, scoped)
    ruleset = kernel.check(
        kernel.libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
    )
    rules = [(path, _READ) for path in readable]
    rules += [(path, _READ_FILE | _WRITE_FILE) for path in devices]
    rules += [(writable, handled)]
    for path, access in rules:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            access &= _ON_FILES
        rule = struct.pack("=Qi", access & handled, fd)
        kernel.check(kernel.libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(fd)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.check(kernel.libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
