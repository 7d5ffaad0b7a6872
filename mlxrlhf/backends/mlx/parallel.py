"""Sums and gathers over the processes that mlx.launch started."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlxrlhf import parallel
from mlxrlhf.backends.mlx.trees import flat
from mlxrlhf.errors import UserError


def world() -> tuple[int, int]:
    """This process's number and how many there are. Raises UserError where MLX does not see what the launcher says."""
    number, count = parallel.world()
    if count == 1:
        return 0, 1  # without a launcher MLX would look for MPI
    group = mx.distributed.init()
    if (group.rank(), group.size()) != (number, count):
        raise UserError(
            f"the launcher says process {number} of {count}, MLX sees {group.rank()} of {group.size()}; "
            "start it with mlx.launch, or with torchrun and --backend torch"
        )
    return number, count


def gather(array: np.ndarray) -> np.ndarray:
    """The array of every process, stacked: (processes, ...)."""
    stacked = mx.distributed.all_gather(mx.array(array)[None])
    return np.array(stacked)


def add(arrays: dict[str, mx.array], processes: int) -> dict[str, mx.array]:
    """Each array summed over the processes; float32."""
    tree = tree_unflatten([(name, array.astype(mx.float32)) for name, array in arrays.items()])
    return {name: mean * processes for name, mean in flat(nn.utils.average_gradients(tree)).items()}
