"""Gradient steps, evaluation and saving on MLX: see backends/protocol.py for the contract."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlxrlhf.algorithms import losses
from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.mlx import blas, foreign, parallel
from mlxrlhf.backends.mlx.foreign import Foreign
from mlxrlhf.backends.mlx.generate import generate
from mlxrlhf.backends.mlx.model import Llama, LoRALinear, token_statistics
from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint

_ADAM = dict(betas=[0.9, 0.95], eps=1e-5, bias_correction=True)  # MLX's default leaves the bias correction out
_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
#: elements updated at once: gradients and the optimizer's float32 temporaries are freed from one portion to the next
UPDATE_CHUNK = 2**22


class ValueHead(nn.Module):
    """Linear(d, d/2) - ReLU - Linear(d/2, 1) on mean hidden states; the last layer starts at zero."""

    def __init__(self, dims: int, last_std: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(dims, dims // 2)
        self.out = nn.Linear(dims // 2, 1)
        self.out.weight = mx.random.normal(self.out.weight.shape) * last_std
        self.out.bias = mx.zeros_like(self.out.bias)

    def __call__(self, x):
        return self.out(nn.relu(self.hidden(x.astype(mx.float32)))).squeeze(-1)


class Network(nn.Module):
    """A trunk and, for PPO, a value head."""

    def __init__(self, trunk: Llama | Foreign, dims: int, value_head: bool):
        super().__init__()
        self.trunk = trunk
        if value_head:
            self.value_head = ValueHead(dims)

    def __call__(self, batch: dict, want: Sequence[str], temperature: float, reference_weight=None) -> dict:
        start = batch["start"]
        hidden = self.trunk(batch["tokens"], batch.get("segments"))
        out = {}
        if {"features", "score"} & set(want):
            answer = batch["mask"][..., None]  # (B, T - start, 1)
            pooled = (hidden[:, start:].astype(mx.float32) * answer).sum(axis=1) / answer.sum(axis=1)
            out |= {"features": pooled} if "features" in want else {}
            out |= {"score": self.value_head(pooled)} if "score" in want else {}
        window = hidden[:, start - 1 : -1]  # the state that predicts column `start` is one to its left
        rows, length, dims = window.shape
        if {"logp", "entropy", "kl"} & set(want):
            states, targets = window.reshape(-1, dims), batch["tokens"][:, start:].reshape(-1)
            reference = batch["reference_hidden"].reshape(-1, dims).astype(window.dtype) if "kl" in want else None
            counted = batch.get("counted")
            if counted is not None:  # the (tokens, V) logits are most of a small model's work
                places = mx.minimum(counted, rows * length - 1)
                states, targets = states[places], targets[places]
                reference = None if reference is None else reference[places]
            statistics = token_statistics(
                states,
                self.trunk.head_weight(),
                targets,
                temperature,
                entropy="entropy" in want,
                reference=None if reference is None else (reference, reference_weight),
            )
            for name, value in statistics.items():
                if counted is not None:
                    value = mx.zeros(rows * length + 1).at[counted].add(value)[:-1]
                out[name] = value.reshape(rows, length)
        if "value" in want:
            # Detached: a value head that starts ignorant must not pull at the policy's features.
            out["value"] = self.value_head(so_far(mx.stop_gradient(window).astype(mx.float32)))
        if "hidden" in want:
            out["hidden"] = window.astype(mx.float32)
        return out


def so_far(window: mx.array) -> mx.array:
    """Mean state of the answer as far as each prediction sees it, (B, T, d); before its first token, the prompt's last.

    At the end that is what the reward model scores, and it tells a value head much more than the last state alone.
    """
    answer = mx.cumsum(window[:, 1:], axis=1)
    return mx.concatenate([window[:, :1], answer / mx.arange(1, answer.shape[1] + 1)[:, None]], axis=1)


class MLXModel:
    """`protocol.Model` on MLX."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        folder: Path | None = None,
        seed: int = 0,
        dtype: str = "float32",
        lora_rank: int = 0,
        lora_scale: float = 2.0,
        value_head: bool = False,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        head_learning_rate: float | None = None,
        gradient_checkpointing: bool = False,
        keep_reference_head: bool = False,
        optimizer_dtype: str = "float32",
        value_start: dict[str, np.ndarray] | None = None,
    ):
        self.config, self.dtype, self.optimizer_dtype = config, dtype, optimizer_dtype
        mx.random.seed(seed)
        self.folder, self.world, self.gather = folder, parallel.world(), parallel.gather
        trunk = Foreign(folder) if config.family != "llama" else Llama(config)
        self.network = Network(trunk, config.hidden_size, value_head)
        if value_start:
            self.network.value_head.load_weights(
                [(k.removeprefix("weights/"), mx.array(v)) for k, v in value_start.items()]
            )
        if folder is None:
            trunk.initialise(seed)
        elif config.family == "llama":
            for file in checkpoint.weight_files(folder, config):
                trunk.load_weights(
                    [
                        (k, v)
                        for k, v in mx.load(str(file)).items()
                        if "rotary_emb" not in k and not (k == "lm_head.weight" and config.tie_word_embeddings)
                    ],
                    strict=False,
                )
        trunk.set_dtype(_DTYPES[dtype])
        trunk.gradient_checkpointing = gradient_checkpointing
        self.adapters = add_lora(trunk, lora_rank, lora_scale) if lora_rank else []
        mx.eval(self.network.parameters())
        self.reference_weight = mx.array(trunk.head_weight()) if keep_reference_head else None
        self.max_grad_norm, self.head_learning_rate = max_grad_norm, head_learning_rate
        self._groups = {
            "decay": optim.AdamW(1.0, weight_decay=weight_decay, **_ADAM),
            "plain": optim.AdamW(1.0, weight_decay=0.0, **_ADAM),
            "head": optim.AdamW(1.0, weight_decay=0.0, **_ADAM),
        }
        # bfloat16 cannot absorb small steps, so what is trained has a float32 master: the bfloat16 weight is its upper
        # half, and the lower half is kept here. A float32 weight is its own master.
        self._lower = {name: mx.zeros(w.shape, mx.uint16) for name, w in self._trained() if w.dtype == mx.bfloat16}
        self._compiled: dict = {}
        self._shapes: set = set()

    # --- forward ---------------------------------------------------------------------------------------------------

    def generate(self, prompts, *, uniforms, max_tokens, temperature, stop_ids, pad_id, on_token=None, adapters=True):
        self._enable(adapters)
        sample = foreign.generate if isinstance(self.network.trunk, Foreign) else generate
        return sample(
            self.network.trunk,
            prompts,
            uniforms=uniforms,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=stop_ids,
            pad_id=pad_id,
            on_token=on_token,
        )

    def evaluate(self, batch, want, *, temperature=1.0, adapters=True):
        self._enable(adapters)
        out = self.network(self._arrays(batch), want, temperature, self.reference_weight)
        mx.eval(out)
        return {name: np.array(value) for name, value in out.items()}

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) ids to (B, T, V) float32 logits: for tests and `doctor`."""
        return np.array(self.network.trunk.logits(self.network.trunk(mx.array(tokens))).astype(mx.float32))

    @property
    def traces(self):
        return len(self._shapes)

    # --- training --------------------------------------------------------------------------------------------------

    def step(self, objective, batches, *, want, learning_rate, temperature=1.0):
        self._enable(True)
        gradients, totals = {}, {}
        for batch in batches:
            gradient, metrics = self._gradient(objective, batch, tuple(want), temperature)
            gradient = dict(tree_flatten(gradient))
            # A bfloat16 gradient is kept as it is, but sums of them need more digits.
            gradients = {k: gradients[k].astype(mx.float32) + g for k, g in gradient.items()} if gradients else gradient
            totals = {k: totals[k] + metrics[k] for k in totals} if totals else metrics
            del gradient
            mx.eval(gradients, totals)
        if self.world[1] > 1:
            gradients, totals = parallel.add(gradients, self.world[1]), parallel.add(totals, self.world[1])
            mx.eval(gradients, totals)
        # Reduced row by row: a naive float32 sum over a large array loses digits.
        norm = mx.sqrt(
            sum(
                mx.square(g[rows].astype(mx.float32)).sum(axis=-1).sum()
                for g in gradients.values()
                for rows in _portions(g)
            )
        ).item()
        metrics = {name: value.item() for name, value in totals.items()}
        metrics["grad_norm"], metrics["skipped"] = norm, 0.0
        if not all(map(math.isfinite, (norm, metrics["loss"]))):
            metrics["skipped"] = 1.0
            return metrics
        scale = min(1.0, self.max_grad_norm / (norm + 1e-6)) if self.max_grad_norm else 1.0
        self._update(gradients, scale, learning_rate)
        return metrics

    def _gradient(self, objective, batch, want, temperature):
        start = int(batch["start"])
        arrays = {k: v for k, v in self._arrays(batch).items() if k != "start"}
        key = (objective, want, temperature, start)
        self._shapes.add((key, *((name, array.shape) for name, array in tree_flatten(arrays))))
        if key not in self._compiled:

            def loss_fn(arrays):
                batch = {**arrays, "start": start}
                return objective(mx, self.network(batch, want, temperature, self.reference_weight), batch)

            call = nn.value_and_grad(self.network, loss_fn)
            if mx.default_device() == mx.Device(mx.gpu):
                # On the CPU a compiled step needs a C++ compiler and wins about a tenth; on a GPU it fuses.
                call = mx.compile(call, inputs=[self.network.state], outputs=[self.network.state])
            self._compiled[key] = call
        (_, metrics), gradient = self._compiled[key](arrays)
        return gradient, metrics

    def _update(self, gradients: dict[str, mx.array], scale: float, learning_rate: float) -> None:
        """One AdamW step; `gradients` is emptied, for each is freed once it was used."""
        head_rate = learning_rate if self.head_learning_rate is None else self.head_learning_rate
        weights = dict(self._trained())
        for group, optimizer in self._groups.items():
            names = [name for name, g in gradients.items() if _group(name, g) == group]
            if not names:
                continue
            optimizer.learning_rate = head_rate if group == "head" else learning_rate
            optimizer.state["step"] = optimizer.step + 1
            waiting = 0
            for name in reversed(names):  # the embedding last: by then no other gradient is left beside its temporaries
                gradient, weight = gradients.pop(name), weights.pop(name)
                state = optimizer.state.setdefault(name, {})
                if not state:
                    optimizer.init_single(weight.astype(_DTYPES[self.optimizer_dtype]), state)
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
        optimizer,
        state: dict,
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

    def _trained(self) -> list[tuple[str, mx.array]]:
        return tree_flatten(self.network.trainable_parameters())

    def _master(self, name: str, weight: mx.array) -> mx.array:
        """The float32 value of a trained weight."""
        return weight if name not in self._lower else _join(weight, self._lower[name])

    def _publish(self, masters: dict[str, mx.array]) -> None:
        """Put float32 values into the network: adapters and heads stay float32, the trunk takes its own precision."""
        weights = []
        for name, master in masters.items():
            if name in self._lower:
                master, self._lower[name] = _split(master)
            weights.append((name, master))
        self.network.update(tree_unflatten(weights))

    def _arrays(self, batch: dict) -> dict:
        """The batch as MLX arrays; mlx-lm's models take the layout of segments in their place."""
        arrays = to_mlx(batch)
        if "segments" in batch and isinstance(self.network.trunk, Foreign):
            arrays["segments"] = tuple(map(mx.array, foreign.lay_out(np.asarray(batch["segments"]))))
        return arrays

    def _enable(self, adapters: bool) -> None:
        for layer in self.adapters:
            layer.enabled = adapters

    # --- state and saving ------------------------------------------------------------------------------------------

    def named_arrays(self):
        for name, weight in self._trained():
            yield f"weights/{name}", np.array(self._master(name, weight))
        for group, optimizer in self._groups.items():
            for name, array in tree_flatten(optimizer.state):
                array = array.astype(mx.float32) if array.dtype == mx.bfloat16 else array
                yield f"optimizer/{group}/{name}", np.array(array)

    def state(self):
        return dict(self.named_arrays())

    def load_state(self, arrays):
        for name in _under("weights/", arrays):
            self._publish({name: mx.array(arrays[f"weights/{name}"])})
            mx.eval(self.network.parameters(), self._lower)  # before the next: a float32 copy of all is not needed
        for group, optimizer in self._groups.items():
            state = {}
            for name in _under(f"optimizer/{group}/", arrays):
                # Parameter names contain dots, so the flat state is one level of names above {m, v}.
                array = mx.array(arrays[f"optimizer/{group}/{name}"])
                state[name] = array.astype(_DTYPES[self.optimizer_dtype]) if "." in name else array
                mx.eval(state[name])
            optimizer.state = _nest(state)

    def save(self, folder, *, pad_id, end_id):
        weights = {}
        merged = {id(layer.linear): layer.merged() for layer in self.adapters}
        for path, module in self.network.trunk.named_modules():
            if isinstance(module, LoRALinear) and not path.startswith("_"):  # mlx-lm's own objects: the same layers
                weights[f"{path}.weight"] = merged[id(module.linear)].astype(_DTYPES[self.dtype])
        for name, value in tree_flatten(self.network.trunk.parameters()):
            if "lora_" not in name and not name.endswith(".linear.weight"):
                weights[name.replace(".linear.bias", ".bias")] = value
        mx.save_safetensors(str(Path(folder) / "model.safetensors"), weights, metadata={"format": "pt"})
        if self.config.family == "llama":
            checkpoint.write_config(folder, self.config, dtype=self.dtype, pad_id=pad_id, end_id=end_id)
        else:
            checkpoint.copy_config(self.folder, folder, dtype=self.dtype)


