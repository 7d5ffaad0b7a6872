"""Batched sampling with a KV cache; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mlxrlhf.backends.torch.model import KVCache, Llama, segment_mask


@torch.inference_mode()
def generate(model: Llama, prompts: Sequence[Sequence[int]], *, uniforms: np.ndarray | None, max_tokens: int,
             temperature: float, stop_ids: Sequence[int], pad_id: int,
             on_token: Callable[[int], None] | None = None) -> list[list[int]]:
    """See `protocol.Model.generate`."""
    device = model.head_weight().device
    width = max(len(p) for p in prompts)
    tokens = np.full((len(prompts), width), pad_id, np.int64)
    pads = np.array([width - len(p) for p in prompts])
    for row, prompt in zip(tokens, prompts):
        row[width - len(prompt):] = prompt
    padded = bool(pads.any())
    # (B, width): which cached keys are tokens
    real = torch.from_numpy(np.arange(width)[None, :] >= pads[:, None]).to(device)

    caches = [KVCache() for _ in model.model.layers]
    mask = segment_mask(real) if padded else "causal"
    hidden = model(torch.from_numpy(tokens).to(device), mask=mask, caches=caches)[:, -1]
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
            rows = torch.from_numpy(np.flatnonzero(alive)).to(device)
            for cache in caches:
                cache.keep(rows)
            active, picked, real = active[alive], picked[rows], real[rows]
        if padded:
            real = torch.cat([real, real.new_ones(len(active), 1)], dim=1)
        key_mask = real[:, None, None, :] if padded else "causal"
        hidden = model(picked[:, None], mask=key_mask, offset=width + position, caches=caches)[:, -1]
    return responses


def pick(logits: torch.Tensor, temperature: float, uniforms: np.ndarray | None) -> torch.Tensor:
    """Greedy, or by the inverse CDF: the first token whose cumulative probability exceeds u. (B, V) -> (B,)"""
    if uniforms is None or temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = cumulate(torch.softmax(logits.float() / temperature, dim=-1))
    threshold = torch.from_numpy(uniforms.astype(np.float32)).to(logits.device)[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def cumulate(probs: torch.Tensor) -> torch.Tensor:
    """Cumulative sum over the last axis in blocks of 256, (B, V).

    One long float32 sum over a vocabulary of 49,000 is off by 1e-5, which is dozens of tokens in the tail.
    """
    rows, size = probs.shape
    blocks = torch.nn.functional.pad(probs, (0, -size % 256)).reshape(rows, -1, 256)
    inside = blocks.cumsum(dim=-1)
    totals = inside[..., -1]
    before = totals.cumsum(dim=-1) - totals
    return (inside + before[..., None]).reshape(rows, -1)[:, :size]
