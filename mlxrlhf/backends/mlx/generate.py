"""Batched sampling with a KV cache; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlxrlhf.backends.mlx.model import KVCache, Llama, segment_mask


def generate(model: Llama, prompts: Sequence[Sequence[int]], *, uniforms: np.ndarray | None, max_tokens: int,
             temperature: float, stop_ids: Sequence[int], pad_id: int,
             on_token: Callable[[int], None] | None = None) -> list[list[int]]:
    """See `protocol.Model.generate`."""
    width = max(len(p) for p in prompts)
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    pads = np.array([width - len(p) for p in prompts])
    for row, prompt in zip(tokens, prompts):
        row[width - len(prompt):] = prompt
    padded = bool(pads.any())
    real = mx.array(np.arange(width)[None, :] >= pads[:, None])  # (B, width): which cached keys are tokens

    caches = [KVCache() for _ in model.model.layers]
    mask = segment_mask(real.astype(mx.int32)) if padded else "causal"
    hidden = model(mx.array(tokens), mask=mask, caches=caches)[:, -1]
    responses: list[list[int]] = [[] for _ in prompts]
    active = np.arange(len(prompts))  # which response each live row writes
    for position in range(max_tokens):
        u = None if uniforms is None else uniforms[active, position]
        picked = pick(model.logits(hidden), temperature, u)
        ids = picked.tolist()
        for row, token in zip(active, ids):
            responses[row].append(token)
        if on_token and active[0] == 0:
            on_token(ids[0])
        alive = np.array([token not in stop_ids for token in ids])
        if not alive.any() or position + 1 == max_tokens:
            break
        if not alive.all():
            rows = mx.array(np.flatnonzero(alive))
            for cache in caches:
                cache.keep(rows)
            active, picked, real = active[alive], picked[rows], real[rows]
        if padded:
            real = mx.concatenate([real, mx.ones((len(active), 1), mx.bool_)], axis=1)
        key_mask = real[:, None, None, :] if padded else "causal"
        hidden = model(picked[:, None], mask=key_mask, offset=width + position,
                       caches=caches)[:, -1]
    return responses


def pick(logits: mx.array, temperature: float, uniforms: np.ndarray | None) -> mx.array:
    """Greedy, or by the inverse CDF: the first token whose cumulative probability exceeds u. (B, V) -> (B,)"""
    if uniforms is None or temperature == 0:
        return mx.argmax(logits, axis=-1)
    probs = mx.softmax(logits.astype(mx.float32) / temperature, axis=-1, precise=True)
    cumulative = cumulate(probs)
    threshold = mx.array(uniforms.astype(np.float32))[:, None] * cumulative[:, -1:]
    return mx.minimum((cumulative <= threshold).sum(axis=-1), logits.shape[-1] - 1)


def cumulate(probs: mx.array) -> mx.array:
    """Cumulative sum over the last axis in blocks of 256, (B, V).

    One long float32 sum over a vocabulary of 49,000 is off by 1e-5, which is dozens of tokens in the tail.
    """
    rows, size = probs.shape
    blocks = mx.pad(probs, [(0, 0), (0, -size % 256)]).reshape(rows, -1, 256)
    inside = mx.cumsum(blocks, axis=-1)
    totals = inside[..., -1]
    before = mx.cumsum(totals, axis=-1) - totals
    return (inside + before[..., None]).reshape(rows, -1)[:, :size]
