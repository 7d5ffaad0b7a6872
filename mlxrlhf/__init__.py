"""Align a language model on a Mac: pretraining, fine-tuning, reward modelling and PPO on MLX.

    import mlxrlhf
    from mlxrlhf.config import PPOConfig

    figures = mlxrlhf.ppo(PPOConfig(model="smollm2", reward="tests", steps_per_epoch=20))

Each function takes the configuration of the command of the same name (`mlxrlhf.config`), writes the same folders and
returns the figures of summary.json. What the user can put right is raised as `UserError`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: the public functions: each is its stage's run()
_STAGES = ("pretrain", "finetune", "reward", "ppo", "grpo", "dpo", "evaluate", "fuse", "export")
__all__ = ["UserError", "__version__", "config", *_STAGES]


def __getattr__(name: str) -> Any:
    """A stage's libraries are imported when it is asked for: `mlxrlhf --help` needs none of them."""
    if name in _STAGES:
        return importlib.import_module(f"mlxrlhf.stages.{name}").run
    if name == "config":
        return importlib.import_module("mlxrlhf.config")
    if name == "UserError":
        return importlib.import_module("mlxrlhf.errors").UserError
    raise AttributeError(f"module 'mlxrlhf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
