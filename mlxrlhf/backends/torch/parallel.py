"""Sums and gathers over the processes that torchrun started."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """This process's number and how many there are."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def gather(array: np.ndarray, device: torch.device) -> np.ndarray:
    """The array of every process, stacked: (processes, ...)."""
    mine = torch.as_tensor(np.ascontiguousarray(array), device=device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts).cpu().numpy()


def add(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each array summed over the processes, all in one message; float32."""
    flat = torch.cat([array.detach().float().reshape(-1) for array in arrays.values()])
    dist.all_reduce(flat)
    parts = flat.split([array.numel() for array in arrays.values()])
    return {name: part.view(array.shape) for (name, array), part in zip(arrays.items(), parts)}
