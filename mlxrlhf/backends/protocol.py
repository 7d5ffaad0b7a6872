"""What a stage may ask of a backend. Everything that crosses is NumPy: int32 ids, float32 rest, already detached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mlxrlhf.config import ModelConfig

Batch = dict[str, np.ndarray]
#: (xp, outputs, batch) -> (loss, metrics): see algorithms/losses.py
Objective = Callable


class Model(Protocol):
    """One trunk with what is trained on it (every weight, or adapters), an optional value head, and its optimizer."""

    config: ModelConfig
    #: this process's number and how many train the model together
    world: tuple[int, int]
    #: shapes that `step` has met: on a GPU, MLX traces and compiles a step for each
    traces: int

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
    ) -> list[list[int]]:
        """Sample a continuation of each prompt, its stop token included.

        uniforms (B, max_tokens) in [0, 1) decide each token by the inverse CDF, so that backends given the same
        numbers sample the same text; None is greedy. `on_token` streams the first row.
        """

    def evaluate(
        self, batch: Batch, want: Sequence[str], *, temperature: float = 1.0, adapters: bool = True
    ) -> dict[str, np.ndarray]:
        """One forward without gradient.

        batch: tokens, segments (B, T), start () the first column to predict, mask (B, T - start): needed for
        features; with it logp, entropy and kl are computed where it counts and are 0 elsewhere.
        want: any of logp, entropy, kl, value (B, T - start); hidden (B, T - start, d); features (B, d), the mean of the
        last layer's hidden states over the tokens that mask counts: the answer, its end token included; score (B,),
        what the value head makes of them, not detached: a reward model whose base is trained too.
        `adapters=False` is the trunk as it was before LoRA: the reference.
        """

    def step(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        *,
        want: Sequence[str],
        learning_rate: float,
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """Gradients of `objective` summed over micro-batches and processes, clipped, one AdamW step. A non-finite
        gradient leaves the weights alone and is reported as skipped = 1."""

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Trained weights and optimizer state, float32, for a save point: each is copied as it is taken."""

    def state(self) -> dict[str, np.ndarray]:
        """All of `named_arrays` at once."""

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None: ...

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
        """One AdamW step on features (B, d); weights (B,), 1 on average, say how much each pair
        counts."""

    def state(self) -> dict[str, np.ndarray]: ...

    def load_state(self, arrays: dict[str, np.ndarray]) -> None: ...
