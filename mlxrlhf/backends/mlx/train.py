"""The optimizer step on MLX: gradients over micro-batches, clipping, AdamW on float32 masters."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.mlx import parallel
from mlxrlhf.backends.mlx.device import on_gpu
from mlxrlhf.backends.mlx.network import Network
from mlxrlhf.backends.mlx.packed import Head
from mlxrlhf.backends.mlx.trees import flat
from mlxrlhf.backends.protocol import Batch, Check, ModelSettings, Objective

NamedArrays = Iterator[tuple[str, np.ndarray]]
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
#: elements updated at once: gradients and the optimizer's float32 temporaries are freed from one portion to the next
UPDATE_CHUNK = 2**22
#: arrays of fewer elements are moved as one vector: hundreds of adapters one by one are thousands of dispatches
SMALL = 2**18
#: elements of a vector that are summed before the sums are
SUMMED = 1_024
#: decay of the two moments, and what is added to the root of the second
_BETA1, _BETA2, _EPSILON = 0.9, 0.95, 1e-5


@mx.compile
def _moved(
    master: mx.array,
    m: mx.array,
    v: mx.array,
    gradient: mx.array,
    scale: mx.array,
    shrink: mx.array,
    rate: mx.array,
    root: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """AdamW with bias correction (Loshchilov and Hutter 2019) on a float32 array, as one kernel.

    scale clips the gradient, shrink is 1 - rate * weight decay; rate and root, a factor on the root of the second
    moment, hold the bias corrections. Returns the weight and the moments, those in the precision they came in.
    """
    gradient = gradient.astype(mx.float32) * scale
    first = _BETA1 * m.astype(mx.float32) + (1 - _BETA1) * gradient
    second = _BETA2 * v.astype(mx.float32) + (1 - _BETA2) * mx.square(gradient)
    master = master * shrink - rate * first / (mx.sqrt(second) * root + _EPSILON)
    return master, first.astype(m.dtype), second.astype(v.dtype)


@dataclass(frozen=True)
class Pack:
    """Arrays that are moved at once, by their names: small ones as one vector; a large one is alone, in its shape."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def alone(self) -> bool:
        return len(self.shapes) == 1

    def join(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """The vector of them, or the one array."""
        parts = [arrays[name] for name in self.shapes]
        return parts[0] if self.alone else mx.concatenate([part.reshape(-1) for part in parts])

    def split(self, joined: mx.array) -> dict[str, mx.array]:
        """The arrays again, views of the vector."""
        if self.alone:
            return dict.fromkeys(self.shapes, joined)
        ends = list(itertools.accumulate(math.prod(shape) for shape in self.shapes.values()))
        parts = mx.split(joined, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts)}


