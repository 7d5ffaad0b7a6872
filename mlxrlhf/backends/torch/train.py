"""Gradient steps, evaluation and saving on PyTorch: see backends/protocol.py for the contract."""

from __future__ import annotations

import functools
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlxrlhf.algorithms import losses
from mlxrlhf.backends.torch import parallel
from mlxrlhf.backends.torch.generate import generate
from mlxrlhf.backends.torch.model import Llama, LoRALinear, token_statistics
from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint

_ADAM = dict(lr=1.0, betas=(0.9, 0.95), eps=1e-5, fused=True)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_device = torch.device("cpu")
#: torch's name of AdamW's moments, and the save point's
_MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}


class ValueHead(nn.Module):
    """Linear(d, d/2) - ReLU - Linear(d/2, 1) on mean hidden states; the last layer starts at zero."""

    def __init__(self, dims: int, last_std: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(dims, dims // 2)
        self.out = nn.Linear(dims // 2, 1)
        nn.init.normal_(self.out.weight, std=last_std)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x.float()))).squeeze(-1)


class Network(nn.Module):
    """A trunk and, for PPO, a value head."""

    def __init__(self, config: ModelConfig, value_head: bool):
        super().__init__()
        with torch.device("meta"):  # the weights come from a seed or a folder: torch's own draws would be wasted
            self.trunk = Llama(config)
        if value_head:
            self.value_head = ValueHead(config.hidden_size)

    def forward(self, batch: dict, want: Sequence[str], temperature: float, reference_weight=None) -> dict:
        start = batch["start"]
        hidden = self.trunk(batch["tokens"], batch.get("segments"))
        out = {}
        if {"features", "score"} & set(want):
            answer = batch["mask"][..., None]  # (B, T - start, 1)
            pooled = (hidden[:, start:].float() * answer).sum(dim=1) / answer.sum(dim=1)
            out |= {"features": pooled} if "features" in want else {}
            out |= {"score": self.value_head(pooled)} if "score" in want else {}
        window = hidden[:, start - 1 : -1]  # the state that predicts column `start` is one to its left
        rows, length, dims = window.shape
        if {"logp", "entropy", "kl"} & set(want):
            states, targets = window.reshape(-1, dims), batch["tokens"][:, start:].reshape(-1)
            reference = batch["reference_hidden"].reshape(-1, dims).to(window.dtype) if "kl" in want else None
            counted = batch.get("counted")
            if counted is not None:  # the (tokens, V) logits are most of a small model's work
                states, targets = states[counted], targets[counted]
                reference = None if reference is None else reference[counted]
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
                    value = value.new_zeros(rows * length).index_add(0, counted, value)
                out[name] = value.view(rows, length)
        if "value" in want:
            # Detached: a value head that starts ignorant must not pull at the policy's features.
            out["value"] = self.value_head(so_far(window.detach().float()))
        if "hidden" in want:
            out["hidden"] = window.float()
        return out


def so_far(window: Tensor) -> Tensor:
    """Mean state of the answer as far as each prediction sees it, (B, T, d); before its first token, the prompt's last.

    At the end that is what the reward model scores, and it tells a value head much more than the last state alone.
    """
    answer = window[:, 1:].cumsum(dim=1)
    counts = torch.arange(1, answer.shape[1] + 1, device=window.device)[:, None]
    return torch.cat([window[:, :1], answer / counts], dim=1)


