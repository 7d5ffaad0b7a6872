"""The contract between stages and backends: what a stage may ask of a model is here, or it does not exist.

Everything that crosses is NumPy: int32 ids, float32 rest, already detached. A type checker holds both backends to these
types (see backends/__init__.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlxrlhf.algorithms.batch import Batch
from mlxrlhf.config import ModelConfig

__all__ = ["Adapter", "Backend", "Batch", "Head", "Memory", "Model", "ModelSettings", "Objective"]

#: (xp, outputs, batch) -> (loss, metrics), in a backend's own arrays: see algorithms/losses.py
Objective = Callable[[Any, dict[str, Any], dict[str, Any]], tuple[Any, dict[str, Any]]]
#: looks at the figures of a step before it is taken, and raises where it must not be
Check = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class ModelSettings:
    """How a model is made: where its weights come from, what is trained on it, and by which optimizer."""

    #: checkpoint to load; None draws the weights from `seed`
    folder: Path | None = None
    #: of the weights that are drawn: the whole trunk, or adapters and value head
    seed: int = 0
    #: precision of the trunk, float32 or bfloat16; what is trained has float32 masters
    dtype: str = "float32"
    #: rank of the adapters that are trained in place of the weights; 0 trains every weight
    lora_rank: int = 0
    #: blocks that get adapters, counted from the last; 0: all
    lora_layers: int = 0
    #: factor on the adapters' output
    lora_scale: float = 2.0
    #: a value head beside the trunk
    value_head: bool = False
    #: where that starts: a reward head's `weights/NAME`, scaled (rewards.model.critic_start); None starts at zero
    value_start: Mapping[str, np.ndarray] | None = None
    #: decoupled, on matrices of the trunk
    weight_decay: float = 0.0
    #: global norm that gradients are clipped to; 0 leaves them
    max_grad_norm: float = 1.0
    #: learning rate of the value head; None takes that of the step
    head_learning_rate: float | None = None
    #: compute activations again in the backward pass instead of keeping them: slower, smaller, the same numbers
    gradient_checkpointing: bool = False
    #: keep the output layer as it is now: the reference of "kl"
    keep_reference_head: bool = False
    #: precision of AdamW's two moments
    optimizer_dtype: str = "float32"

    @classmethod
    def of(cls, settings: ModelSettings | None, named: Mapping[str, Any]) -> ModelSettings:
        """The settings a model was given: as one object or, which is shorter in a test, by name."""
        if settings is not None and named:
            raise TypeError(f"give {', '.join(named)} in the ModelSettings, not beside it")
        return settings or cls(**named)


class Adapter(Protocol):
    """One layer's low-rank update."""

    scale: float


class Model(Protocol):
    """One trunk with what is trained on it (every weight, or adapters), an optional value head, and its optimizer."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def adapters(self) -> Sequence[Adapter]:
        """Empty where every weight is trained."""

    @property
    def world(self) -> tuple[int, int]:
        """This process's number and how many train the model together."""

    @property
    def traces(self) -> int:
        """Shapes that `step` has met: on a GPU, MLX traces and compiles a step for each."""

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The array of every process, stacked: (processes, ...). All have one shape."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        uniforms: np.ndarray | None,
        max_tokens: int,
        temperature: float,
        stop_ids: Sequence[int],
        pad_id: int,
        on_token: Callable[[int], None] | None = None,
        adapters: bool = True,
    ) -> list[list[int]]:
        """Sample a continuation of each prompt, its stop token included.

        uniforms (B, max_tokens) in [0, 1) decide each token by the inverse CDF, so that backends given the same
        numbers sample the same text; None is greedy. `on_token` streams the first row. `adapters=False` samples from
        the trunk as it was before LoRA.
        """

    def evaluate(
        self, batch: Batch, want: Sequence[str], *, temperature: float = 1.0, adapters: bool = True
    ) -> dict[str, np.ndarray]:
        """One forward without gradient.

        want: any of logp, entropy, kl, value (B, R); hidden (B, R, d); features (B, d), the mean of the last layer's
        hidden states over the tokens that mask counts: the answer, its end token included; score (B,), what the value
        head makes of them, not detached: a reward model whose base is trained too. features and score need the mask;
        with it logp, entropy and kl are computed where it counts and are 0 elsewhere.
        `adapters=False` is the trunk as it was before LoRA: the reference.
        """

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) ids to (B, T, V) float32 logits, adapters as they were last used: for tests."""

    def gradient(
        self, objective: Objective, batch: Batch, want: Sequence[str], temperature: float = 1.0
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The gradient of one micro-batch by name of what is trained, and the objective's metrics: for tests and the
        doctor."""

    def step(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        *,
        want: Sequence[str],
        learning_rate: float,
        temperature: float = 1.0,
        check: Check | None = None,
    ) -> dict[str, float]:
        """Gradients of `objective` summed over micro-batches and processes, clipped, one AdamW step.

        Returns the objective's metrics, grad_norm before clipping, and skipped: 1 where loss or gradient was not
        finite, and the weights were left alone. check sees them before the weights move; what it raises stops the step.
        """

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Trained weights (weights/NAME) and optimizer state (optimizer/GROUP/NAME), float32, for a save point: each
        is copied as it is taken."""

    def state(self) -> dict[str, np.ndarray]:
        """All of `named_arrays` at once."""

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `named_arrays` gave."""

    def save(self, folder: Path, *, pad_id: int, end_id: int) -> None:
        """Write config.json and model.safetensors in the Hugging Face layout, adapters merged."""


