"""Batched sampling with a KV cache; equal prompts are read once, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mlxrlhf.algorithms.rollout import LEAVE_SHARE, distinct
from mlxrlhf.backends.torch.model import KVCache, Llama, segment_mask


@torch.inference_mode()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    uniforms: np.ndarray | None,
    max_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    on_token: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """See `protocol.Model.generate`."""
    device = model.head_weight().device
    prompts, copies = distinct(prompts)
    width, total = max(len(p) for p in prompts), len(copies)
    tokens = np.full((len(prompts), width), pad_id, np.int64)
    seen = np.ones((len(prompts), width + max_tokens), bool)  # which cached keys are tokens
    for row, keys, prompt in zip(tokens, seen, prompts):
        row[width - len(prompt) :] = prompt
        keys[: width - len(prompt)] = False
    padded = not seen.all()
    mask = segment_mask(torch.from_numpy(seen[:, :width]).to(device)) if padded else "causal"

    caches = [KVCache() for _ in model.model.layers]
    hidden = model(torch.from_numpy(tokens).to(device), mask=mask, caches=caches)[:, -1]
    if len(prompts) < total:  # several responses to one prompt
        rows = torch.from_numpy(copies).to(device)
        hidden = hidden[rows]
        for cache in caches:
            cache.keep(rows)
    real = torch.from_numpy(seen[copies]).to(device)
    responses: list[list[int]] = [[] for _ in copies]
    active = np.arange(total)  # which response each row of the batch writes
    done = np.zeros(total, bool)
    draws = None if uniforms is None else torch.from_numpy(uniforms.astype(np.float32)).to(device)
    for position in range(max_tokens):
        picked = pick(model.logits(hidden), temperature, None if draws is None else draws[:, position])
        for row, token in zip(active, picked.tolist()):
            if not done[row]:
                responses[row].append(token)
                done[row] = token in stop_ids
                if on_token and row == 0:
                    on_token(token)
        ended = done[active]
        if ended.all() or position + 1 == max_tokens:
            break
        if ended.mean() >= LEAVE_SHARE:
            rows = torch.from_numpy(np.flatnonzero(~ended)).to(device)
            for cache in caches:
                cache.keep(rows)
            active, picked, real = active[~ended], picked[rows], real[rows]
            draws = None if draws is None else draws[rows]
        key_mask = real[:, None, None, : width + position + 1] if padded else "causal"
        hidden = model(picked[:, None], mask=key_mask, offset=width + position, caches=caches)[:, -1]
    return responses


#: tokens summed at once: one long float32 sum over a vocabulary of 49,000 is off by 1e-5, dozens of tokens in the tail
BLOCK = 256


def pick(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor | None) -> torch.Tensor:
    """Greedy, or by the inverse CDF: the first token whose cumulative probability exceeds u. (B, V) -> (B,)

    First the block of tokens in which it does, then the token: only that block is summed token by token.
    """
    if uniforms is None or temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    probs = torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    rows, size = probs.shape
    if size % BLOCK:
        probs = torch.nn.functional.pad(probs, (0, -size % BLOCK))
    blocks = probs.view(rows, -1, BLOCK)
    totals = blocks.sum(dim=-1)
    ends = totals.cumsum(dim=-1)
    threshold = uniforms[:, None] * ends[:, -1:]
    block = (ends <= threshold).sum(dim=-1, keepdim=True).clamp(max=ends.shape[1] - 1)
    before = ends.gather(1, block) - totals.gather(1, block)
    inside = before + blocks[torch.arange(rows, device=block.device), block[:, 0]].cumsum(dim=-1)
    token = (inside <= threshold).sum(dim=-1).clamp(max=BLOCK - 1)
    return (block[:, 0] * BLOCK + token).clamp(max=size - 1)
