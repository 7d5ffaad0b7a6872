"""The sandbox under attack; a harmless twin of each attack succeeds, so that a refusal means something."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_attacks import ATTACKS, END, LANDLOCK, PAGE, START, Outside, table

from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import folders, launcher, levels, macos, processes, runner, seccomp
from mlxrlhf.sandbox.runner import Limits, run_bash, run_many, run_many_bash, run_python

pytestmark = pytest.mark.skipif(
    runner.level() == "none" and "CI" not in os.environ, reason="no operating-system jail here"
)


def jails():
    """The jail that is used here, and the weaker ones that work here too."""
    best = levels.find_jail().jail
    found = {best.level: best} if best else {}
    for jail in levels.candidates():
        if jail.level not in found and jail.level in ("bubblewrap", LANDLOCK):
            try:
                levels.tried(jail)
            except OSError:
                continue
            found[jail.level] = jail
    return list(found.values())


JAILS = jails()


@pytest.fixture(params=JAILS, ids=lambda jail: jail.level)
def jail(request, monkeypatch):
    monkeypatch.setattr(runner, "_best_jail", lambda: request.param)
    return request.param


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    target = Outside(tmp_path_factory.mktemp("outside"))
    yield target
    target.close()


# --- attacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_fails_and_its_twin_works(attack, jail, outside):
    if attack.linux and sys.platform == "darwin":
        pytest.skip("speaks to Linux alone")
    limits = Limits(**attack.limits)
    attacked, twin, *_ = run_many([outside.filled(attack.code), attack.twin], limits=limits, workers=1)
    assert "sandbox:" not in attacked.stderr
    assert "HARM" not in attacked.stdout or jail.level in attack.open_at, attacked
    if sys.platform != "darwin":  # what is open there was reasoned, not seen
        assert "HARM" in attacked.stdout or jail.level not in attack.open_at, attacked
    assert not outside.harm()
    assert twin.stdout.strip() == "fine", twin


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.next_one], ids=lambda attack: attack.name)
def test_one_snippet_does_not_harm_the_next(attack, jail):
    honest = "open('a', 'w').write('x' * 1000); print(len(open('a').read()))"
    results = run_many([attack.code, *[honest] * 4], workers=1)
    assert [result.stdout for result in results[1:]] == ["1000\n"] * 4


def test_the_table_in_the_docs_is_that_of_these_attacks():
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == table(), "run: python tests/sandbox_attacks.py"
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


def test_what_is_open_at_a_level_is_said():
    """A level at which an attack of the table succeeds says so in what `doctor` prints."""
    assert "names, sizes and times of files" in levels.LEFT_OPEN[LANDLOCK]
    assert "process numbers and the host name" in " ".join(levels.LEFT_OPEN[LANDLOCK].split())
    assert "host's name and which process numbers" in " ".join(levels.LEFT_OPEN["sandbox-exec"].split())
    assert "how many files" in levels.LEFT_OPEN["bubblewrap"]
    assert set(levels.LEFT_OPEN) >= {jail.level for jail in JAILS} | {level for a in ATTACKS for level in a.open_at}


def test_the_tree_holds_python_and_nothing_of_the_user(jail):
    if not jail.box_inside:
        pytest.skip("no tree at this level")
    python = Path(os.path.realpath(sys.base_prefix))
    there = [path for path in ("/usr", "/bin/sh", "/dev/null") if os.path.exists(path)] + [str(python), os.__file__]
    outside = ["/sys", "/var", "/run", "/etc/passwd", "/etc/hostname", "/proc/1", "/dev/tty", __file__]
    # Of a folder that holds Python only the way to it is there.
    beside = [str(folder / name) for folder in python.parents for name in os.listdir(folder)]
    shown = ("/usr", "/lib", "/bin", "/sbin", "/nix", "/etc", "/dev", "/tmp", "/proc", str(python))
    outside += [p for p in beside if not p.startswith(shown) and not str(python).startswith(p)]
    code = f"import os; print([[os.path.lexists(p) for p in group] for group in ({there!r}, {outside!r})])"
    found, missing = json.loads(run_python(code).stdout.lower())
    assert all(found) and not any(missing), [p for p, seen in zip(outside, missing) if seen]


def test_descriptors_have_names(jail):
    """Bash's <(...), and the streams as files."""
    if run_bash("test -e /dev/fd/0").returncode:
        pytest.skip("this machine lets nobody mount a /proc, or the level is bubblewrap")
    result = run_bash(
        "cmp <(echo 1) <(echo 1) && cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr", stdin="in "
    )
    assert result.stdout == "in out\n" and result.stderr == "err\n"


