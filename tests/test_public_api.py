"""What `import mlxrlhf` offers: a change here is a change for users."""

import subprocess
import sys

import mlxrlhf
from mlxrlhf import config


def test_the_public_names():
    assert sorted(mlxrlhf.__all__) == sorted(
        "UserError __version__ config pretrain finetune reward ppo grpo dpo evaluate fuse export".split()
    )
    assert dir(mlxrlhf) == sorted(mlxrlhf.__all__)
    for name in mlxrlhf.__all__:
        assert getattr(mlxrlhf, name) is not None


def test_a_stage_is_its_commands_own():
    from mlxrlhf.stages import ppo

    assert mlxrlhf.ppo is ppo.run and mlxrlhf.config is config


def test_importing_it_imports_none_of_the_heavy_libraries():
    heavy = {"numpy", "mlx", "torch", "transformers", "rich"}
    code = f"import sys, mlxrlhf, mlxrlhf.config; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
