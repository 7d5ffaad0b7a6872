"""Calls to the Linux kernel that Python does not offer, through the C library."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
#: The same library, called without letting go of the interpreter's lock.
_holding = ctypes.PyDLL(None, use_errno=True)

#: System call numbers by machine; those above 423 are the same everywhere.
_CLONE = {"x86_64": 56, "aarch64": 220}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442

# <linux/prctl.h>, <linux/capability.h>
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
CAP_DAC_READ_SEARCH = 2
NOBODY = 65534

# <sys/mount.h>
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 0x2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000


def check(result: int, what: str) -> int:
    """Pass on the result of a C call, or raise OSError when it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, *values: int) -> None:
    """Set a property of this process. Raises OSError."""
    check(libc.prctl(option, *[ctypes.c_ulong(v) for v in values + (0,) * (4 - len(values))]), f"prctl {option}")


def unshare(flags: int) -> None:
    """Move this process into new namespaces. Raises OSError where the kernel or a policy forbids it."""
    check(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` on `target`. Raises OSError."""
    words = [word.encode() for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def mount_flags(target: str, flags: int, *, below: bool) -> None:
    """Add MOUNT_ATTR flags to the mount at `target`, and to all below it. Raises OSError (before Linux 5.12, too)."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    deep = _AT_RECURSIVE if below else 0
    result = libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, target.encode(), deep, ctypes.byref(attributes), ctypes.c_size_t(32)
    )
    check(result, f"mount_setattr {target}")


def pivot_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this process's mount namespace and let go of the old root. Raises OSError."""
    os.chdir(folder)
    # The old root comes to lie on the new one, and is taken off from there.
    check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def fork(flags: int) -> int:
    """`os.fork`, with the child in the new namespaces of `flags`. For a process with one thread. Raises OSError."""
    # What os.fork itself does around its system call; the lock is held, so that the child has it too.
    ctypes.pythonapi.PyOS_BeforeFork()
    sigchld = 17
    pid = _holding.syscall(_CLONE[os.uname().machine], ctypes.c_ulong(flags | sigchld), *[ctypes.c_ulong(0)] * 4)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        code = ctypes.get_errno()
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(code, f"clone: {os.strerror(code)}")
    return pid


def drop_capabilities(keep: int = 0) -> None:
    """Give up every capability but those in the bit mask `keep`. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(keep, keep, keep, 0, 0, 0)
    check(libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def root_with_nobody() -> bool:
    """Whether this is root that can become nobody, and not a user's own root in a namespace that maps him alone."""
    if os.getuid() != 0:
        return False
    try:
        with open("/proc/self/uid_map") as file:
            spans = [[int(word) for word in line.split()] for line in file]
    except OSError:
        return True
    return any(first <= NOBODY < first + count for first, _, count in spans)


def version() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    major, minor = os.uname().release.split("-")[0].split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
