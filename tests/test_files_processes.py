"""Files against real processes and real file systems: two runs at once, SIGKILL, a full disk, mount points."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from mlxrlhf import files
from mlxrlhf.models.savepoints import SavePoints

BEGIN = """
import os, sys
from types import SimpleNamespace
import numpy as np
from mlxrlhf import files
from mlxrlhf.errors import UserError
from mlxrlhf.models.outputs import OutputFolder
from mlxrlhf.models.savepoints import SavePoints

def config(**changes):
    return SimpleNamespace(**{"resume": False, "restart": False, **changes})

def refused(work):
    try:
        work()
    except UserError as error:
        return str(error)
    raise AssertionError("not refused")

def run(out, text, **changes):
    with OutputFolder(out, stage="ppo", config=config(**changes)) as folder:
        folder.begin()
        for step in (1, 2):
            folder.points.save(step, [("x", np.full(50_000, step, np.float32))], {"text": text})
        with folder.replace() as new:
            (new / "config.json").write_text(text)
            (new / "model.safetensors").write_text(text)
"""


def python(code, *arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


HOLD = """
try:
    with OutputFolder(sys.argv[1], stage="ppo", config=config()) as folder:
        print("taken", os.getpid(), flush=True)
        sys.stdin.readline()
        with folder.replace() as new:
            (new / "config.json").write_text(str(os.getpid()))
except UserError as error:
    print(error, flush=True)
"""


def test_of_runs_started_at_once_one_takes_the_folder(tmp_path):
    out = tmp_path / "rlhf"
    running = [python(HOLD, out) for _ in range(4)]
    said = [process.stdout.readline() for process in running]
    winners = [line.split()[1] for line in said if line.startswith("taken")]
    assert len(winners) == 1, said
    expected = f"{out} is being written by process {winners[0]}; wait for it, or choose another folder\n"
    assert sorted(said) == sorted([expected] * 3 + [f"taken {winners[0]}\n"])
    for process in running:
        process.communicate("\n")
    assert (out / "config.json").read_text() == winners[0] and os.listdir(tmp_path) == ["rlhf"]


def test_a_killed_run_gives_its_folder_back(tmp_path):
    out = tmp_path / "rlhf"
    process = python(HOLD, out)
    assert process.stdout.readline().startswith("taken")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and ".rlhf.mlxrlhf-lock" in os.listdir(tmp_path)
    assert python(HOLD, out).communicate("\n")[0].startswith("taken") and os.listdir(tmp_path) == ["rlhf"]


DIE = """
sys.path.insert(0, sys.argv[3])
import pytest, faults

class Dead(faults.Faults):
    def check(self, name, path):
        self.count += 1
        if self.count == self.number:
            os._exit(9)

run(sys.argv[1], "one")
with pytest.MonkeyPatch.context() as patch:
    Dead(patch, "/", "kill", int(sys.argv[2]))
    run(sys.argv[1], "two")
print("through")
"""


def test_a_process_that_ends_anywhere_leaves_the_old_or_the_new(tmp_path):
    """What tests/test_files.py does at every call in one process, at a few calls in processes of their own."""
    again: dict = {}
    exec(BEGIN, again)
    running = {}
    for call in range(3, 130, 20):
        out = tmp_path / str(call) / "rlhf"
        running[out] = python(DIE, out, call, os.path.dirname(__file__))
        if len(running) % 3 == 0:
            running[out].wait()
    for out, process in running.items():
        said, _ = process.communicate()
        assert process.returncode == 9, said
        texts = {(out / name).read_text() for name in ("config.json", "model.safetensors")}
        assert texts in ({"one"}, {"two"}), out
        again["run"](out, "three", resume=True)
        assert (out / "config.json").read_text() == "three" and SavePoints(out).steps() == [1, 2]
        assert os.listdir(out.parent) == ["rlhf"] and not [name for name in files.walk(out) if ".old" in str(name)]


NAMESPACE = """
room = sys.argv[1]
def mount(*arguments):
    import subprocess
    subprocess.run(["mount", *arguments], check=True)

mount("-t", "tmpfs", "-o", "size=1m", "none", room)
out = f"{room}/small/rlhf"
run(out, "one")
points = SavePoints(out)
said = refused(lambda: points.save(3, [("x", np.zeros(400_000, np.float32))], {}))
assert "step 3 could not be saved" in said and "No space left on device; the save of step 2 stands" in said, said
assert points.latest()[1]["step"] == 2 and sorted(os.listdir(points.folder)) == ["step-00000001", "step-00000002"]
said = refused(lambda: OutputFolder(out, stage="ppo", config=config(), need_bytes=10**9).__enter__())
assert "will write up to 1.00 GB" in said and "make room" in said, said

def too_much():
    with OutputFolder(out, stage="ppo", config=config(resume=True)) as folder, folder.replace() as new:
        (new / "config.json").write_text("two" * 500_000)
said = refused(too_much)
assert "could not be written: No space left on device; the save of step 2 stands" in said, said
assert open(f"{out}/config.json").read() == "one" and os.listdir(f"{room}/small") == ["rlhf"]

os.makedirs(f"{room}/mounted/rlhf"); os.makedirs(f"{room}/other")
mount("--bind", f"{room}/other", f"{room}/mounted/rlhf")
said = refused(lambda: run(f"{room}/mounted/rlhf", "one"))
assert "is a mount point" in said, said
assert "is a mount point" in refused(lambda: run(room, "one"))
mount("-o", "remount,ro", "none", room)
said = refused(lambda: run(f"{room}/new/rlhf", "one"))
assert "cannot write to" in said and "Read-only file system; choose another folder" in said, said
assert "Read-only file system" in refused(lambda: run(out, "two"))
print("good")
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs a mount namespace",
)
def test_full_and_read_only_disks_and_mount_points(tmp_path):
    """On a tmpfs that only this process sees."""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", BEGIN + NAMESPACE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "good\n", done.stdout + done.stderr
    assert not os.listdir(tmp_path)
