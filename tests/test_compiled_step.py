"""The path that only a GPU takes, a compiled training step, taken on the CPU: some of test_parity.py's contract.

MLXRLHF_COMPILE=1 pytest tests/test_parity.py runs all of it so.
"""

import shutil

import pytest
import test_parity

from mlxrlhf.backends.mlx import train

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles on the CPU with g++")


@pytest.mark.parametrize("wish,compiled", [("1", True), ("0", False), ("", False)])
def test_the_environment_decides_on_the_cpu(wish, compiled, monkeypatch):
    monkeypatch.setenv("MLXRLHF_COMPILE", wish)
    monkeypatch.setattr(train, "on_gpu", lambda: False)
    assert train.compiles() == compiled
    monkeypatch.setattr(train, "on_gpu", lambda: True)
    assert train.compiles() == (wish != "0")


@needs_a_compiler
def test_a_compiled_step_agrees_with_torch(monkeypatch):
    monkeypatch.setenv("MLXRLHF_COMPILE", "1")
    calls = []
    monkeypatch.setattr(train.mx, "compile", _counting(train.mx.compile, calls))
    test_parity.test_ppo_objective(0, True)  # with the KL in the loss: the reference head is kept beside the trunk
    test_parity.test_adamw_over_ten_steps_with_warmup_clipping_and_accumulation()
    assert calls, "nothing was compiled"


def _counting(compile_step, calls):
    def wrapped(*arguments, **settings):
        calls.append(arguments)
        return compile_step(*arguments, **settings)

    return wrapped