class MLXHead:
    """`protocol.Head` on MLX. The last layer starts at std 1/sqrt(d + 1)."""

    def __init__(self, dims: int, *, seed: int = 0, weight_decay: float = 0.0, max_grad_norm: float = 1.0):
        mx.random.seed(seed)
        self.net = ValueHead(dims, last_std=1 / math.sqrt(dims + 1))
        self.max_grad_norm = max_grad_norm
        self.optimizer = optim.AdamW(1.0, weight_decay=weight_decay, **_ADAM)
        mx.eval(self.net.parameters())

    def scores(self, features):
        return np.array(self.net(mx.array(features)))

    def step(self, loss, margin, chosen, rejected, learning_rate, weights=None):
        weights = None if weights is None else mx.array(weights)

        def objective(chosen, rejected):
            r_chosen, r_rejected = self.net(chosen), self.net(rejected)
            value = losses.ranking(mx, loss, margin, r_chosen, r_rejected, weights)
            return value, (r_chosen > r_rejected).mean(), (r_chosen - r_rejected).mean()

        gradient = nn.value_and_grad(self.net, objective)
        (value, accuracy, difference), gradients = gradient(mx.array(chosen), mx.array(rejected))
        gradients, norm = optim.clip_grad_norm(gradients, self.max_grad_norm)
        self.optimizer.learning_rate = learning_rate
        self.optimizer.update(self.net, gradients)
        mx.eval(self.net.parameters(), self.optimizer.state)
        return {
            "loss": float(value),
            "accuracy": float(accuracy),
            "margin": float(difference),
            "grad_norm": float(norm),
        }

    def state(self):
        arrays = {f"weights/{k}": np.array(v) for k, v in tree_flatten(self.net.parameters())}
        arrays.update({f"optimizer/{k}": np.array(v) for k, v in tree_flatten(self.optimizer.state)})
        return arrays

    def load_state(self, arrays):
        weights = [(k.removeprefix("weights/"), mx.array(v)) for k, v in arrays.items() if k.startswith("weights/")]
        self.net.load_weights(weights)
        state = [(k.removeprefix("optimizer/"), mx.array(v)) for k, v in arrays.items() if k.startswith("optimizer/")]
        if state:
            self.optimizer.state = tree_unflatten(state)
            self.optimizer._initialized = True


