"""Namespaces: a world in which a process sees only what was put there.

The launcher enters user, mount, network, IPC and host-name namespaces once (`enter`) and builds the tree that all
snippets see: Python, the system's programs and libraries, five devices, nothing else, all of it read-only. Each snippet
gets a mount and a process namespace of its own (`fork`), with a small file system in memory at BOX that ends with it
(`make_box`), and a user namespace of its own (`leave_privileges`), in which it has no name and its processes are
counted apart from everybody else's.
"""

import os
from collections.abc import Callable, Sequence

from mlxrlhf.sandbox import kernel

# <linux/sched.h>
_NEW_MOUNTS, _NEW_HOSTNAME, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000

BOX = "/box"
HOME, TEMPORARY, SHARED = f"{BOX}/home", f"{BOX}/tmp", f"{BOX}/shm"
#: Inside, code that root started runs as this user, who is nobody outside: it owns no file of the machine.
_SNIPPET = 1000


def enter(tree: str, shown: Sequence[str], devices: Sequence[str], proc: bool) -> bool:
    """Move this process into new namespaces whose root holds what is `shown`, read-only, and `devices`.

    tree: an empty folder to mount on. proc: whether each snippet gets a /proc, if that is possible here.
    Returns whether root started this, so that snippets become nobody. Raises OSError where the kernel, a container or a
    policy forbids it.
    """
    as_nobody = kernel.root_with_nobody()
    _enter_with_users(as_nobody, _NEW_USERS | _NEW_NETWORK | _NEW_MOUNTS | _NEW_IPC | _NEW_HOSTNAME)
    kernel.check(kernel.libc.sethostname(b"sandbox", 7), "sethostname")
    os.umask(0o022)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", tree, "tmpfs", kernel.MS_NOSUID, "size=1m,nr_inodes=1024,mode=0755")
    for path in shown:
        _show(tree, path, kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)
    for path in devices:
        _show(tree, path, kernel.MOUNT_ATTR_NOSUID)
    os.makedirs(tree + "/dev", exist_ok=True)
    os.mkdir(tree + BOX)
    if not os.path.lexists(tree + "/tmp"):  # Python may live there
        os.symlink(TEMPORARY, tree + "/tmp")
    os.symlink(SHARED, tree + "/dev/shm")  # where the C library keeps semaphores
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{tree}/dev/{name}")
    if proc:  # the kernel lets this user mount one only where one can be seen: each snippet's will lie on this one
        _show(tree, "/proc", kernel.MOUNT_ATTR_NOSUID)
    kernel.mount_flags(tree, kernel.MOUNT_ATTR_RDONLY, below=False)
    kernel.pivot_root(tree)
    global _own_proc
    _own_proc = proc and _works(_mount_proc)
    if proc and not _own_proc:
        kernel.check(kernel.libc.umount2(b"/proc", kernel.MNT_DETACH), "umount /proc")
    return as_nobody


#: Whether each snippet gets a /proc of its own; a container that hides parts of its /proc allows none.
_own_proc = False


def _mount_proc() -> None:
    """A /proc with the processes of this namespace, without what is known of the machine. Raises OSError."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", flags, "subset=pid,hidepid=2")


def _works(action: Callable[[], None]) -> bool:
    """Whether an action succeeds in namespaces such as a snippet gets."""
    child = fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _show(tree: str, path: str, flags: int) -> None:
    """Bind `path` into the tree under its own name; a link is made again, so that it means the tree's files."""
    inside = tree + path
    if not os.path.exists(path) or os.path.lexists(inside):
        return  # not on this machine, or below what is shown already
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    kernel.mount(path, inside, flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.mount_flags(inside, flags, below=True)


def _enter_with_users(as_nobody: bool, flags: int) -> None:
    """Enter namespaces in which this user is himself and, for root, nobody is the snippet's user."""
    # An ordinary user may map only himself. Root's longer map is written by a helper outside, which alone may do so.
    pid, uid, gid = os.getpid(), os.getuid(), os.getgid()
    ready, go = os.pipe()
    done, finished = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.close(done)
        answer = b"n"
        if os.read(ready, 1):
            try:
                if not as_nobody:
                    _write(f"/proc/{pid}/setgroups", "deny")
                more = f"{_SNIPPET} {kernel.NOBODY} 1\n" if as_nobody else ""
                _write(f"/proc/{pid}/uid_map", f"{uid} {uid} 1\n{more}")
                _write(f"/proc/{pid}/gid_map", f"{gid} {gid} 1\n{more}")
                answer = b"y"
            except OSError:
                pass
        os.write(finished, answer)
        os._exit(0)
    os.close(ready)
    os.close(finished)
    try:
        kernel.unshare(flags)
        os.write(go, b"g")
    finally:
        os.close(go)
        answer = os.read(done, 1)
        os.close(done)
        os.waitpid(helper, 0)
    if answer != b"y":
        raise OSError("the user namespace could not be mapped")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def fork() -> int:
    """`os.fork`; the child is process 1 of its own process namespace and has mounts of its own. Raises OSError."""
    return kernel.fork(_NEW_PROCESSES | _NEW_MOUNTS)


def make_box(size: int, as_nobody: bool) -> None:
    """Mount the snippet's own file system of `size` bytes and become the user that it belongs to. Raises OSError.

    as_nobody: what `enter` returned.
    """
    uid, gid = (_SNIPPET, _SNIPPET) if as_nobody else (os.getuid(), os.getgid())
    options = f"size={size},nr_inodes=8192,mode=0700,uid={uid},gid={gid}"
    kernel.mount("tmpfs", BOX, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    if _own_proc:
        _mount_proc()
    if as_nobody:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    kernel.drop_capabilities()
    for folder in (HOME, TEMPORARY, SHARED):
        os.mkdir(folder, 0o700)


def leave_privileges() -> None:
    """Enter a user namespace that maps nobody, and give up what it grants. Raises OSError.

    RLIMIT_NPROC then counts this snippet's processes alone, and no capability reaches the mounts.
    """
    kernel.unshare(_NEW_USERS)
    kernel.drop_capabilities()
