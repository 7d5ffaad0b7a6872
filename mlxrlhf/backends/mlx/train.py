"""The optimizer step on MLX: gradients over micro-batches, clipping, AdamW on float32 masters."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_unflatten

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.mlx import parallel
from mlxrlhf.backends.mlx.device import on_gpu
from mlxrlhf.backends.mlx.network import Network
from mlxrlhf.backends.mlx.trees import flat, number
from mlxrlhf.backends.protocol import Batch, ModelSettings, Objective

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
#: elements updated at once: gradients and the optimizer's float32 temporaries are freed from one portion to the next
UPDATE_CHUNK = 2**22


def adamw(weight_decay: float) -> optim.AdamW:
    """AdamW as both backends have it; its learning rate is set at every step."""
    # MLX's default leaves the bias correction out.
    return optim.AdamW(1.0, betas=[0.9, 0.95], eps=1e-5, bias_correction=True, weight_decay=weight_decay)


def compiles() -> bool:
    """Whether a step is compiled: on a GPU, where it fuses, and not on the CPU, where it needs a C++ compiler and wins
    about a tenth. MLXRLHF_COMPILE=1 or 0 in the environment decides otherwise: so tests take the GPU's path anywhere.
    """
    return {"1": True, "0": False}.get(os.environ.get("MLXRLHF_COMPILE", ""), on_gpu())


class Trainer:
    """Gradients of a network and the optimizer that applies them."""

    def __init__(self, network: Network, settings: ModelSettings, reference_weight: mx.array | None):
        self.network, self.settings, self.reference_weight = network, settings, reference_weight
        self._groups = {
            "decay": adamw(settings.weight_decay),
            "plain": adamw(0.0),
            "head": adamw(0.0),
        }
        # bfloat16 cannot absorb small steps, so what is trained has a float32 master: the bfloat16 weight is its upper
        # half, and the lower half is kept here. A float32 weight is its own master.
        self._lower = {
            name: mx.zeros(w.shape, mx.uint16) for name, w in self._trained().items() if w.dtype == mx.bfloat16
        }
        self._compiled: dict[tuple, Callable] = {}
        self._shapes: set[tuple] = set()

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
    ) -> dict[str, float]:
        """See `protocol.Model.step`."""
        gradients: dict[str, mx.array] = {}
        totals: dict[str, mx.array] = {}
        for batch in batches:
            gradient, metrics = self.gradient(objective, batch, tuple(want), temperature)
            # A bfloat16 gradient is kept as it is, but sums of them need more digits.
            gradients = {k: gradients[k].astype(mx.float32) + g for k, g in gradient.items()} if gradients else gradient
            totals = {k: totals[k] + metrics[k] for k in totals} if totals else metrics
            del gradient
            mx.eval(gradients, totals)
        if processes > 1:
            gradients, totals = parallel.add(gradients, processes), parallel.add(totals, processes)
            mx.eval(gradients, totals)
        norm = _norm(gradients)
        figures = {name: number(value) for name, value in totals.items()}
        figures["grad_norm"], figures["skipped"] = norm, 0.0
        if not (math.isfinite(norm) and math.isfinite(figures["loss"])):
            figures["skipped"] = 1.0
            return figures
        limit = self.settings.max_grad_norm
        self._update(gradients, min(1.0, limit / (norm + 1e-6)) if limit else 1.0, learning_rate)
        return figures

    def gradient(
        self, objective: Objective, batch: Batch, want: tuple[str, ...], temperature: float
    ) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
        """The gradient of one micro-batch by parameter, and the objective's metrics."""
        arrays = arrays_of(batch, self.network)
        start = arrays.pop("start")
        key = (objective, want, temperature, start)
        self._shapes.add((key, *((name, array.shape) for name, array in flat(arrays).items())))
        if key not in self._compiled:

            def loss_fn(arrays: dict[str, Any]) -> tuple[mx.array, dict[str, mx.array]]:
                batch = {**arrays, "start": start}
                return objective(mx, self.network(batch, want, temperature, self.reference_weight), batch)

            call = nn.value_and_grad(self.network, loss_fn)
            if compiles():
                call = mx.compile(call, inputs=[self.network.state], outputs=[self.network.state])
            self._compiled[key] = call
        (_, metrics), gradient = self._compiled[key](arrays)
        return flat(gradient), metrics

    def _update(self, gradients: dict[str, mx.array], scale: float, learning_rate: float) -> None:
        """One AdamW step; `gradients` is emptied, for each is freed once it was used."""
        head_rate = self.settings.head_learning_rate
        weights = self._trained()
        for group, optimizer in self._groups.items():
            names = [name for name, g in gradients.items() if _group(name, g) == group]
            if not names:
                continue
            rate = head_rate if group == "head" and head_rate is not None else learning_rate
            optimizer.learning_rate = mx.array(rate)
            optimizer.state["step"] = optimizer.step + 1
            waiting = 0
            for name in reversed(names):  # the embedding last: by then no other gradient is left beside its temporaries
                gradient, weight = gradients.pop(name), weights.pop(name)
                state = optimizer.state.setdefault(name, {})
                if not state:
                    optimizer.init_single(weight.astype(DTYPES[self.settings.optimizer_dtype]), state)
                for rows in _portions(gradient):
                    self._move(optimizer, state, weight, self._lower.get(name), gradient, rows, scale)
                    waiting += gradient[rows].size
                    if waiting >= UPDATE_CHUNK:
                        mx.eval(self.network.trainable_parameters(), self._lower, optimizer.state)
                        waiting = 0
                del gradient
            mx.eval(self.network.trainable_parameters(), self._lower, optimizer.state)

    def _move(
        self,
        optimizer: optim.AdamW,
        state: dict[str, mx.array],
        weight: mx.array,
        lower: mx.array | None,
        gradient: mx.array,
        rows: slice,
        scale: float,
    ) -> None:
        """AdamW on some rows of a weight, in place: the network and the optimizer hold these very arrays."""
        master = weight[rows] if lower is None else _join(weight[rows], lower[rows])
        moments = {name: moment[rows] for name, moment in state.items()}
        master = optimizer.apply_single(gradient[rows].astype(mx.float32) * scale, master, moments)
        values = [(state[name], moment.astype(state[name].dtype)) for name, moment in moments.items()]
        if lower is not None:
            master, low = _split(master)
            values.append((lower, low))
        values.append((weight, master))
        if len(master) < len(weight):
            mx.eval([value for _, value in values])  # MLX writes into an array in place where nothing else waits for it
        for array, value in values:
            array[rows] = value

    def _trained(self) -> dict[str, mx.array]:
        return flat(self.network.trainable_parameters())

    # --- state -----------------------------------------------------------------------------------------------------

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """See `protocol.Model.named_arrays`."""
        for name, weight in self._trained().items():
            yield f"weights/{name}", np.array(weight if name not in self._lower else _join(weight, self._lower[name]))
        for group, optimizer in self._groups.items():
            for name, array in flat(optimizer.state).items():
                array = array.astype(mx.float32) if array.dtype == mx.bfloat16 else array
                yield f"optimizer/{group}/{name}", np.array(array)

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `named_arrays` gave."""
        for name in _under("weights/", arrays):
            self._put(name, mx.array(arrays[f"weights/{name}"]))
            mx.eval(self.network.parameters(), self._lower)  # before the next: a float32 copy of all is not needed
        for group, optimizer in self._groups.items():
            state = {}
            for name in _under(f"optimizer/{group}/", arrays):
                # Parameter names contain dots, so the flat state is one level of names above {m, v}.
                array = mx.array(arrays[f"optimizer/{group}/{name}"])
                state[name] = array.astype(DTYPES[self.settings.optimizer_dtype]) if "." in name else array
                mx.eval(state[name])
            optimizer.state = _nest(state)

    def _put(self, name: str, master: mx.array) -> None:
        """A float32 value into the network: adapters and heads stay float32, the trunk takes its own precision."""
        weight = master
        if name in self._lower:
            weight, self._lower[name] = _split(master)
        self.network.update(tree_unflatten([(name, weight)]))


def arrays_of(batch: Batch, network: Network) -> dict[str, Any]:
    """The batch as MLX arrays; `start` stays a Python int, for it decides shapes, and segments are as the trunk wants.

    counted: flat positions of the tokens that the mask counts, filled up with the position after the last one, so that
    a compiled step meets a handful of shapes.
    """
    arrays: dict[str, Any] = {
        name: mx.array(np.asarray(value)) for name, value in batch.items() if name not in ("start", "segments")
    }
    arrays["start"] = int(batch["start"])
    if "segments" in batch:
        arrays["segments"] = network.trunk.lay_out(batch["segments"])
    if "mask" in batch and not np.all(batch["mask"]):
        positions = np.flatnonzero(batch["mask"])
        counted = np.full(bucket(len(positions), 128), np.size(batch["mask"]), np.int32)
        counted[: len(positions)] = positions
        arrays["counted"] = mx.array(counted)
    return arrays


def _norm(gradients: Mapping[str, mx.array]) -> float:
    """Euclidean norm over all arrays, reduced row by row: a naive float32 sum over a large array loses digits."""
    squares = [
        mx.square(g[rows].astype(mx.float32)).sum(axis=-1).sum() for g in gradients.values() for rows in _portions(g)
    ]
    return number(mx.sqrt(mx.stack(squares).sum()))


def _split(master: mx.array) -> tuple[mx.array, mx.array]:
    """A float32 array as its nearest bfloat16 and the lower 16 bits, uint16: together they are exactly the float32.

    (Kalamkar et al. 2020, "Split-SGD-BF16": a master that costs two bytes beside the weight instead of four.)
    """
    bits = master.view(mx.uint32)
    upper = (bits + 0x8000) >> 16  # the lower half, read as signed, is what rounding took or added
    return upper.astype(mx.uint16).view(mx.bfloat16), (bits & 0xFFFF).astype(mx.uint16)


def _join(weight: mx.array, lower: mx.array) -> mx.array:
    """The float32 array that `_split` took apart."""
    upper, lower = weight.view(mx.uint16).astype(mx.uint32), lower.astype(mx.uint32)
    return (((upper - (lower >> 15)) << 16) | lower).view(mx.float32)


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names that start with a prefix, without it."""
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def _portions(array: mx.array) -> list[slice]:
    """Its rows in runs of at most UPDATE_CHUNK elements: an embedding is far larger than any other array."""
    rows = max(1, UPDATE_CHUNK * len(array) // array.size)
    return [slice(at, at + rows) for at in range(0, len(array), rows)]


def _group(name: str, gradient: mx.array) -> str:
    if name.startswith("value_head"):
        return "head"
    return "decay" if gradient.ndim >= 2 and "lora_" not in name else "plain"


def _nest(state: dict[str, mx.array]) -> dict[str, Any]:
    """{"step": s, "a.b.weight.m": x} to {"step": s, "a.b.weight": {"m": x}}: the shape AdamW keeps."""
    nested: dict[str, Any] = {}
    for name, value in state.items():
        parameter, _, slot = name.rpartition(".")
        if parameter:
            nested.setdefault(parameter, {})[slot] = value
        else:
            nested[name] = value
    return nested