def add_lora(trunk: Llama | Foreign, rank: int, scale: float) -> list[LoRALinear]:
    """Freeze the trunk and put an adapter on every linear layer of its blocks."""
    trunk.freeze()
    layers = []
    for block in trunk.layers:
        adapted = [
            (path, LoRALinear(child, rank, scale))
            for path, child in block.named_modules()
            if isinstance(child, nn.Linear)
        ]
        for _, layer in adapted:
            layer.linear.freeze()
        block.update_modules(tree_unflatten(adapted))
        layers += [layer for _, layer in adapted]
    return layers


def to_mlx(batch: dict) -> dict:
    """NumPy batch to MLX arrays; `start` stays a Python int, for it decides shapes.

    counted: flat positions of the tokens that the mask counts, filled up with the position after the last one, so that
    a compiled step meets a handful of shapes.
    """
    arrays = {k: int(v) if k == "start" else mx.array(v) for k, v in batch.items()}
    if "mask" in batch and not np.all(batch["mask"]):
        positions = np.flatnonzero(batch["mask"])
        counted = np.full(bucket(len(positions), 128), np.size(batch["mask"]), np.int32)
        counted[: len(positions)] = positions
        arrays["counted"] = mx.array(counted)
    return arrays


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


def use_device(name: str = "") -> None:
    """Run on gpu (Metal, CUDA) or cpu from now on; the best there is when empty.

    Raises UserError for one that is not there.
    """
    if name not in ("", "cpu", "gpu") or (name == "gpu" and not mx.is_available(mx.gpu)):
        there = "gpu, cpu" if mx.is_available(mx.gpu) else "cpu"
        raise UserError(f"--device {name} is not available to MLX here; choose one of {there}")
    if name:
        mx.set_default_device(mx.gpu if name == "gpu" else mx.cpu)


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