class AdamW:
    """The moments of named arrays and the steps taken; its state in a save point has MLX's names and layout."""

    def __init__(self, weight_decay: float, dtype: mx.Dtype = mx.float32):
        self.weight_decay, self.dtype = weight_decay, dtype
        self.steps, self.learning_rate = 0, 1.0
        self.moments: dict[str, tuple[mx.array, mx.array]] = {}

    def begin(self, learning_rate: float) -> None:
        """The next step, in which `move` is called for every array."""
        self.steps += 1
        self.learning_rate = learning_rate
        shrink = 1 - learning_rate * self.weight_decay
        rate, root = learning_rate / (1 - _BETA1**self.steps), 1 / math.sqrt(1 - _BETA2**self.steps)
        self._factors = [mx.array(factor, mx.float32) for factor in (shrink, rate, root)]

    def move(
        self, name: str, weight: mx.array, gradient: mx.array, scale: mx.array, lower: mx.array | None = None
    ) -> Iterator[list[mx.array]]:
        """One step of an array in place, portion by portion: gives what has to be evaluated after each.

        lower: the low halves of a bfloat16 weight's float32 master.
        """
        if name not in self.moments:
            self.moments[name] = mx.zeros(weight.shape, self.dtype), mx.zeros(weight.shape, self.dtype)
        for rows in _portions(gradient):
            yield self._move_rows(rows, weight, lower, *self.moments[name], gradient, scale)

    def _move_rows(
        self,
        rows: slice,
        weight: mx.array,
        lower: mx.array | None,
        m: mx.array,
        v: mx.array,
        gradient: mx.array,
        scale: mx.array,
    ) -> list[mx.array]:
        """One step of some rows, in place. Returns the arrays that changed."""
        master = weight[rows] if lower is None else _join(weight[rows], lower[rows])
        master, first, second = _moved(master, m[rows], v[rows], gradient[rows], scale, *self._factors)
        values = [(m, first), (v, second)]
        if lower is not None:
            master, low = _split(master)
            values.append((lower, low))
        values.append((weight, master))
        if len(master) < len(weight):
            mx.eval([new for _, new in values])  # MLX writes in place where nothing else waits for the array
        for array, new in values:
            array[rows] = new
        return [array for array, _ in values]

    def named_arrays(self, parts: Callable[[dict[str, mx.array]], dict[str, mx.array]] = dict) -> NamedArrays:
        """step () uint64, learning_rate () float32 and, once it was moved, NAME.m and NAME.v of each array.

        parts takes the arrays apart that were moved as one.
        """
        yield "step", np.array(self.steps, np.uint64)
        yield "learning_rate", np.array(self.learning_rate, np.float32)
        for unit, moments in self.moments.items():
            for slot, moment in zip("mv", moments):
                for name, array in parts({unit: moment}).items():
                    yield f"{name}.{slot}", np.array(array.astype(mx.float32))

    def load_state(self, arrays: Mapping[str, np.ndarray], prefix: str, units: Mapping[str, Pack]) -> None:
        """Take over what `named_arrays` gave, under names that start with `prefix`; zeros for what it has none of."""
        self.steps = int(arrays.get(f"{prefix}step", 0))
        self.learning_rate = float(arrays.get(f"{prefix}learning_rate", 1.0))
        self.moments = {}
        for unit, pack in units.items():
            if any(f"{prefix}{name}.m" in arrays for name in pack.shapes):
                m, v = (
                    pack.join({name: _or_zeros(arrays, f"{prefix}{name}.{slot}", s) for name, s in pack.shapes.items()})
                    for slot in "mv"
                )
                self.moments[unit] = m.astype(self.dtype), v.astype(self.dtype)
                mx.eval(self.moments[unit])


def compiles() -> bool:
    """Whether a step is compiled: on a GPU, where it fuses, and not on the CPU, where it needs a C++ compiler and wins
    about a tenth. MLXRLHF_COMPILE=1 or 0 in the environment decides otherwise: so tests take the GPU's path anywhere.
    """
    return {"1": True, "0": False}.get(os.environ.get("MLXRLHF_COMPILE", ""), on_gpu())


