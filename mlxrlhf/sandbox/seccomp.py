"""Which system calls a snippet may make: a list of what is allowed, as a filter in the kernel's own small language.

    install(program(platform.machine(), rules(contained=True, landlock=6)))

What is not on the list fails: with "Operation not permitted" when it is old, with "Function not implemented" when it
came with Linux 5.1 or later, because libraries try such calls first and fall back on older ones. So there is no
network, no shared memory and no message queue that outlives a snippet, no memory behind a descriptor, no namespace, no
mount, no tracing and no watching of files, nor anything that a later kernel adds.
"""

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxrlhf.sandbox import kernel

#: Allowed calls: name, number on x86-64, number on arm64 ("-": it has none).
_NUMBERS = """
# files, by descriptor
read 0 63,  write 1 64,  readv 19 65,  writev 20 66,  pread64 17 67,  pwrite64 18 68,  preadv 295 69,
pwritev 296 70,  preadv2 327 286,  pwritev2 328 287,  lseek 8 62,  close 3 57,  close_range 436 436,  dup 32 23,
dup2 33 -,  dup3 292 24,  pipe 22 -,  pipe2 293 59,  fcntl 72 25,  flock 73 32,  fsync 74 82,  fdatasync 75 83,
ftruncate 77 46,  fallocate 285 47,  fadvise64 221 223,  readahead 187 213,  copy_file_range 326 285,
sendfile 40 71,  splice 275 76,  tee 276 77,  fstat 5 80,  fstatfs 138 44,  getdents 78 -,  getdents64 217 61,
fchdir 81 50,  ioctl 16 29
# files, by name
open 2 -,  openat 257 56,  openat2 437 437,  creat 85 -,  truncate 76 45,  stat 4 -,  lstat 6 -,  newfstatat 262 79,
statx 332 291,  statfs 137 43,  access 21 -,  faccessat 269 48,  faccessat2 439 439,  getcwd 79 17,  chdir 80 49,
rename 82 -,  renameat 264 38,  renameat2 316 276,  mkdir 83 -,  mkdirat 258 34,  rmdir 84 -,  link 86 -,
linkat 265 37,  unlink 87 -,  unlinkat 263 35,  symlink 88 -,  symlinkat 266 36,  readlink 89 -,  readlinkat 267 78,
mknod 133 -,  mknodat 259 33,  umask 95 166
# modes, owners and times
chmod 90 -,  fchmod 91 52,  fchmodat 268 53,  fchmodat2 452 452,  chown 92 -,  fchown 93 55,  lchown 94 -,
fchownat 260 54,  utime 132 -,  utimes 235 -,  utimensat 280 88,  futimesat 261 -
# extended attributes
setxattr 188 5,  lsetxattr 189 6,  fsetxattr 190 7,  getxattr 191 8,  lgetxattr 192 9,  fgetxattr 193 10,
listxattr 194 11,  llistxattr 195 12,  flistxattr 196 13,  removexattr 197 14,  lremovexattr 198 15,
fremovexattr 199 16
# memory
brk 12 214,  mmap 9 222,  munmap 11 215,  mremap 25 216,  mprotect 10 226,  madvise 28 233,  msync 26 227,
mlock 149 228,  munlock 150 229,  mlock2 325 284,  membarrier 324 283,  get_mempolicy 239 236
# waiting
select 23 -,  pselect6 270 72,  poll 7 -,  ppoll 271 73,  epoll_create 213 -,  epoll_create1 291 20,
epoll_ctl 233 21,  epoll_wait 232 -,  epoll_pwait 281 22,  epoll_pwait2 441 441,  eventfd 284 -,  eventfd2 290 19
# socket pairs
socketpair 53 199,  sendto 44 206,  recvfrom 45 207,  sendmsg 46 211,  recvmsg 47 212,  sendmmsg 307 269,
recvmmsg 299 243,  shutdown 48 210,  getsockname 51 204,  getpeername 52 205,  getsockopt 55 209
# signals
rt_sigaction 13 134,  rt_sigprocmask 14 135,  rt_sigpending 127 136,  rt_sigtimedwait 128 137,
rt_sigsuspend 130 133,  rt_sigreturn 15 139,  rt_sigqueueinfo 129 138,  rt_tgsigqueueinfo 297 240,
sigaltstack 131 132,  pause 34 -,  signalfd 282 -,  signalfd4 289 74,  kill 62 129,  tgkill 234 131,  tkill 200 130,
restart_syscall 219 128
# processes and threads
clone 56 220,  fork 57 -,  vfork 58 -,  execve 59 221,  execveat 322 281,  exit 60 93,  exit_group 231 94,
wait4 61 260,  waitid 247 95,  getpid 39 172,  getppid 110 173,  gettid 186 178,  getpgid 121 155,  getpgrp 111 -,
setpgid 109 154,  getsid 124 156,  setsid 112 157,  getuid 102 174,  geteuid 107 175,  getgid 104 176,
getegid 108 177,  getresuid 118 148,  getresgid 120 150,  getgroups 115 158,  capget 125 90,
set_tid_address 218 96,  set_robust_list 273 99,  get_robust_list 274 100,  rseq 334 293,  futex 202 98,
futex_waitv 449 449,  arch_prctl 158 -,  prctl 157 167
# scheduling and limits
sched_yield 24 124,  sched_getaffinity 204 123,  sched_setaffinity 203 122,  sched_getscheduler 145 120,
sched_getparam 143 121,  sched_get_priority_max 146 125,  sched_get_priority_min 147 126,
sched_rr_get_interval 148 127,  getpriority 140 141,  setpriority 141 140,  getcpu 309 168,  getrlimit 97 163,
setrlimit 160 164,  prlimit64 302 261,  getrusage 98 165,  times 100 153,  sysinfo 99 179,  uname 63 160,
getrandom 318 278
# clocks
time 201 -,  gettimeofday 96 169,  clock_gettime 228 113,  clock_getres 229 114,  clock_nanosleep 230 115,
nanosleep 35 101,  alarm 37 -,  getitimer 36 102,  setitimer 38 103,  timer_create 222 107,  timer_settime 223 110,
timer_gettime 224 108,  timer_getoverrun 225 109,  timer_delete 226 111,  timerfd_create 283 85,
timerfd_settime 286 86,  timerfd_gettime 287 87
"""