def test_semaphores_and_pools_work_in_a_file_system_of_its_own(jail):
    if not jail.box_inside:
        pytest.skip("shared memory is closed at this level")
    code = "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool: print(sum(pool.map(abs, [-1, 2])))"
    assert run_python(code).stdout == "3\n"


# --- the rest of what is promised ------------------------------------------------------------------------------------


def test_output_exit_code_stdin_and_files(jail):
    result = run_python("print(6 * 7)")
    assert result.ok and result.stdout == "42\n"
    assert run_python("raise SystemExit(3)").returncode == 3
    assert run_python("import os; os.kill(os.getpid(), 9)").returncode == -9 or jail.level == LANDLOCK
    assert run_bash("echo $((6 * 7))").stdout == "42\n"
    assert run_bash("cat; cat folder/name", stdin="in ", files={"folder/name": "text"}).stdout == "in text"
    seekable = "import sys; sys.stdin.buffer.seek(1); print(sys.stdin.read())"
    assert run_python(seekable, stdin="xab").stdout == "ab\n"
    trace = run_python("x = 1\nraise ValueError('no')").stderr
    assert 'File "main.py", line 2' in trace and "raise ValueError('no')" in trace and "jail.py" not in trace
    assert "surrogates" in run_python("x = '\ud800'").stderr
    small = Limits(file_bytes=1 << 20)  # what is given may be larger than what may be written
    assert run_python("print(1)", stdin="x" * (5 << 20), files={"a": "y" * 99}, limits=small).stdout == "1\n"
    conflict = run_python("print(1)", files={"a": "", "a/b": ""})
    assert conflict.returncode == 126 and conflict.stderr.startswith("sandbox:")
    with pytest.raises(UserError, match="relative path"):
        run_python("", files={"../a": ""})


def test_a_snippet_finds_nothing_of_the_sandbox_or_this_package():
    code = "import sys; print([name for name in sys.modules if 'mlxrlhf' in name], sys.path[0][-4:])\nimport mlxrlhf"
    result = run_python(code)
    assert result.stdout.startswith("[] ") and "ModuleNotFoundError" in result.stderr
    descriptors = "import os\nfor fd in range(3, 99):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
    assert run_python(descriptors).stdout == ""


def test_time_and_output_are_bounded(jail):
    limits = Limits(wall_seconds=1.0)
    busy, asleep, endless = run_many(
        ["while True: pass", "import time; time.sleep(60)", "while True: print('y' * 1000)"], limits=limits
    )
    assert busy.timed_out and asleep.timed_out and asleep.seconds < 4
    assert endless.truncated and len(endless.stdout) <= limits.output_bytes


def test_waiting_for_a_core_is_not_wall_time(monkeypatch):
    """A snippet that stood in line for 0.6 of its first 0.5 seconds gets them back."""
    real = processes.usage
    monkeypatch.setattr(processes, "usage", lambda *which: replace(real(*which), waited_seconds=0.6))
    code = "import time; time.sleep({})"
    limits = Limits(wall_seconds=0.5)
    finished, ended = run_many([code.format(0.8), code.format(9)], limits=limits)
    assert finished.ok and ended.timed_out


def test_many_snippets_keep_their_order_and_do_not_harm_each_other(jail):
    codes = [
        "print(0)",
        "import os; os.kill(os.getpid(), 9)",
        "print(2)",
        "open('x', 'w')",
        "import os; print(os.path.exists('x'))",
    ]
    results = run_many(codes)
    assert [r.stdout for r in results] == ["0\n", "", "2\n", "", "False\n"]
    assert not results[1].ok
    assert [r.stdout for r in run_many_bash(["echo 1", "echo 2"])] == ["1\n", "2\n"]