class TorchModel:
    """`protocol.Model` on PyTorch."""

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
        if config.family != "llama":
            raise UserError(f"{folder} is a {config.family} model; other families than Llama run on --backend mlx")
        if optimizer_dtype != "float32":
            raise UserError("--optimizer-dtype bfloat16 runs on --backend mlx; PyTorch keeps its moments in float32")
        self.config, self.dtype, self.device, self.world = config, dtype, _device, parallel.world()
        torch.manual_seed(seed)
        self.network = Network(config, value_head)
        trunk = self.network.trunk
        if value_start:
            load_weights(dict(self.network.value_head.named_parameters()), value_start)
        if folder is None:
            trunk.to(_DTYPES[dtype]).to_empty(device="cpu").initialise(seed)
        else:
            for file in checkpoint.weight_files(folder, config):
                # Copied: load_file's tensors are the mapped file itself.
                trunk.load_state_dict(
                    {k: v.to(_DTYPES[dtype], copy=True) for k, v in load_file(file).items()}, strict=False, assign=True
                )
        trunk.to(_DTYPES[dtype])
        trunk.gradient_checkpointing = gradient_checkpointing
        self.adapters = add_lora(trunk, lora_rank, lora_scale) if lora_rank else []
        self.network.to(self.device)
        self.reference_weight = trunk.head_weight().detach().clone() if keep_reference_head else None
        self.max_grad_norm, self.head_learning_rate = max_grad_norm, head_learning_rate
        self._shapes: set = set()
        self._trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        # bfloat16 cannot absorb small steps, so what is trained has a float32 master that the trunk is cast from.
        self._masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self._trained.items()
        }
        members: dict[str, dict[str, Tensor]] = {"decay": {}, "plain": {}, "head": {}}
        for name, p in self._masters.items():
            members[_group(name, p)][name] = p
        self._groups = {
            group: AdamW(named, weight_decay if group == "decay" else 0.0) for group, named in members.items()
        }

    # --- forward ---------------------------------------------------------------------------------------------------

    def generate(self, prompts, *, uniforms, max_tokens, temperature, stop_ids, pad_id, on_token=None, adapters=True):
        self._enable(adapters)
        return generate(
            self.network.trunk,
            prompts,
            uniforms=uniforms,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=stop_ids,
            pad_id=pad_id,
            on_token=on_token,
        )

    @torch.inference_mode()
    def evaluate(self, batch, want, *, temperature=1.0, adapters=True):
        self._enable(adapters)
        out = self.network(to_torch(batch, self.device), want, temperature, self.reference_weight)
        return {name: value.cpu().numpy() for name, value in out.items()}

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) ids to (B, T, V) float32 logits: for tests and `doctor`."""
        trunk = self.network.trunk
        return trunk.logits(trunk(torch.as_tensor(tokens, device=self.device))).float().cpu().numpy()

    def gather(self, array: np.ndarray) -> np.ndarray:
        return parallel.gather(array, self.device)

    @property
    def traces(self):
        return len(self._shapes)

    # --- training --------------------------------------------------------------------------------------------------

    def step(self, objective, batches, *, want, learning_rate, temperature=1.0):
        self._enable(True)
        gradients, totals = None, {}
        for batch in batches:
            gradient, metrics = self._gradient(objective, batch, tuple(want), temperature)
            if gradients is None:
                gradients = gradient
            else:
                torch._foreach_add_(list(gradients.values()), list(gradient.values()))
            del gradient
            totals = metrics if not totals else {k: totals[k] + metrics[k] for k in totals}
        if self.world[1] > 1:
            gradients, totals = parallel.add(gradients), parallel.add(totals)
        norm = nn.utils.get_total_norm(gradients.values())
        metrics = {name: float(value) for name, value in totals.items()}
        metrics["grad_norm"], metrics["skipped"] = float(norm), 0.0
        if not all(map(math.isfinite, (metrics["grad_norm"], metrics["loss"]))):
            metrics["skipped"] = 1.0
            return metrics
        scale = min(1.0, self.max_grad_norm / (metrics["grad_norm"] + 1e-6)) if self.max_grad_norm else 1.0
        if scale < 1:
            torch._foreach_mul_(list(gradients.values()), scale)
        self._update(gradients, learning_rate)
        return metrics

    def _gradient(self, objective, batch, want, temperature):
        """Float32 gradient of every trained parameter, zero where the objective does not reach it, and the metrics."""
        batch = to_torch(batch, self.device)
        self._shapes.add((objective, want, temperature, *((name, np.shape(value)) for name, value in batch.items())))
        loss, metrics = objective(torch, self.network(batch, want, temperature, self.reference_weight), batch)
        gradient = torch.autograd.grad(loss, list(self._trained.values()), allow_unused=True, materialize_grads=True)
        return (
            {name: g.float() for name, g in zip(self._trained, gradient)},
            {name: value.detach() for name, value in metrics.items()},
        )

    def _update(self, gradients: dict[str, Tensor], learning_rate: float) -> None:
        head_rate = learning_rate if self.head_learning_rate is None else self.head_learning_rate
        for group, optimizer in self._groups.items():
            if optimizer.parameters:
                optimizer.step(gradients, head_rate if group == "head" else learning_rate)
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Cast the masters into the network: adapters and heads stay float32, the trunk takes its own precision."""
        for name, p in self._trained.items():
            if p is not self._masters[name]:
                p.copy_(self._masters[name])

    def _enable(self, adapters: bool) -> None:
        for layer in self.adapters:
            layer.enabled = adapters

    # --- state and saving ------------------------------------------------------------------------------------------

    def named_arrays(self):
        for name, weight in self._masters.items():
            yield f"weights/{name}", to_numpy(weight)
        for group, optimizer in self._groups.items():
            for name, array in optimizer.named_arrays():
                yield f"optimizer/{group}/{name}", array

    def state(self):
        return dict(self.named_arrays())

    def load_state(self, arrays):
        load_weights(self._masters, arrays)
        for group, optimizer in self._groups.items():
            optimizer.load_state(arrays, f"optimizer/{group}/")
        self._publish()

    @torch.no_grad()
    def save(self, folder, *, pad_id, end_id):
        weights = {}
        for path, module in self.network.trunk.named_modules():
            if isinstance(module, LoRALinear):
                weights[f"{path}.weight"] = module.merged().to(_DTYPES[self.dtype])
        for name, value in self.network.trunk.named_parameters():
            if "lora_" not in name and not name.endswith(".linear.weight"):
                weights[name.replace(".linear.bias", ".bias")] = value.detach()
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        checkpoint.write_config(folder, self.config, dtype=self.dtype, pad_id=pad_id, end_id=end_id)