def _nest(state: dict[str, mx.array]) -> dict:
    """{"step": s, "a.b.weight.m": x} to {"step": s, "a.b.weight": {"m": x}}: the shape AdamW keeps."""
    nested: dict = {}
    for name, value in state.items():
        parameter, _, slot = name.rpartition(".")
        if parameter:
            nested.setdefault(parameter, {})[slot] = value
        else:
            nested[name] = value
    return nested


def peak_memory() -> int:
    """Most bytes MLX has held at once."""
    return mx.get_peak_memory()


def describe_device() -> dict[str, str]:
    """What `mlxrlhf doctor` prints of the device."""
    info = mx.device_info() if hasattr(mx, "device_info") else {}
    return {
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "machine": platform.platform(),
        "memory": f"{info['memory_size'] / 2**30:.0f} GB" if "memory_size" in info else "unknown",
        "blas": blas.status(),
    }


def _check_model() -> tuple[MLXModel, dict]:
    """A model small enough to check in a second, and one batch for it."""
    config = ModelConfig(128, 64, 2, 2, 1, 128, head_dim=32)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 33), dtype=np.int32)
    batch = {"tokens": tokens, "start": 1, "mask": np.ones((2, 32), np.float32), "total": np.float32(64)}
    return MLXModel(config, seed=0), batch


def device_check() -> float:
    """Largest relative difference between this device and the CPU over the loss and every gradient of a small model."""
    results = []
    device = mx.default_device()
    for target in (mx.Device(mx.cpu), device):
        mx.set_default_device(target)
        model, batch = _check_model()
        gradient, metrics = model._gradient(losses.language_modelling, batch, ("logp",), 1.0)
        results.append([np.array(metrics["loss"])] + [np.array(v) for _, v in tree_flatten(gradient)])
    mx.set_default_device(device)
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-12)) for a, b in zip(*results))


def gradient_check(step: float = 0.02) -> float:
    """Relative difference between the gradient's norm and the loss's measured slope along the gradient.

    The slope is a central difference over `step`: it needs the forward pass only, so it judges the backward pass on
    any device.
    """
    model, batch = _check_model()
    gradient, _ = model._gradient(losses.language_modelling, batch, ("logp",), 1.0)
    flat = dict(tree_flatten(gradient))
    norm = math.sqrt(sum(float(mx.square(g).sum(axis=-1).sum()) for g in flat.values()))
    start, sides = model.state(), []
    for sign in (1, -1):
        model.load_state(
            {
                **start,
                **{f"weights/{k}": start[f"weights/{k}"] + sign * step / norm * np.array(g) for k, g in flat.items()},
            }
        )
        sides.append(-model.evaluate(batch, ("logp",))["logp"].mean(dtype=np.float64))
    return abs((sides[0] - sides[1]) / (2 * step) - norm) / norm
