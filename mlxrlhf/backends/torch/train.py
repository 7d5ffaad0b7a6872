"""The optimizer step on PyTorch: gradients over micro-batches, clipping, AdamW on float32 masters."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlxrlhf.backends.protocol import Batch, Check, ModelSettings, Objective
from mlxrlhf.backends.torch import parallel
from mlxrlhf.backends.torch.network import Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: torch's name of AdamW's moments, and the save point's
_MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}


class Trainer:
    """Gradients of a network and the optimizer that applies them."""

    def __init__(
        self, network: Network, settings: ModelSettings, reference_weight: Tensor | None, device: torch.device
    ):
        self.network, self.settings, self.reference_weight = network, settings, reference_weight
        self.device = device
        self._shapes: set[tuple] = set()
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        # bfloat16 cannot absorb small steps, so what is trained has a float32 master that the trunk is cast from.
        self._masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self._trained.items()
        }
        members: dict[str, dict[str, Tensor]] = {"decay": {}, "plain": {}, "head": {}}
        for name, p in self._masters.items():
            members[_group(name, p)][name] = p
        self._groups = {
            group: AdamW(named, settings.weight_decay if group == "decay" else 0.0) for group, named in members.items()
        }

    @property
    def traces(self) -> int:
        """Shapes that `gradient` has met."""
        return len(self._shapes)

    def step(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        want: Sequence[str],
        learning_rate: float,
        temperature: float,
        processes: int,
        check: Check | None = None,
    ) -> dict[str, float]:
        """See `protocol.Model.step`."""
        gradients: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        for batch in batches:
            gradient, metrics = self.gradient(objective, batch, tuple(want), temperature)
            if gradients:
                torch._foreach_add_(list(gradients.values()), list(gradient.values()))
            else:
                gradients = gradient
            del gradient
            totals = {k: totals[k] + metrics[k] for k in totals} if totals else metrics
        if processes > 1:
            gradients, totals = parallel.add(gradients), parallel.add(totals)
        norm = float(nn.utils.get_total_norm(gradients.values()))
        figures = {name: float(value) for name, value in totals.items()}
        figures["grad_norm"], figures["skipped"] = norm, 0.0
        if not (math.isfinite(norm) and math.isfinite(figures["loss"])):
            figures["skipped"] = 1.0
            return figures
        if check:
            check(figures)
        limit = self.settings.max_grad_norm
        scale = min(1.0, limit / (norm + 1e-6)) if limit else 1.0
        if scale < 1:
            torch._foreach_mul_(list(gradients.values()), scale)
        self._update(gradients, learning_rate)
        return figures

    def gradient(
        self, objective: Objective, batch: Batch, want: tuple[str, ...], temperature: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Float32 gradient of every trained parameter, zero where the objective does not reach it, and the metrics."""
        tensors = tensors_of(batch, self.device)
        self._shapes.add((objective, want, temperature, *((name, np.shape(value)) for name, value in tensors.items())))
        loss, metrics = objective(torch, self.network(tensors, want, temperature, self.reference_weight), tensors)
        gradient = torch.autograd.grad(loss, list(self._trained.values()), allow_unused=True, materialize_grads=True)
        return (
            {name: g.float() for name, g in zip(self._trained, gradient)},
            {name: value.detach() for name, value in metrics.items()},
        )

    def _update(self, gradients: dict[str, Tensor], learning_rate: float) -> None:
        head_rate = self.settings.head_learning_rate
        for group, optimizer in self._groups.items():
            if optimizer.parameters:
                optimizer.step(gradients, head_rate if group == "head" and head_rate is not None else learning_rate)
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Cast the masters into the network: adapters and heads stay float32, the trunk takes its own precision."""
        for name, p in self._trained.items():
            if p is not self._masters[name]:
                p.copy_(self._masters[name])

    # --- state -----------------------------------------------------------------------------------------------------

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """See `protocol.Model.named_arrays`."""
        for name, weight in self._masters.items():
            yield f"weights/{name}", to_numpy(weight)
        for group, optimizer in self._groups.items():
            for name, array in optimizer.named_arrays():
                yield f"optimizer/{group}/{name}", array

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `named_arrays` gave."""
        load_weights(self._masters, arrays)
        for group, optimizer in self._groups.items():
            optimizer.load_state(arrays, f"optimizer/{group}/")
        self._publish()


