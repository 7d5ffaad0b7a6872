"""The examples in docstrings are run."""

import doctest
import importlib

import pytest
from helpers import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "mlxrlhf").rglob("*.py"))
    if ">>> " in path.read_text() and "bank" not in path.parts
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted and not failed


def test_there_are_examples():
    assert MODULES
