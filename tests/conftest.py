"""What every test starts from: folders made once for all processes of a run, who runs first, who needs PyTorch."""

import fcntl
import importlib.util
import os
import re
import signal
from pathlib import Path

import project as projects
import publisher
import pytest

# A shell starts its background jobs with SIGINT ignored, and children inherit that: no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)


# PyTorch is an extra. Where it is missing, files that compare with it are left out, and of others the cases on it.
TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = re.compile(r"^(import|from) (torch|mlxrlhf\.backends\.torch|test_parity)\b|^torch\.", re.M)
collect_ignore = [
    file.name
    for file in sorted(Path(__file__).parent.glob("test_*.py"))
    if not TORCH and NEEDS_TORCH.search(file.read_text(encoding="utf-8"))
]


def pytest_report_header():
    return None if TORCH else f"PyTorch is not installed; left out: {', '.join(collect_ignore)}"


def pytest_collection_modifyitems(items):
    """Tests of the shared project come first, so that they lie in one process's half while the other has its own."""
    items.sort(key=lambda item: "project_once" not in item.fixturenames)
    for item in items:
        if not TORCH and hasattr(item, "callspec") and "torch" in item.callspec.params.values():
            item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, build) is a folder that build(folder) has filled, once for all processes of this run.

    Whoever comes second waits. A build that failed fails for everybody, and is not tried again.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def make(name, build):
        folder, state = shared / name, shared / f"{name}.state"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not state.exists():
                state.write_text("failed")
                folder.mkdir()
                build(folder)
                state.write_text("made")
        assert state.read_text() == "made", f"{name} could not be made; the first test that wanted it says why"
        return folder

    return make


@pytest.fixture(scope="session")
def project_once(once):
    return once("project", projects.build)


@pytest.fixture
def project(project_once, monkeypatch):
    """A folder in which every stage has run once, as the working folder. Tests write beside it, not into it."""
    monkeypatch.chdir(project_once)
    return project_once


@pytest.fixture(scope="session")
def maker(once):
    """The folder of a small random model as another maker publishes it; tests read it only."""
    pytest.importorskip("torch")
    return once("maker", publisher.publish) / "tiny-instruct"
