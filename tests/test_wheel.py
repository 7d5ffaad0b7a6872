"""What `pip install` installs: a wheel, built from a copy of the checkout, unpacked elsewhere and run there."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from helpers import ROOT

#: where a file of the checkout stands in the wheel
PLACES = {"mlxrlhf": "mlxrlhf", "cli": "mlxrlhf_cli", "weights/demo": "mlxrlhf/shipped"}
ignored = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the build backend itself: no network, no isolation."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PLACES:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    """What a file is for decides nothing: a room without __init__.py or a page.html that is forgotten shows up here."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    about = {name for name in packed if ".dist-info/" in name}
    expected = {
        f"{place}/{file.relative_to(ROOT / name).as_posix()}"
        for name, place in PLACES.items()
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {
        "mlxrlhf/annotate/page.html",
        "mlxrlhf/py.typed",
        "mlxrlhf/shipped/adapters/adapters.safetensors",
    } < expected
    assert packed - about == expected
    assert any(name.endswith("licenses/LICENSE") for name in about)
    (entry,) = (name for name in about if name.endswith("entry_points.txt"))
    assert "mlxrlhf = mlxrlhf_cli.main:run" in zipfile.ZipFile(wheel).read(entry).decode()


def test_the_wheel_runs_outside_the_checkout(wheel, tmp_path):
    """The demo's first steps: the shipped model is found, read and answers."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "from mlxrlhf.models import published; print(published.shipped())\n"
        "from mlxrlhf_cli import main; main.app(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", code, "chat", "--prompt", "Hello", "--max-tokens", "2", "--backend", "mlx"]
    ran = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    packed = tmp_path / "site" / "mlxrlhf" / "shipped"
    assert ran.stdout.startswith(f"{packed.resolve()}\n") and "2 tokens" in ran.stderr, ran.stderr


@pytest.mark.skipif(not os.environ.get("MLXRLHF_LONG"), reason="nightly: set MLXRLHF_LONG")
def test_the_wheel_runs_the_demo_outside_the_checkout(wheel, tmp_path):
    """In an environment of its own that has this one's dependencies."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # The dependencies of the environment that runs this test, behind what was just installed.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    ran = subprocess.run([environment / "bin" / "mlxrlhf", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and (tmp_path / "runs" / "demo" / "report.html").is_file(), ran.stderr


def test_the_packages_are_found_not_listed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "packages" not in settings, "setup.py searches for them"
