"""MLX's trees of arrays as flat dictionaries, with types."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten


def flat(tree: Any) -> dict[str, mx.array]:
    """The arrays of a module's parameters, of an optimizer's state, ... by dotted name."""
    return cast(dict[str, mx.array], tree_flatten(tree, destination={}))


def number(array: mx.array) -> float:
    """The value of an array of one element."""
    return cast(float, array.item())


def load(path: str) -> dict[str, mx.array]:
    """The arrays of a safetensors file."""
    return cast(dict[str, mx.array], mx.load(path))
