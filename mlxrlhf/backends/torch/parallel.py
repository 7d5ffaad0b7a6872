"""Sums and gathers over the processes that torchrun started."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mlxrlhf import parallel
from mlxrlhf.backends.torch.device import device
from mlxrlhf.errors import UserError


def world() -> tuple[int, int]:
    """This process's number and how many there are. Raises UserError where another launcher than torchrun says it."""
    number, count = parallel.world()
    if count == 1:
        return 0, 1
    if "RANK" not in os.environ:
        raise UserError(f"this is process {number} of {count} of another launcher; start --backend torch with torchrun")
    if not dist.is_initialized():
        dist.init_process_group(collective(device()))
    return number, count


def collective(place: torch.device) -> str:
    """The library that adds tensors of a device up."""
    return "nccl" if place.type == "cuda" else "gloo"


def gather(array: np.ndarray, place: torch.device) -> np.ndarray:
    """The array of every process, stacked: (processes, ...)."""
    mine = torch.as_tensor(np.ascontiguousarray(array), device=_sent_from(place))
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts).cpu().numpy()


def add(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each array summed over the processes, all in one message; float32."""
    flat = torch.cat([array.detach().float().reshape(-1) for array in arrays.values()])
    total = flat.to(_sent_from(flat.device))
    dist.all_reduce(total)
    parts = total.to(flat.device).split([array.numel() for array in arrays.values()])
    return {name: part.view(array.shape) for (name, array), part in zip(arrays.items(), parts)}


def _sent_from(place: torch.device) -> torch.device:
    """Where a message must lie: NCCL sends from the GPU, gloo from the CPU."""
    return place if collective(place) == "nccl" else torch.device("cpu")
