"""Who may import what, read from the source; and a command line that runs where a library is missing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mlxrlhf"
HEAVY = {"mlx", "mlx_lm", "torch"}
#: highest first: a room may import what stands behind it, never what stands before it
ROOMS = (
    "annotate stages agent rewards preferences backends plan models tasks data report sandbox backends.protocol "
    "algorithms config settings files hub wheels parallel web display workspace errors"
).split()
MAY_IMPORT = {"mlx": {"mlx", "mlx_lm"}, "torch": {"torch"}}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_only_its_backend_imports_a_library():
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).parts
        allowed = MAY_IMPORT[place[1]] if place[0] == "backends" and len(place) > 2 else set()
        assert set(imported(path)) & HEAVY <= allowed, path


def rooms_imported(path):
    """The rooms of this package that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "mlxrlhf":
            names = [node.module] if "." in node.module else [f"mlxrlhf.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("mlxrlhf.")]
        else:
            continue
        yield from map(room, names)


def room(module):
    """The room of a dotted name. The contract with the backends is types alone: any room may name them."""
    parts = module.split(".")
    return "backends.protocol" if parts[1:3] == ["backends", "protocol"] else parts[1]


def test_no_room_imports_a_higher_one():
    for path in PACKAGE.rglob("*.py"):
        own = room(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        if own == "__init__":
            continue
        for other in set(rooms_imported(path)) - {"__version__"}:
            assert ROOMS.index(other) >= ROOMS.index(own), f"{path} imports {other}, which stands above {own}"


def test_objectives_stay_inside_the_names_both_libraries_spell_alike():
    shared = {"abs", "exp", "minimum", "maximum", "clip", "where", "square", "sum", "mean", "logsumexp", "logaddexp"}
    tree = ast.parse((PACKAGE / "algorithms" / "losses.py").read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "xp"}
    assert used and used <= shared


#: what has no counterpart in PyTorch, or another name there
OF_MLX_ALONE = {"compiles", "Pack", "Trunk", "Reading", "arrays_of", "on_gpu"}


def test_the_backends_mirror_each_other():
    for name in ("__init__", "network", "lora", "heads", "model", "generate", "train", "memory", "parallel", "device"):
        trees = [ast.parse((PACKAGE / "backends" / kind / f"{name}.py").read_text()) for kind in ("mlx", "torch")]
        ours, other = (
            {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")}
            for tree in trees
        )
        missing = ours - other - OF_MLX_ALONE
        assert missing == set(), f"backends/torch/{name}.py lacks {missing}"


BLOCKED = """
import sys
sys.modules.update({{name: None for name in {names}}})
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names} else found(name, package)
from mlxrlhf import backends
{code}
"""


@pytest.mark.parametrize(
    "missing,code,said",
    [
        (["mlx"], "print(backends.load('auto').__name__)", "mlxrlhf.backends.torch"),
        (["torch"], "print(backends.load('auto').__name__)", "mlxrlhf.backends.mlx"),
        (["torch"], "backends.load('torch')", "pip install 'mlxrlhf[torch]'"),
        (["mlx", "torch"], "backends.load('auto')", "MLX is not installed"),
        (
            ["mlx", "mlx_lm"],
            "from mlxrlhf import config\nfrom mlxrlhf.agent import serve\nserve.run(config.ServeConfig())",
            "MLX is not installed",
        ),
    ],
)
def test_a_missing_library_is_not_needed_or_named(missing, code, said):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=missing, code=code)], capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr
