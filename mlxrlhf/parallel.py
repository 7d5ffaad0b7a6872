"""Data parallelism: several processes train one model, each on its share of the rows.

Started by `mlx.launch` (ring or another of MLX's backends) or `torchrun`. Every process draws the same batches and the
same random numbers, works on its own rows, and adds its gradients to everybody's: losses are divided by the tokens of
the whole batch, so that the sum is what one process would compute. The first process alone writes files and logs.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Callable

from mlxrlhf.errors import UserError

if typing.TYPE_CHECKING:  # the command line asks who is first, and must not wait for NumPy
    import numpy as np


#: what launchers tell a process: its number, the count of all, and what else torchrun always sets
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "MASTER_ADDR"),  # torchrun
    ("MLX_RANK", "MLX_WORLD_SIZE"),  # mlx.launch with NCCL
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI, which mlx.launch starts too
    ("PMI_RANK", "PMI_SIZE"),  # MPICH
)
#: mlx.launch with its ring or over Thunderbolt: the count is the length of the JSON list in this file
_HOST_LISTS = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")


def world() -> tuple[int, int]:
    """This process's number and how many there are, as its launcher says; (0, 1) without one.

    A number is believed only beside its count: RANK=1 that an environment was left with makes no process the second.
    """
    for names in _LAUNCHERS:
        if all(os.environ.get(name) for name in names):
            return _believed(os.environ[names[0]], os.environ[names[1]])
    for name in _HOST_LISTS:
        if os.environ.get("MLX_RANK") and os.path.isfile(os.environ.get(name, "")):
            with open(os.environ[name], encoding="utf-8") as stream:
                hosts = json.loads(stream.read() or "[]")
            return _believed(os.environ["MLX_RANK"], str(len(hosts)))
    return 0, 1


def _believed(number: str, count: str) -> tuple[int, int]:
    try:
        rank, size = int(number), int(count)
    except ValueError:
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def first() -> bool:
    """True in the process that writes."""
    return world()[0] == 0


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


def from_first(model, make: Callable[[], typing.Any]) -> typing.Any:
    """The JSON value that `make` gives in the first process, in every process: for work whose result may vary."""
    import numpy as np

    if model.world[1] == 1:
        return make()
    content = json.dumps(make()).encode() if first() else b""
    size = int(gather(model, np.array([len(content)], np.int32)).max())
    letters = np.zeros(size, np.int32)
    letters[: len(content)] = np.frombuffer(content, np.uint8)
    return json.loads(gather(model, letters).sum(axis=0).astype(np.uint8).tobytes())