def test_sleepers_hold_up_nobody():
    """8 answers that sleep and 56 that do not: the time of one sleeper, not of eight."""
    codes = ["print('ok')"] * 64
    codes[::8] = ["import time; time.sleep(60)"] * 8
    started = time.monotonic()
    results = run_many(codes, limits=Limits(wall_seconds=1.5))
    assert sum(result.ok for result in results) == 56
    assert time.monotonic() - started < 6  # 12 with two workers


def test_a_launcher_is_kept_and_replaced_when_it_ends():
    run_python("print(1)")
    kept = launcher._launchers[runner._best_jail()]
    run_python("print(1)")
    assert kept.process.poll() is None
    kept.process.kill()
    kept.process.wait()
    assert run_python("print(1)").stdout == "1\n"
    assert not os.path.exists(kept.scratch)


def test_a_program_that_is_killed_leaves_nothing(jail, tmp_path):
    code = (
        "import os, sys, tempfile\nfrom mlxrlhf.sandbox import levels, runner\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "jail = next(j for j in levels.candidates() if j.level == sys.argv[2])\n"
        "runner._best_jail = lambda: jail\nassert runner.run_python('print(1)').ok\nos.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), jail.level], capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    until = time.monotonic() + 5
    while os.listdir(tmp_path) and time.monotonic() < until:
        time.sleep(0.02)
    assert os.listdir(tmp_path) == [] or sys.platform == "darwin"


def test_a_forked_child_starts_a_launcher_of_its_own():
    run_python("print(1)")
    kept = launcher._launchers[runner._best_jail()]
    child = os.fork()
    if child == 0:
        try:
            fine = run_python("print(2)").stdout == "2\n" and launcher._launchers[runner._best_jail()] is not kept
            launcher._close_launchers()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run_python("print(3)").stdout == "3\n" and kept.process.poll() is None


def test_nothing_is_left_behind(jail, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(launcher, "_launchers", {})
    run_python("open('a', 'w')")
    before = len(os.listdir("/dev/fd"))
    run_many(["open('a', 'w')", "raise SystemExit(1)"] * 5)
    assert len(os.listdir("/dev/fd")) == before
    launcher._close_launchers()
    assert os.listdir(tmp_path) == []


def test_a_fork_bomb_is_contained(jail):
    limits = Limits(wall_seconds=1.5, processes=8)
    started = time.monotonic()
    run_bash("bomb() { bomb | bomb & }; bomb; sleep 10", limits=limits)
    assert time.monotonic() - started < 8
    assert run_python("print('alive')").stdout == "alive\n"


@pytest.mark.skipif(shutil.which("ps") is None, reason="processes are looked for with ps")
@pytest.mark.parametrize("detach", [False, True])
def test_a_child_dies_with_its_snippet(detach, jail):
    mark = f"outlives-{os.getpid()}-{detach}-{jail.level}"

    def alive():
        command = ["ps", "-axww", "-o", "command"]  # w: not cut to the terminal
        return mark in subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def until(state, seconds):
        end = time.monotonic() + seconds
        while alive() != state and time.monotonic() < end:
            time.sleep(0.05)
        return alive() == state

    child = [f"[sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}]", f"start_new_session={detach}"]
    code = f"import subprocess, sys, time\nsubprocess.Popen({', '.join(child)})\ntime.sleep(0.7)"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_python, code)
        assert until(True, 3)
        assert running.result().ok
    assert until(False, 1)


def test_nothing_runs_without_a_jail(monkeypatch):
    monkeypatch.setattr(runner, "_best_jail", lambda: None)
    for refused in (lambda: run_python("print(1)"), lambda: run_bash("echo 1"), lambda: run_many(["print(1)"])):
        with pytest.raises(UserError, match="--unsafe-exec"):
            refused()
    assert runner.level() == "none" and runner.describe().startswith("none: nothing keeps code")
    assert run_python("print(1)", unsafe=True).stdout == "1\n"
    assert run_bash("echo 1", unsafe=True).stdout == "1\n"
    assert [result.stdout for result in run_many(["print(1)"], unsafe=True)] == ["1\n"]
    who = run_python("import os, decimal; print(os.getuid())", unsafe=True)
    assert who.stdout.strip() == str(os.getuid() or 65534)  # root is nobody even here


def test_ci_has_a_jail():
    assert runner.level() != "none", runner.describe()


# --- the parts by themselves -----------------------------------------------------------------------------------------

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED = "allowed", "killed"


def decided(machine, calls, number, arguments=(), own=0, architecture=None):
    """What the kernel would do with a call: its packet filter machine in a few lines (linux/filter.h)."""
    data = [number, architecture or ARCHITECTURES[machine], 0, 0]
    for argument in [*arguments, *[0] * (6 - len(arguments))]:
        data += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    steps, at, value = seccomp.program(machine, calls, own), 0, 0
    while True:
        operation, if_true, if_false, k = steps[at]
        at += 1
        if operation == 0x20:
            value = data[k // 4]
        elif operation == 0x54:
            value &= k
        elif operation == 0x15:
            at += if_true if value == k else if_false
        elif operation == 0x35:
            at += if_true if value >= k else if_false
        elif operation == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(k) or errno.errorcode.get(k & 0xFFFF, "0")


STRONG = seccomp.rules(contained=True, landlock=7)


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's numbers of errors and flags")


# Numbers by hand, from the kernel's tables of the two machines.
@on_linux
@pytest.mark.parametrize(
    "what,x86,arm,arguments,answer",
    [
        ("read", 0, 63, (), ALLOWED),
        ("execve", 59, 221, (), ALLOWED),
        ("getrandom", 318, 278, (), ALLOWED),
        ("socket", 41, 198, (1, 1, 0), "EPERM"),
        ("connect", 42, 203, (), "EPERM"),
        ("bind", 49, 200, (), "EPERM"),
        ("socketpair of streams", 53, 199, (1, 1 | 0o2000000, 0), ALLOWED),
        ("socketpair of datagrams", 53, 199, (1, 2, 0), "EPERM"),
        ("socketpair of another family", 53, 199, (16, 1, 0), "EPERM"),
        ("send", 44, 206, (3, 1 << 40, 9, 0, 0, 0), ALLOWED),
        ("sendto an address", 44, 206, (3, 0, 9, 0, 1 << 40, 0), "EPERM"),
        ("memfd_create", 319, 279, (), "EPERM"),
        ("shmget", 29, 194, (), "EPERM"),
        ("msgget", 68, 186, (), "EPERM"),
        ("semget", 64, 190, (), "EPERM"),
        ("mq_open", 240, 180, (), "EPERM"),
        ("fork's clone", 56, 220, (0x1200011,), ALLOWED),
        ("a thread's clone", 56, 220, (0x3D0F00,), ALLOWED),
        ("clone, new users", 56, 220, (0x10000011,), "EPERM"),
        ("clone, new mounts", 56, 220, (0x20011,), "EPERM"),
        ("clone3", 435, 435, (), "ENOSYS"),
        ("unshare", 272, 97, (), "EPERM"),
        ("setns", 308, 268, (), "EPERM"),
        ("mount", 165, 40, (), "EPERM"),
        ("open_tree", 428, 428, (), "ENOSYS"),
        ("mount_setattr", 442, 442, (), "ENOSYS"),
        ("io_uring_setup", 425, 425, (), "ENOSYS"),
        ("a call of the future", 999, 999, (), "ENOSYS"),
        ("ptrace", 101, 117, (), "EPERM"),
        ("inotify_init1", 294, 26, (), "EPERM"),
        ("own limits", 302, 261, (0, 7), ALLOWED),
        ("another's limits", 302, 261, (77, 7), "EPERM"),
        ("own priority", 141, 140, (0, 0, 5), ALLOWED),
        ("another's priority", 141, 140, (0, 77, 5), "EPERM"),
        ("own cores", 203, 122, (0,), ALLOWED),
        ("another's cores", 203, 122, (77,), "EPERM"),
        ("sched_setscheduler", 144, 119, (0,), "EPERM"),
        ("is it a terminal", 16, 29, (0, 0x5401), ALLOWED),
        ("type into the terminal", 16, 29, (0, 0x5412), "EPERM"),
        ("descriptor flags", 72, 25, (3, 4, 0), ALLOWED),
        ("F_SETOWN", 72, 25, (3, 8, 77), "EPERM"),
        ("F_NOTIFY", 72, 25, (3, 1026, 1), "EPERM"),
        ("F_SETPIPE_SZ", 72, 25, (3, 1031, 1 << 20), "EPERM"),
        ("name a thread", 157, 167, (15,), ALLOWED),
        ("seccomp by prctl", 157, 167, (22, 2), "EPERM"),
        ("getxattr", 191, 8, (), "ENOTSUP"),
        ("kill", 62, 129, (77, 9), ALLOWED),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_system_call_is_decided_alike_on_both_machines(what, x86, arm, arguments, answer):
    assert decided("x86_64", STRONG, x86, arguments) == answer
    assert decided("aarch64", STRONG, arm, arguments) == answer


@on_linux
def test_calls_by_other_numbers_are_refused():
    assert decided("x86_64", STRONG, 3, architecture=0x40000003) == KILLED  # i386
    assert decided("aarch64", STRONG, 3, architecture=0x40000028) == KILLED  # arm
    assert decided("x86_64", STRONG, (1 << 30) + 0) == "EPERM"  # x32's read


@on_linux
def test_the_filter_stands_in_for_what_older_kernels_lack():
    chmod, truncate, openat, kill, tgkill = 90, 76, 257, 62, 234

    def weak(landlock, number, *arguments):
        calls = seccomp.rules(contained=False, landlock=landlock)
        return decided("x86_64", calls, number, arguments, own=1234)

    # Kernels before 6.2 (Landlock 1 and 2): nothing is emptied by name, nor by opening for reading.
    for version in (0, 1, 2):
        assert weak(version, truncate) == "EPERM" and weak(version, 85) == "EPERM" and weak(version, 437) == "ENOSYS"
        assert weak(version, openat, 0, 0, os.O_RDONLY | os.O_TRUNC) == "EPERM"
        assert weak(version, openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOWED
        assert weak(version, openat, 0, 0, os.O_WRONLY | os.O_TRUNC | os.O_CREAT) == ALLOWED  # writing is Landlock's
    assert weak(3, truncate) == weak(3, openat, 0, 0, os.O_RDONLY | os.O_TRUNC) == ALLOWED
    # Before 6.12 (Landlock 6): signals to itself and its group alone.
    assert weak(5, kill, 1234, 9) == weak(5, kill, 0, 9) == weak(5, tgkill, 1234) == ALLOWED
    assert weak(5, kill, 77, 9) == weak(5, kill, 0xFFFFFFFF, 9) == weak(5, tgkill, 77) == "EPERM"
    assert weak(6, kill, 77, 9) == ALLOWED
    # Modes, owners and times: such a call does nothing and says that it worked.
    assert weak(7, chmod) == weak(7, 91) == weak(7, 92) == weak(7, 280) == "0"
    assert decided("x86_64", STRONG, chmod) == decided("x86_64", STRONG, truncate) == ALLOWED


@contextlib.contextmanager
def landlock_as_of(version, jail, monkeypatch):
    """The launcher of `jail` is told of an older interface, or of none (0)."""
    source = launcher.JAIL.read_text().replace("landlock.version()", str(version))
    assert source != launcher.JAIL.read_text()
    old = launcher.JAIL.with_name(f"jail_as_of_{version}_{os.getpid()}.py")
    monkeypatch.setattr(runner, "_best_jail", lambda: jail)
    monkeypatch.setattr(launcher, "_launchers", {})
    monkeypatch.setattr(launcher, "JAIL", old)
    old.write_text(source)
    try:
        yield
    finally:
        old.unlink()
        launcher._close_launchers()


@on_linux
@pytest.mark.parametrize("version", [1, 2, 3, 5])
def test_older_landlocks_hold_by_the_filter(version, monkeypatch, outside):
    """What the kernel no longer does then, the filter does."""
    jail = next((jail for jail in JAILS if jail.level == LANDLOCK), None)
    if jail is None:
        pytest.skip("no Landlock here")
    names = ("empty a file by name", "empty Python's own files by opening them for reading", "end a process")
    attacks = [attack for attack in ATTACKS if attack.name in names]
    with landlock_as_of(version, jail, monkeypatch):
        results = run_many([outside.filled(code) for attack in attacks for code in (attack.code, attack.twin)])
    assert not outside.harm() and "HARM" not in "".join(result.stdout for result in results)
    assert [result.stdout for result in results[1::2]] == ["fine\n"] * 3, results


@on_linux
def test_the_tree_holds_without_landlock(monkeypatch, outside):
    """The level "namespaces": every attack, on a kernel that has none."""
    jail = next((jail for jail in JAILS if jail.namespaces), None)
    if jail is None:
        pytest.skip("no namespaces here")
    attacks = [attack for attack in ATTACKS if not attack.limits]
    with landlock_as_of(0, jail, monkeypatch):
        assert levels.tried(jail)["landlock"] == 0
        results = run_many([outside.filled(code) for attack in attacks for code in (attack.code, attack.twin)])
    assert not outside.harm()
    assert [attack.name for attack, result in zip(attacks, results[::2]) if "HARM" in result.stdout] == []
    assert [attack.name for attack, result in zip(attacks, results[1::2]) if result.stdout.strip() != "fine"] == []


def test_a_folder_is_removed_whatever_is_in_it(tmp_path):
    folder, kept = tmp_path / "box", tmp_path / "kept"
    folder.mkdir(), kept.mkdir()
    (kept / "file").write_text("x")
    (folder / "link").symlink_to(kept)
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d" * 100, dir_fd=deep)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    (folder / "closed").mkdir()
    (folder / "closed" / "inner").mkdir(mode=0)
    (folder / "closed").chmod(0)
    folders.remove_tree(str(folder))
    assert not folder.exists() and (kept / "file").read_text() == "x"


def test_disk_use_is_measured(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to("/")
    assert not folders.folder_exceeds(str(tmp_path), 1 << 20)
    assert folders.folder_exceeds(str(tmp_path), 50_000)
    assert folders.folder_exceeds(str(tmp_path), 1 << 20, entries=2)


PS = """\
    1     0     0   12345 Ss     10:00.50 Mon Nov  2 10:00:00 2026
  500   400   501   20480 S       0:00.10 Mon Nov  2 10:00:01 2026
  501   500   501  102400 R       0:01.25 Mon Nov  2 10:00:02 2026
  502     1   501    1024 R+   1:00:02.00 Mon Nov  2 10:00:03 2026
"""


def test_macos_processes_are_read_and_remembered(monkeypatch):
    found = processes.parsed(PS)
    assert [(p.pid, p.parent, p.uid, p.memory_bytes >> 20, p.cpu_seconds) for p in found] == [
        (1, 0, 0, 12, 600.5),
        (500, 400, 501, 20, 0.1),
        (501, 500, 501, 100, 1.25),
        (502, 1, 501, 1, 3602.0),
    ]
    tables = [
        PS,
        PS.replace("  501   500", "  501     1"),
        PS.replace("  501   500", "  501     1").replace(":02 2", ":09 2"),
    ]
    tables[1] += "  503   501   501    1024 S       0:00.00 Mon Nov  2 10:00:05 2026\n"
    monkeypatch.setattr(processes, "_table", lambda newest=False: processes.parsed(tables[0]))
    remembered = processes.Remembered(500)
    assert [p.pid for p in remembered.look()] == [501]
    tables.pop(0)  # it detached itself and has a child
    assert [p.pid for p in remembered.look()] == [501, 503]
    tables.pop(0)  # its number was given to another process
    assert remembered.look() == []


def test_the_macos_profile_allows_only_what_it_names():
    text = macos.profile("/private/tmp/a.b", "/x/jail.py", ["/py"], strict=True)
    rules = text.splitlines()
    assert rules[1] == "(deny default)" and text.count("(") == text.count(")")
    assert r'(allow file-read* file-write* (regex #"^/private/tmp/a[.]b/[^/]+/"))' in rules
    metadata = next(rule for rule in rules if "file-read-metadata" in rule)
    assert '(literal "/private/tmp/a.b")' in metadata and "subpath" not in metadata
    assert '(literal "/x")' in metadata and "(allow file-read-metadata)" not in rules
    assert "(allow sysctl-read)" not in rules and "kern.proc" not in text
    assert "network" not in text and "mach" not in text.replace("hw.machine", "")
    loose = macos.profile("/private/tmp/a.b", "/x/jail.py", ["/py"], strict=False).splitlines()
    assert {"(allow file-read-metadata)", "(allow sysctl-read)"} <= set(loose) and rules[:10] == loose[:10]
