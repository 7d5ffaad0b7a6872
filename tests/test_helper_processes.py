"""What is started or imported on the way never comes out of the current folder or beats a module of this program."""

import ast
import sys
from pathlib import Path

from mlxrlhf.agent import own_tools
from mlxrlhf.tasks import quality

ROOT = Path(__file__).parent.parent
SOURCES = [path for room in ("mlxrlhf", "cli", "benchmarks", "weights") for path in (ROOT / room).rglob("*.py")]


def commands(tree):
    """The literal beginnings of command lines that start this Python: the words behind sys.executable."""
    for node in ast.walk(tree):
        elements = getattr(node, "elts", None) or getattr(node, "args", None)
        if not isinstance(elements, list):
            continue
        texts = [ast.unparse(element) for element in elements]
        if "sys.executable" in texts:
            behind = elements[texts.index("sys.executable") + 1 :]
            yield [element.value for element in behind if isinstance(element, ast.Constant)]


def test_every_python_that_runs_a_module_ignores_the_current_folder():
    found = [(path.name, words) for path in SOURCES for words in commands(ast.parse(path.read_text())) if "-m" in words]
    assert {"wheels.py", "quality.py"} <= {name for name, _ in found}
    for name, words in found:
        assert "-P" in words[: words.index("-m")], name


def test_ruff_is_not_taken_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "ruff.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nprint('[]')")
    monkeypatch.chdir(tmp_path)
    (measured,) = quality.measure(["import os\n"])
    assert not (tmp_path / "ran").exists() and measured.lint > 0


def test_neighbours_of_own_tools_never_replace_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_tools", raising=False)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "colorsys.py").write_text("raise SystemExit('a neighbour was taken for the standard module')")
    (tmp_path / "neighbour_of_mine.py").write_text("ANSWER = 42")
    (tmp_path / "mine.py").write_text(
        "import colorsys, neighbour_of_mine\ndef answer() -> int:\n    '''The answer.'''\n"
        "    return neighbour_of_mine.ANSWER\n"
    )
    tools = own_tools.load(tmp_path / "mine.py")
    assert tools["answer"].function() == "42"
    assert sys.path[-1] == str(tmp_path)