def _parsed(text: str) -> dict[str, dict[str, int]]:
    """{machine: {name: number}}"""
    numbers: dict[str, dict[str, int]] = {"x86_64": {}, "aarch64": {}}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        for entry in filter(None, (part.strip() for part in line.split(","))):
            name, *columns = entry.split()
            for machine, number in zip(numbers, columns):
                if number != "-":
                    numbers[machine][name] = int(number)
    return numbers


NUMBERS = _parsed(_NUMBERS)
#: <linux/audit.h>: how the kernel tells a filter by which machine's numbers a call is made.
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: First number of the calls that are numbered alike on every machine (Linux 5.1).
_COMMON = 424


@dataclass(frozen=True)
class Only:
    """A condition on an argument: its lower (or `high`er) 32 bits under `mask` are one of `values`."""

    argument: int
    values: Sequence[int]
    mask: int = 0xFFFFFFFF
    high: bool = False


#: What becomes of a call: conditions that must all hold (none: allowed), or the error that it answers. 0: "it worked".
Rule = tuple[Only, ...] | int

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x540F)  # TCGETS, TIOCGWINSZ, TIOCGPGRP: is it a terminal, and how wide
_DESCRIPTOR_SETTINGS = (0x541B, 0x5421, 0x5450, 0x5451)  # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ,
# PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_VMA (the C library names memory with it)
_PROCESS_SETTINGS = (1, 2, 3, 15, 16, 23, 36, 38, 39, 0x53564D41)
# F_DUPFD to F_SETLKW, the same locks by descriptor, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS. Not: signals to others
# when something happens to a descriptor, watching folders, leases, larger pipes.
_DESCRIPTOR_CALLS = (*range(8), 36, 37, 38, 1030, 1032, 1034)
_OWN_PROCESS = Only(0, [0])

_CONDITIONS: dict[str, Rule] = {
    "clone": (Only(0, [0], mask=_NEW_NAMESPACES),),
    # Only pairs of connected streams: a datagram socket could still send to any other by its path.
    "socketpair": (Only(0, [1]), Only(1, [1], mask=0xF)),
    "sendto": (Only(4, [0]), Only(4, [0], high=True)),  # without an address
    "fcntl": (Only(1, _DESCRIPTOR_CALLS),),
    "ioctl": (Only(1, _TERMINAL_QUESTIONS + _DESCRIPTOR_SETTINGS),),
    "prctl": (Only(0, _PROCESS_SETTINGS),),
    "prlimit64": (_OWN_PROCESS,),
    "sched_setaffinity": (_OWN_PROCESS,),
    "setpriority": (Only(0, [0]), Only(1, [0])),  # PRIO_PROCESS, itself
}
_ATTRIBUTES = ("setxattr", "getxattr", "listxattr", "removexattr")
_METADATA = ("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat")
_TIMES = ("utime", "utimes", "utimensat", "futimesat")
_TRUNCATE, _ACCESS_MODE = 0o1000, 0o3


