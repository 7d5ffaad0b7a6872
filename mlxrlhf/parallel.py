"""Data parallelism: several processes train one model, each on its share of the rows.

Started by `mlx.launch` (ring or another of MLX's backends) or `torchrun`. Every process draws the same batches and the
same random numbers, works on its own rows, and adds its gradients to everybody's: losses are divided by the tokens of
the whole batch, so that the sum is what one process would compute. The first process alone writes files and logs.
"""

from __future__ import annotations

import os
import typing

from mlxrlhf.errors import UserError

if typing.TYPE_CHECKING:  # the command line asks who is first, and must not wait for NumPy
    import numpy as np


def rank() -> int:
    """This process's number, from its launcher; 0 where there is none."""
    return int(os.environ.get("MLX_RANK") or os.environ.get("RANK") or 0)


def first() -> bool:
    """True in the process that writes."""
    return rank() == 0


def share(count: int, model) -> np.ndarray:
    """Which of `count` rows this process works on. Raises UserError when some process would have none."""
    import numpy as np

    number, processes = model.world
    if count < processes:
        raise UserError(f"{processes} processes cannot share {count} rows; raise the batch sizes or start fewer")
    return np.arange(number, count, processes)


def gather(model, array: np.ndarray) -> np.ndarray:
    """The array of every process, stacked; all of one shape."""
    return array[None] if model.world[1] == 1 else model.gather(array)


def any_of(model, flag: bool) -> bool:
    """True when it is in any process."""
    import numpy as np

    return bool(gather(model, np.array([flag], np.float32)).any())


def alone(backend, command: str) -> None:
    """Raises UserError when a command that runs in one process was started in several."""
    if backend.world()[1] > 1:
        raise UserError(f"{command} runs in one process; start it without mlx.launch or torchrun")