class TorchHead:
    """`protocol.Head` on PyTorch. The last layer starts at std 1/sqrt(d + 1)."""

    def __init__(self, dims: int, *, seed: int = 0, weight_decay: float = 0.0, max_grad_norm: float = 1.0):
        torch.manual_seed(seed)
        self.device = _device
        self.net = ValueHead(dims, last_std=1 / math.sqrt(dims + 1)).to(self.device)
        self.max_grad_norm = max_grad_norm
        self.optimizer = AdamW(dict(self.net.named_parameters()), weight_decay)

    @torch.inference_mode()
    def scores(self, features):
        return self.net(torch.as_tensor(features, device=self.device)).cpu().numpy()

    def step(self, loss, margin, chosen, rejected, learning_rate, weights=None):
        weights = None if weights is None else torch.as_tensor(weights, device=self.device)
        r_chosen, r_rejected = (self.net(torch.as_tensor(x, device=self.device)) for x in (chosen, rejected))
        value = losses.ranking(torch, loss, margin, r_chosen, r_rejected, weights)
        parameters = self.optimizer.parameters
        gradients = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values()))))
        norm = nn.utils.get_total_norm(gradients.values())
        scale = torch.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0)
        self.optimizer.step({k: g * scale for k, g in gradients.items()}, learning_rate)
        return {
            "loss": float(value.detach()),
            "accuracy": float((r_chosen > r_rejected).float().mean()),
            "margin": float((r_chosen - r_rejected).detach().mean()),
            "grad_norm": float(norm),
        }

    def state(self):
        arrays = {f"weights/{k}": to_numpy(v) for k, v in self.optimizer.parameters.items()}
        arrays.update({f"optimizer/{k}": v for k, v in self.optimizer.named_arrays()})
        return arrays

    def load_state(self, arrays):
        load_weights(self.optimizer.parameters, arrays)
        self.optimizer.load_state(arrays, "optimizer/")


class AdamW:
    """torch's AdamW (Loshchilov and Hutter 2019) over named parameters, its state in MLX's names and layout."""

    def __init__(self, parameters: dict[str, Tensor], weight_decay: float):
        self.parameters, self.weight_decay = parameters, weight_decay

    @functools.cached_property
    def torch(self) -> torch.optim.AdamW:
        """Made on first use: torch then loads its compiler, a second that a model which only answers need not wait."""
        # torch refuses an optimizer without parameters, but not an empty group in one.
        groups = [{"params": list(self.parameters.values())}]
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, **_ADAM)

    def step(self, gradients: dict[str, Tensor], learning_rate: float) -> None:
        for name, p in self.parameters.items():
            p.grad = gradients[name]
        self.torch.param_groups[0]["lr"] = learning_rate
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """step () uint64, learning_rate () float32 and, once a step was taken, NAME.m and NAME.v of each parameter."""
        state = self.torch.state if self._made else {}
        yield "step", np.array(max((int(slots["step"]) for slots in state.values()), default=0), np.uint64)
        yield "learning_rate", np.array(self.torch.param_groups[0]["lr"] if self._made else _ADAM["lr"], np.float32)
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