class Trainer:
    """Gradients of a network and the optimizer that applies them."""

    def __init__(self, network: Network, settings: ModelSettings, reference_head: Head | None):
        self.network, self.settings, self.reference_head = network, settings, reference_head
        moments = DTYPES[settings.optimizer_dtype]
        self._groups = {
            "decay": AdamW(settings.weight_decay, moments),
            "plain": AdamW(0.0, moments),
            "head": AdamW(0.0, moments),
        }
        trained = self._trained()
        #: what is moved at once, by group; those of one array in the order of the network
        self._packs = _packs(trained)
        #: the weights by pack, of which the network holds views; of an array that is alone, the network's own
        self._weights: dict[str, mx.array] = {}
        # bfloat16 cannot absorb small steps, so what is trained has a float32 master: the bfloat16 weight is its upper
        # half, and the lower half is kept here, by pack. A float32 weight is its own master.
        self._lower: dict[str, mx.array] = {}
        for unit, pack in self._all_packs():
            weight = pack.join(trained)
            if not pack.alone:
                self._weights[unit] = weight
                self._show(pack, weight)
            if weight.dtype == mx.bfloat16:
                self._lower[unit] = mx.zeros(weight.shape, mx.uint16)
        mx.eval(self.network.trainable_parameters(), self._weights, self._lower)
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
        check: Check | None = None,
    ) -> dict[str, float]:
        """See `protocol.Model.step`."""
        gradients: dict[str, mx.array] = {}
        totals: dict[str, mx.array] = {}
        for number, batch in enumerate(batches, start=1):
            gradient, metrics = self.gradient(objective, batch, tuple(want), temperature)
            gradient = {unit: pack.join(gradient) for unit, pack in self._all_packs()}
            # A bfloat16 gradient is kept as it is, but sums of them need more digits.
            gradients = {k: gradients[k].astype(mx.float32) + g for k, g in gradient.items()} if gradients else gradient
            totals = {k: totals[k] + metrics[k] for k in totals} if totals else metrics
            del gradient
            if number < len(batches) or processes > 1:
                mx.eval(gradients, totals)
        if processes > 1:
            gradients, totals = parallel.add(gradients, processes), parallel.add(totals, processes)
        totals["grad_norm"] = _norm(gradients)
        read = mx.stack([value.astype(mx.float32) for value in totals.values()])
        mx.eval(gradients, read)
        figures = dict(zip(totals, cast(list[float], read.tolist())))
        figures["skipped"] = 0.0
        if not (math.isfinite(figures["grad_norm"]) and math.isfinite(figures["loss"])):
            figures["skipped"] = 1.0
            return figures
        if check:
            check(figures)
        limit = self.settings.max_grad_norm
        self._update(gradients, min(1.0, limit / (figures["grad_norm"] + 1e-6)) if limit else 1.0, learning_rate)
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
                return objective(mx, self.network(batch, want, temperature, self.reference_head), batch)

            call = nn.value_and_grad(self.network, loss_fn)
            if compiles():
                call = mx.compile(call, inputs=[self.network.state], outputs=[self.network.state])
            self._compiled[key] = call
        (_, metrics), gradient = self._compiled[key](arrays)
        return flat(gradient), metrics

    def _update(self, gradients: dict[str, mx.array], scale: float, learning_rate: float) -> None:
        """One AdamW step; `gradients` is emptied, for each is freed once it was used."""
        head_rate = self.settings.head_learning_rate
        alone, waiting, clip = self._trained(), 0, mx.array(scale, mx.float32)
        for group, optimizer in self._groups.items():
            if not self._packs[group]:
                continue
            optimizer.begin(head_rate if group == "head" and head_rate is not None else learning_rate)
            # The embedding last: by then no other gradient is left beside its temporaries.
            for unit, pack in reversed(self._packs[group].items()):
                weight = alone.pop(unit) if pack.alone else self._weights[unit]
                gradient, changed = gradients.pop(unit), []
                for arrays in optimizer.move(unit, weight, gradient, clip, self._lower.get(unit)):
                    changed += arrays
                    waiting += min(gradient.size, UPDATE_CHUNK)
                    if waiting >= UPDATE_CHUNK:
                        mx.eval(changed)
                        changed, waiting = [], 0
                if not pack.alone:
                    self._show(pack, weight)
                del gradient, weight
        mx.eval(self.network.trainable_parameters(), self._lower, [o.moments for o in self._groups.values()])

    def _show(self, pack: Pack, joined: mx.array) -> None:
        """The network computes with these weights."""
        self.network.update(tree_unflatten(list(pack.split(joined).items())))

    def _all_packs(self) -> Iterator[tuple[str, Pack]]:
        for packs in self._packs.values():
            yield from packs.items()

    def _trained(self) -> dict[str, mx.array]:
        return flat(self.network.trainable_parameters())

    # --- state -----------------------------------------------------------------------------------------------------

    def named_arrays(self) -> NamedArrays:
        """See `protocol.Model.named_arrays`."""
        trained = self._trained()
        for unit, pack in self._all_packs():
            weight = pack.join(trained) if pack.alone else self._weights[unit]
            master = _join(weight, self._lower[unit]) if unit in self._lower else weight
            for name, array in pack.split(master).items():
                yield f"weights/{name}", np.array(array)
        for group, optimizer in self._groups.items():
            for name, moment in optimizer.named_arrays(functools.partial(_split_all, self._packs[group])):
                yield f"optimizer/{group}/{name}", moment

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `named_arrays` gave; a weight that it does not name stays."""
        trained = self._trained()
        for unit, pack in self._all_packs():
            if not any(f"weights/{name}" in arrays for name in pack.shapes):
                continue
            weight = pack.join(trained)
            before = pack.split(_join(weight, self._lower[unit]) if unit in self._lower else weight)
            masters = {
                name: mx.array(arrays[f"weights/{name}"]) if f"weights/{name}" in arrays else before[name]
                for name in pack.shapes
            }
            weight = pack.join(masters)
            if unit in self._lower:
                weight, self._lower[unit] = _split(weight)
            if not pack.alone:
                self._weights[unit] = weight
            self._show(pack, weight)
            mx.eval(weight, self._lower)  # before the next: a float32 copy of all is not needed
        for group, optimizer in self._groups.items():
            optimizer.load_state(arrays, f"optimizer/{group}/", self._packs[group])
        mx.eval(self.network.trainable_parameters())


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


def _packs(trained: Mapping[str, mx.array]) -> dict[str, dict[str, Pack]]:
    """What is moved at once, by group and name: large arrays, then packs of small ones of one precision, none larger
    than UPDATE_CHUNK."""
    packs: dict[str, dict[str, Pack]] = {"decay": {}, "plain": {}, "head": {}}
    small: dict[tuple[str, mx.Dtype], list[dict[str, tuple[int, ...]]]] = {}
    for name, weight in trained.items():
        group, shape = _group(name, weight), tuple(weight.shape)
        if weight.size >= SMALL:
            packs[group][name] = Pack({name: shape})
            continue
        open_ones = small.setdefault((group, weight.dtype), [{}])
        if weight.size + sum(map(math.prod, open_ones[-1].values())) > UPDATE_CHUNK:
            open_ones.append({})
        open_ones[-1][name] = shape
    for (group, _), shapes in small.items():
        # By the first of its names; one that stays alone is like a large one.
        packs[group] |= {next(iter(names)): Pack(names) for names in shapes if names}
    return packs


def _split_all(packs: Mapping[str, Pack], joined: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Arrays by pack, as arrays by name."""
    return {name: array for unit, whole in joined.items() for name, array in packs[unit].split(whole).items()}


def _or_zeros(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> mx.array:
    return mx.array(arrays[name]) if name in arrays else mx.zeros(shape)


def _norm(gradients: Mapping[str, mx.array]) -> mx.array:
    """Euclidean norm over all arrays, in short rows: a naive float32 sum over a large array loses digits."""
    squares = [_square_sum(g[rows]) for g in gradients.values() for rows in _portions(g)]
    return mx.sqrt(mx.stack(squares).sum())


def _square_sum(array: mx.array) -> mx.array:
    squares = mx.square(array.astype(mx.float32)).reshape(-1)
    whole = len(squares) - len(squares) % SUMMED
    return squares[:whole].reshape(-1, SUMMED).sum(axis=-1).sum() + squares[whole:].sum()


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


def _portions(array: mx.array) -> list[slice]:
    """Its rows in runs of at most UPDATE_CHUNK elements: an embedding is far larger than any other array."""
    rows = max(1, UPDATE_CHUNK * len(array) // array.size)
    return [slice(at, at + rows) for at in range(0, len(array), rows)]


def _group(name: str, gradient: mx.array) -> str:
    if name.startswith("value_head"):
        return "head"
    return "decay" if gradient.ndim >= 2 and "lora_" not in name else "plain"
