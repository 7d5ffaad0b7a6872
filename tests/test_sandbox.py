"""The sandbox under attack; a harmless twin of each attack succeeds, so that a refusal means something."""

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import runner
from mlxrlhf.sandbox.runner import Limits, run_bash, run_many, run_python

pytestmark = pytest.mark.skipif(runner.level() == "none", reason="no operating-system jail here")


def test_output_and_exit_code():
    result = run_python("print(6 * 7)")
    assert result.ok and result.stdout == "42\n"
    assert run_python("raise SystemExit(3)").returncode == 3
    assert run_bash("echo $((6 * 7))").stdout == "42\n"


def test_reading_outside_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    assert "hunter2" not in run_python(f"print(open({str(secret)!r}).read())").stdout
    assert not run_python(f"import os; print(os.listdir({str(Path.home())!r}))").ok
    assert run_python("open('mine', 'w').write('x'); print(open('mine').read())").stdout == "x\n"


def test_writing_outside_is_refused(tmp_path):
    target = tmp_path / "written"
    assert not run_python(f"open({str(target)!r}, 'w').write('x')").ok
    assert not target.exists()


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_the_network_is_closed(kind):
    import socket

    with socket.socket(socket.AF_INET, getattr(socket, kind)) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.5)
        if kind == "SOCK_STREAM":
            server.listen()
        code = (
            f"import socket; s = socket.socket(socket.AF_INET, socket.{kind})\n"
            f"s.connect(('127.0.0.1', {server.getsockname()[1]})); s.send(b'x')"
        )
        exec(code, {})  # the attack works where there is no jail
        receive = server.accept if kind == "SOCK_STREAM" else lambda: server.recv(1)
        receive()
        run_python(code)
        with pytest.raises(TimeoutError):
            receive()


def test_time_memory_and_output_are_bounded():
    limits = Limits(wall_seconds=1.5)
    assert run_python("while True: pass", limits=limits).timed_out
    assert not run_python("x = bytearray(4 << 30); print('had it')").ok
    endless = run_python("while True: print('y' * 1000)", limits=limits)
    assert endless.truncated and len(endless.stdout) <= limits.output_bytes


def test_many_snippets_keep_their_order_and_do_not_harm_each_other():
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


def test_a_fork_bomb_is_contained():
    limits = Limits(wall_seconds=2, processes=8)
    code = (
        "import os, time\nmade = 0\nfor _ in range(100):\n    try:\n        pid = os.fork()\n"
        "    except OSError:\n        break\n    if pid == 0:\n        time.sleep(10)\n    made += 1\nprint(made)"
    )
    started = time.monotonic()
    # The sandbox's own few processes count too, and where they belong to another user they leave room.
    assert int(run_python(code, limits=limits).stdout or 0) <= limits.processes + 4
    run_bash("bomb() { bomb | bomb & }; bomb; sleep 10", limits=limits)
    assert time.monotonic() - started < 9  # both ended at their time, if not before
    assert run_python("print('alive')").stdout == "alive\n"


@pytest.mark.skipif(shutil.which("ps") is None, reason="processes are looked for with ps")
@pytest.mark.parametrize("detach", [False, True])
def test_a_child_dies_with_its_snippet(detach):
    if detach and runner.level() == "sandbox-exec":
        pytest.skip("macOS has no process namespace: a child that detaches itself may outlive its parent")
    mark = f"outlives-{os.getpid()}-{detach}"

    def alive():
        command = ["ps", "-axww", "-o", "command"]  # w: not cut to the terminal
        return mark in subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def until(state, seconds):
        end = time.monotonic() + seconds
        while alive() != state and time.monotonic() < end:
            time.sleep(0.05)
        return alive() == state

    child = [f"[sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}]", f"start_new_session={detach}"]
    code = f"import subprocess, sys, time\nsubprocess.Popen({', '.join(child)})\ntime.sleep(1)"
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
    assert runner.level() == "none"
    assert run_python("print(1)", unsafe=True).stdout == "1\n"
    assert run_bash("echo 1", unsafe=True).stdout == "1\n"
    assert [result.stdout for result in run_many(["print(1)"], unsafe=True)] == ["1\n"]