def add_lora(trunk: Llama, rank: int, scale: float) -> list[LoRALinear]:
    """Freeze the trunk and put an adapter on every linear layer of its blocks."""
    trunk.requires_grad_(False)
    layers = []
    for block in trunk.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    layer = LoRALinear(child, rank, scale)
                    setattr(parent, name, layer)
                    layers.append(layer)
    return layers


def to_torch(batch: dict, device: torch.device) -> dict:
    """NumPy batch to tensors on `device`: whole numbers as int64, which indexing asks for, the rest as float32.

    `start` stays a Python int, for it decides shapes. counted: flat positions of the tokens that the mask counts.
    """
    arrays = {}
    for name, value in batch.items():
        dtype = torch.int64 if np.asarray(value).dtype.kind in "iu" else torch.float32
        arrays[name] = int(value) if name == "start" else torch.as_tensor(value, dtype=dtype, device=device)
    if "mask" in batch and not np.all(batch["mask"]):
        arrays["counted"] = torch.as_tensor(np.flatnonzero(batch["mask"]), device=device)
    return arrays


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy that later steps leave alone."""
    return tensor.detach().cpu().numpy().copy()


@torch.no_grad()
def load_weights(parameters: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> None:
    """Put `weights/NAME` of a save point into each parameter. Raises KeyError when one is missing."""
    for name, p in parameters.items():
        p.copy_(torch.as_tensor(arrays[f"weights/{name}"]))


def _group(name: str, parameter: Tensor) -> str:
    if name.startswith("value_head"):
        return "head"
    return "decay" if parameter.ndim >= 2 and "lora_" not in name else "plain"


def use_device(name: str = "") -> None:
    """Put every model made from now on onto cuda, mps or cpu; the first of them that is there when empty.

    Raises UserError for one that is not there.
    """
    global _device
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = name or next(k for k, found in there.items() if found)
    if not there.get(name.partition(":")[0]):
        raise UserError(
            f"--device {name} is not available to PyTorch here; choose one of "
            f"{', '.join(k for k, found in there.items() if found)}"
        )
    _device = torch.device(name)


def peak_memory() -> int:
    """Most bytes held at once: by tensors on CUDA, by the driver (now) on MPS, by the process on the CPU.

    0 where the platform does not say.
    """
    if _device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if _device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_device() -> dict[str, str]:
    """What `mlxrlhf doctor` prints of the device."""
    device, memory = _device, None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif device.type == "mps":
        memory = torch.mps.recommended_max_memory()
    return {
        "torch": torch.__version__,
        "device": f"cuda ({torch.cuda.get_device_name()})" if device.type == "cuda" else device.type,
        "machine": platform.platform(),
        "memory": "unknown" if memory is None else f"{memory / 2**30:.0f} GB",
        "blas": "MKL" if torch.backends.mkl.is_available() else "torch's own",
        "threads": str(torch.get_num_threads()),
    }


def _check_model() -> tuple[TorchModel, dict]:
    """A model small enough to check in a second, and one batch for it."""
    config = ModelConfig(128, 64, 2, 2, 1, 128, head_dim=32)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 33), dtype=np.int32)
    batch = {"tokens": tokens, "start": 1, "mask": np.ones((2, 32), np.float32), "total": np.float32(64)}
    return TorchModel(config, seed=0), batch


def device_check() -> float:
    """Largest relative difference between this device and the CPU over the loss and every gradient of a small model."""
    results, device = [], str(_device)
    for target in ("cpu", device):
        use_device(target)
        model, batch = _check_model()
        gradient, metrics = model._gradient(losses.language_modelling, batch, ("logp",), 1.0)
        results.append([to_numpy(metrics["loss"])] + [to_numpy(g) for g in gradient.values()])
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-12)) for a, b in zip(*results))


def gradient_check(step: float = 0.02) -> float:
    """Relative difference between the gradient's norm and the loss's measured slope along the gradient.

    The slope is a central difference over `step`: it needs the forward pass only, so it judges the backward pass on
    any device.
    """
    model, batch = _check_model()
    gradient, _ = model._gradient(losses.language_modelling, batch, ("logp",), 1.0)
    norm = float(nn.utils.get_total_norm(gradient.values()))
    start, sides = model.state(), []
    for sign in (1, -1):
        moved = {f"weights/{k}": start[f"weights/{k}"] + sign * step / norm * to_numpy(g) for k, g in gradient.items()}
        model.load_state({**start, **moved})
        sides.append(-model.evaluate(batch, ("logp",))["logp"].mean(dtype=np.float64))
    return abs((sides[0] - sides[1]) / (2 * step) - norm) / norm
