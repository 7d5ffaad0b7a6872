"""Families that mlx-lm knows and we do not (Qwen 3, Gemma 3, ...), behind the interface of `network.Llama`.

mlx-lm's modules build their own causal mask, so rows with several documents or left padding are taken apart first:
every document runs alone from the left edge, and its hidden states are put back where it stood. Positions restart at
every document, which changes nothing: rotary embeddings depend on distances only.

mlx-lm brings transformers along, which takes seconds to import: only a model that needs it waits for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.backends.mlx.packed import Head
from mlxrlhf.backends.mlx.trees import number
from mlxrlhf.backends.sampling import Prompts
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint


class MLXLMTrunk(nn.Module):
    """A model of mlx-lm, its parameters under mlx-lm's names; bits: packed into as many, if it is not packed yet."""

    def __init__(self, folder: Path, bits: int = 0, group_size: int = 64):
        from mlx_lm.utils import load_model, quantize_model

        super().__init__()
        checkpoint.check_safetensors(folder)
        try:
            settings = checkpoint.mlx_lm_settings(folder)
            model, described = load_model(Path(folder), lazy=True, model_config=settings, trust_remote_code=False)
            if bits and "quantization" not in described:
                model, _ = quantize_model(model, described, group_size, bits)
            mx.eval(model.parameters())
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise UserError(
                f"mlx-lm cannot load {folder} ({str(error).splitlines()[0]}); take a model that `mlx_lm.generate` runs"
            ) from None
        # Leading underscores keep these out of the parameters, which are registered below under mlx-lm's names.
        self._folder, self._model = Path(folder), model
        self._language_model: Any = getattr(model, "language_model", model)
        for name, child in model.children().items():
            self[name] = child
        self._check_projection()

    @property
    def folder(self) -> Path:
        """The checkpoint it was loaded from."""
        return self._folder

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks that adapters go into."""
        return self._language_model.model.layers

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks compute their activations again in the backward pass."""
        return hasattr(type(self.layers[0]), "checkpointed")

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, wanted: bool) -> None:
        if wanted and not self.gradient_checkpointing:
            for block in self.layers:
                block.__class__ = _checkpointed(type(block))

    def head(self) -> Head:
        """The output layer."""
        text = self._language_model
        return Head.of(text.lm_head if "lm_head" in text else text.model.embed_tokens, _finish(text))

    def lay_out(self, segments: np.ndarray) -> tuple[mx.array, mx.array]:
        """What `__call__` takes for the segments (B, T) of packed or padded rows."""
        gather, scatter = lay_out(segments)
        return mx.array(gather), mx.array(scatter)

    def __call__(self, tokens: mx.array, layout: tuple[mx.array, mx.array] | None = None) -> mx.array:
        """Hidden states (B, T, d) of tokens (B, T); layout is what `lay_out` made of the segments, if any."""
        if layout is None:
            return self._language_model.model(tokens)
        gather, scatter = layout
        hidden = self._language_model.model(tokens.reshape(-1)[gather])
        return hidden.reshape(-1, hidden.shape[-1])[scatter]

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., d) to (..., V), in the trunk's precision."""
        return self.head().logits(hidden)

    def reading(self, prompts: Prompts) -> MLXLMReading:
        """A batch to be sampled."""
        return MLXLMReading(self._model, self._language_model.model, prompts)

    def _check_projection(self) -> None:
        """Log-probabilities are computed from hidden states in chunks: that must give the model's own logits."""
        tokens = mx.array([[1, 2, 3, 4]])
        expected = self._model(tokens).astype(mx.float32)
        try:
            difference = number(mx.abs(self.logits(self(tokens)).astype(mx.float32) - expected).max())
        except (ValueError, AttributeError):
            difference = float("inf")  # the output layer is somewhere else
        if not difference <= 2e-2 * (1 + number(mx.abs(expected).max())):
            raise UserError(
                f"{self.folder}: its logits are no projection of its hidden states that is known here, so it cannot "
                "be trained; take another model"
            )


def _finish(text: Any) -> Callable[[mx.array], mx.array] | None:
    """What a family does to its logits: divides (Granite), caps (Gemma 2) or multiplies them (Cohere)."""
    if scaling := getattr(text, "logits_scaling", None):
        return lambda logits: logits / scaling
    if cap := getattr(text, "final_logit_softcapping", None):
        return lambda logits: mx.tanh(logits / cap) * cap
    if scale := getattr(getattr(text, "args", None), "logit_scale", None):
        return lambda logits: logits * scale
    return None


class MLXLMReading:
    """`network.Reading` with mlx-lm's batched caches: keys and values, rotating windows, recurrent states.

    Prompts are read side by side from the left edge; `finalize` then moves the padding out of the way.
    """

    def __init__(self, model: nn.Module, decoder: Callable[..., mx.array], prompts: Prompts):
        from mlx_lm.models.cache import make_prompt_cache

        self._decoder, self._prompts = decoder, prompts
        rows = [make_prompt_cache(model) for _ in prompts.tokens]
        self._caches = [of_layer[0].merge(list(of_layer)) for of_layer in zip(*rows)]

    def prompts(self) -> mx.array:
        p = self._prompts
        lengths = p.real[:, : p.width].sum(axis=1)
        tokens = np.stack([np.roll(row, length) for row, length in zip(p.tokens, lengths)])
        if p.padded:
            for cache in self._caches:
                cache.prepare(lengths=lengths.tolist(), right_padding=(p.width - lengths).tolist())
        hidden = self._decoder(mx.array(tokens), cache=self._caches)
        if p.padded:
            for cache in self._caches:
                cache.finalize()
        return hidden[mx.arange(len(tokens)), mx.array(lengths - 1)]

    def token(self, tokens: mx.array) -> mx.array:
        return self._decoder(tokens[:, None], cache=self._caches)[:, -1]

    def keep(self, rows: mx.array) -> None:
        for cache in self._caches:
            cache.filter(rows)


@functools.cache
def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a block that forgets its activations while it is trained.

    Of this one block: mlx-lm's own `grad_checkpoint` changes the class for every model in the process, and does so
    while sampling too, where it would run the caches' side effects through a recorded function.
    """

    def call(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        forward = functools.partial(kind.__call__, self)
        return (nn.utils.checkpoint(self, forward) if self.training else forward)(*arguments, **named)

    return type(kind.__name__, (kind,), {"__call__": call, "checkpointed": True})


def lay_out(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each document of rows with segments (B, T) goes, and where its states come back to.

    Returns gather (N, L), flat positions of the tokens of each of N documents, and scatter (B, T), flat positions
    among the N * L states; padding (segment 0) reads state 0, which nothing counts.
    """
    rows, width = segments.shape
    pieces = []
    for row in range(rows):
        edges = np.flatnonzero(np.diff(segments[row])) + 1
        for start, end in zip([0, *edges], [*edges, width]):
            if segments[row, start]:
                pieces.append((row, start, end))
    length = bucket(max(end - start for _, start, end in pieces))
    gather, scatter = np.zeros((len(pieces), length), np.int32), np.zeros((rows, width), np.int32)
    for n, (row, start, end) in enumerate(pieces):
        gather[n, : end - start] = row * width + np.arange(start, end)
        scatter[row, start:end] = n * length + np.arange(end - start)
    return gather, scatter
