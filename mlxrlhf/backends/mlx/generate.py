"""Batched sampling with a KV cache; equal prompts are read once, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlxrlhf.algorithms.rollout import LEAVE_SHARE, distinct
from mlxrlhf.backends.mlx.model import KVCache, Llama, segment_mask


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
    """See `protocol.Model.generate`.

    The device works one token ahead: a token is read only once the next forward is under way, which costs one unused
    forward where every row ends early.
    """
    prompts, copies = distinct(prompts)
    width, total = max(len(p) for p in prompts), len(copies)
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    seen = np.ones((len(prompts), width + max_tokens), bool)  # which cached keys are tokens
    for row, keys, prompt in zip(tokens, seen, prompts):
        row[width - len(prompt) :] = prompt
        keys[: width - len(prompt)] = False
    padded = not seen.all()
    mask = segment_mask(mx.array(seen[:, :width].astype(np.int32))) if padded else "causal"

    caches = [KVCache() for _ in model.model.layers]
    hidden = model(mx.array(tokens), mask=mask, caches=caches)[:, -1]
    if len(prompts) < total:  # several responses to one prompt
        rows = mx.array(copies)
        hidden = hidden[rows]
        for cache in caches:
            cache.keep(rows)
    real = mx.array(seen[copies])
    responses: list[list[int]] = [[] for _ in copies]
    active = np.arange(total)  # which response each row of the batch writes
    done = np.zeros(total, bool)
    draws = None if uniforms is None else mx.array(uniforms.astype(np.float32))
    picked = pick(model.logits(hidden), temperature, None if draws is None else draws[:, 0])
    for position in range(max_tokens):
        following = None
        if position + 1 < max_tokens:
            key_mask = real[:, None, None, : width + position + 1] if padded else "causal"
            hidden = model(picked[:, None], mask=key_mask, offset=width + position, caches=caches)[:, -1]
            following = pick(model.logits(hidden), temperature, None if draws is None else draws[:, position + 1])
            mx.async_eval(following)
        for row, token in zip(active, picked.tolist()):
            if not done[row]:
                responses[row].append(token)
                done[row] = token in stop_ids
                if on_token and row == 0:
                    on_token(token)
        ended = done[active]
        if ended.all() or following is None:
            break
        if ended.mean() >= LEAVE_SHARE:
            rows = mx.array(np.flatnonzero(~ended))
            for cache in caches:
                cache.keep(rows)
            active, following, real = active[~ended], following[rows], real[rows]
            draws = None if draws is None else draws[rows]
        picked = following
    return responses


#: tokens summed at once: one long float32 sum over a vocabulary of 49,000 is off by 1e-5, dozens of tokens in the tail
BLOCK = 256


def pick(logits: mx.array, temperature: float, uniforms: mx.array | None) -> mx.array:
    """Greedy, or by the inverse CDF: the first token whose cumulative probability exceeds u. (B, V) -> (B,)

    First the block of tokens in which it does, then the token: only that block is summed token by token.
    """
    if uniforms is None or temperature == 0:
        return mx.argmax(logits, axis=-1)
    probs = mx.softmax(logits.astype(mx.float32) / temperature, axis=-1, precise=True)
    rows, size = probs.shape
    if size % BLOCK:
        probs = mx.pad(probs, [(0, 0), (0, -size % BLOCK)])
    blocks = probs.reshape(rows, -1, BLOCK)
    totals = blocks.sum(axis=-1)
    ends = mx.cumsum(totals, axis=-1)
    threshold = uniforms[:, None] * ends[:, -1:]
    block = mx.minimum((ends <= threshold).sum(axis=-1, keepdims=True), ends.shape[1] - 1)
    before = mx.take_along_axis(ends - totals, block, axis=1)
    inside = before + mx.cumsum(blocks[mx.arange(rows), block[:, 0]], axis=-1)
    token = mx.minimum((inside <= threshold).sum(axis=-1), BLOCK - 1)
    return mx.minimum(block[:, 0] * BLOCK + token, size - 1)