class AdamW:
    """torch's AdamW (Loshchilov and Hutter 2019) over named parameters, its state in MLX's names and layout."""

    def __init__(self, parameters: Mapping[str, Tensor], weight_decay: float):
        self.parameters, self.weight_decay = dict(parameters), weight_decay

    @functools.cached_property
    def torch(self) -> torch.optim.AdamW:
        """Made on first use: torch then loads its compiler, a second that a model which only answers need not wait."""
        # torch refuses an optimizer without parameters, but not an empty group in one.
        groups = [{"params": list(self.parameters.values())}]
        return torch.optim.AdamW(
            groups, lr=1.0, betas=(0.9, 0.95), eps=1e-5, weight_decay=self.weight_decay, fused=True
        )

    def step(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        for name, p in self.parameters.items():
            p.grad = gradients[name]
        self.torch.param_groups[0]["lr"] = learning_rate
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """step () uint64, learning_rate () float32 and, once a step was taken, NAME.m and NAME.v of each parameter."""
        state = self.torch.state if self._made else {}
        yield "step", np.array(max((int(slots["step"]) for slots in state.values()), default=0), np.uint64)
        yield "learning_rate", np.array(self.torch.param_groups[0]["lr"] if self._made else 1.0, np.float32)
        for name, p in self.parameters.items():
            for slot, letter in _MOMENTS.items():
                if p in state:
                    yield f"{name}.{letter}", to_numpy(state[p][slot])

    def load_state(self, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
        """Take over what `named_arrays` gave, under names that start with `prefix`."""
        kept = [name for name in self.parameters if f"{prefix}{name}.m" in arrays]
        if not kept and not self._made:
            return
        self.torch.state.clear()
        self.torch.param_groups[0]["lr"] = float(arrays.get(f"{prefix}learning_rate", 0.0))  # every step sets its own
        for name in kept:
            p = self.parameters[name]
            moments = {
                slot: torch.tensor(arrays[f"{prefix}{name}.{letter}"], device=p.device)
                for slot, letter in _MOMENTS.items()
            }
            self.torch.state[p] = {"step": torch.tensor(float(arrays[f"{prefix}step"]), device=p.device), **moments}

    @property
    def _made(self) -> bool:
        return "torch" in vars(self)


def tensors_of(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The batch as tensors on `device`: whole numbers as int64, which indexing asks for, the rest as float32.

    `start` stays a Python int, for it decides shapes. counted: flat positions of the tokens that the mask counts.
    """
    arrays: dict[str, Any] = {}
    for name, value in batch.items():
        dtype = torch.int64 if np.asarray(value).dtype.kind in "iu" else torch.float32
        arrays[name] = torch.as_tensor(value, dtype=dtype, device=device)
    arrays["start"] = int(batch["start"])
    if "mask" in batch and not np.all(batch["mask"]):
        arrays["counted"] = torch.as_tensor(np.flatnonzero(batch["mask"]), device=device)
    return arrays


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy that later steps leave alone."""
    return tensor.detach().cpu().numpy().copy()


@torch.no_grad()
def load_weights(parameters: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Put `weights/NAME` of a save point into each parameter. Raises KeyError when one is missing."""
    for name, p in parameters.items():
        p.copy_(torch.as_tensor(arrays[f"weights/{name}"]))


def _group(name: str, parameter: Tensor) -> str:
    if name.startswith("value_head"):
        return "head"
    return "decay" if parameter.ndim >= 2 and "lora_" not in name else "plain"