def rules(*, contained: bool, landlock: int) -> dict[str, Rule]:
    """What becomes of each call that is not refused.

    contained: mounts and process numbers are the snippet's own. Where they are not, the filter stands in for what
        Landlock of this version (0: none) does not control: modes, owners and times of the user's files (such calls
        answer that it worked and do nothing), signals to other processes before version 6, truncation before 3.
    """
    allowed: dict[str, Rule] = {name: () for machine in NUMBERS.values() for name in machine}
    allowed |= _CONDITIONS
    # As on a file system without attributes: programs that copy files expect that answer.
    allowed |= {prefix + name: errno.EOPNOTSUPP for name in _ATTRIBUTES for prefix in ("", "l", "f")}
    if contained:
        return allowed
    allowed |= dict.fromkeys(_METADATA + _TIMES, 0)
    if landlock < 6:
        # Its own group and, known only once the snippet is there, itself: see `program`.
        allowed |= dict.fromkeys(("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), errno.EPERM)
        allowed |= {"kill": (Only(0, [0, OWN_NUMBER]),), "tgkill": (Only(0, [OWN_NUMBER]),)}
    if landlock < 3:
        # Opening a file for reading may empty it, too.
        allowed |= {"truncate": errno.EPERM, "creat": errno.EPERM, "openat2": errno.ENOSYS}
        reading = _TRUNCATE | _ACCESS_MODE
        harmless = [mode | truncate for mode in (0, 1, 2) for truncate in (0, _TRUNCATE) if mode or not truncate]
        allowed |= {"open": (Only(1, harmless, mask=reading),), "openat": (Only(2, harmless, mask=reading),)}
    return allowed


#: Stands in a condition for the number of the process that installs the filter.
OWN_NUMBER = -1

# Linux's packet filter language: <linux/filter.h>, <linux/seccomp.h>
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ANSWER, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
Step = tuple[int, int, int, int]  # operation, steps to skip if true, steps to skip if false, value


def program(machine: str, calls: Mapping[str, Rule], own_number: int = 0) -> list[Step]:
    """The filter for calls by this machine's numbers. Raises KeyError for a machine that is not known."""
    steps: list[Step] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),  # calls by another machine's numbers, which this list does not know
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, number in sorted(NUMBERS[machine].items(), key=lambda item: item[1]):
        block = _block(calls[name], own_number)
        steps += [(_EQUAL, 0, len(block), number), *block]
    # x86-64's second set of numbers, for 32-bit pointers, begins at 2**30 and is refused with the rest.
    steps += [
        (_AT_LEAST, 1, 0, 1 << 30),
        (_AT_LEAST, 1, 0, _COMMON),
        (_RETURN, 0, 0, _ANSWER | errno.EPERM),
        (_RETURN, 0, 0, _ANSWER | errno.ENOSYS),
    ]
    return steps


def _block(rule: Rule, own_number: int) -> list[Step]:
    """The steps that decide one call; they always end in an answer."""
    if isinstance(rule, int):
        return [(_RETURN, 0, 0, _ANSWER | rule)]
    steps: list[Step] = []
    for only in rule:
        values = [own_number if value == OWN_NUMBER else value for value in only.values]
        steps.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * only.argument + (4 if only.high else 0)))
        steps.append((_AND, 0, 0, only.mask))
        steps += [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
        steps.append((_RETURN, 0, 0, _ANSWER | errno.EPERM))
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def encoded(steps: Sequence[Step]) -> bytes:
    """The filter as the kernel reads it."""
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def install(code: bytes) -> None:
    """Put this process and all that it starts under the filter, for good. Raises OSError."""
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    filter_mode = ctypes.c_ulong(2)
    kernel.check(kernel.libc.prctl(kernel.PR_SET_SECCOMP, filter_mode, header, 0, 0), "seccomp")


def available() -> bool:
    """Whether this kernel filters system calls and this machine's numbers are known here."""
    get_mode = 21
    known = platform.machine() in _ARCHITECTURE and sys.maxsize > 2**32 and sys.byteorder == "little"
    return known and kernel.libc.prctl(get_mode, 0, 0, 0, 0) >= 0