class Head(Protocol):
    """The reward head: Linear(d, d/2) - ReLU - Linear(d/2, 1)."""

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(B, d) -> (B,)"""

    def step(
        self,
        loss: str,
        margin: float,
        chosen: np.ndarray,
        rejected: np.ndarray,
        learning_rate: float,
        weights: np.ndarray | None = None,
    ) -> dict[str, float]:
        """One AdamW step on features (B, d); weights (B,), 1 on average, say how much each pair counts.

        Returns loss, accuracy, margin and grad_norm."""

    def state(self) -> dict[str, np.ndarray]:
        """weights/NAME and optimizer/NAME."""

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave; the weights alone are enough."""


class Memory(Protocol):
    """What a model holds on a backend, for plan.py: the module `memory`, where each name is explained."""

    @property
    def LOGITS_CHUNK(self) -> int: ...
    @property
    def UPDATE_CHUNK(self) -> int: ...
    @property
    def MASTER(self) -> int: ...
    @property
    def GRADIENT(self) -> int: ...
    @property
    def LOGITS_LEFT(self) -> int: ...
    @property
    def WORKING(self) -> int: ...
    @property
    def RECOMPUTED(self) -> int: ...
    def block(self, c: ModelConfig, length: int, size: int, scales: bool) -> int: ...
    def logits(self, size: int, softmax: bool, waits: bool) -> int: ...
    def gradients(self, gradient: int, summed: int, tied: int) -> int: ...
    def update(self, masters: bool) -> int: ...
    def limit(self) -> int: ...
    def held(self) -> int: ...
    def matmul_rate(self, dtype: str, rows: int, seconds: float = ...) -> float: ...


class MakeModel(Protocol):
    """A model's constructor."""

    def __call__(self, config: ModelConfig, settings: ModelSettings | None = None) -> Model: ...


class MakeHead(Protocol):
    """A reward head's constructor: dims is the width d of the features."""

    def __call__(self, dims: int, *, seed: int = 0, weight_decay: float = 0.0, max_grad_norm: float = 1.0) -> Head: ...


class Backend(Protocol):
    """An array library: the modules backends/mlx and backends/torch. Made by `backends.load`."""

    @property
    def NAME(self) -> str:
        """mlx or torch"""

    @property
    def Model(self) -> MakeModel: ...

    @property
    def Head(self) -> MakeHead: ...

    @property
    def memory(self) -> Memory: ...

    def use_device(self, name: str = "") -> None:
        """Run on a device from now on; the best there is when empty. Raises UserError for one that is not there."""

    def device_name(self) -> str:
        """The device in use, as `use_device` takes it."""

    def describe_device(self) -> dict[str, str]:
        """What `mlxrlhf doctor` prints of the device."""

    def peak_memory(self) -> int:
        """Most bytes held at once; 0 where the platform does not say."""

    def world(self) -> tuple[int, int]:
        """This process's number and how many there are."""
