"""Batched sampling with a KV cache; equal prompts are read once, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import mlx.core as mx
import numpy as np

from mlxrlhf.backends.mlx.network import Trunk
from mlxrlhf.backends.sampling import Prompts, Responses, draws


def generate(
    trunk: Trunk,
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
    p = Prompts(prompts, max_tokens, pad_id)
    reading = trunk.reading(p)
    hidden = reading.prompts()
    if p.repeated:
        copies = mx.array(p.copies)
        reading.keep(copies)
        hidden = hidden[copies]
    numbers = draws(uniforms)
    drawn = None if numbers is None else mx.array(numbers)
    responses = Responses(len(prompts), stop_ids, on_token)
    picked = pick(trunk.logits(hidden), temperature, None if drawn is None else drawn[:, 0])
    for position in range(max_tokens):
        following = None
        if position + 1 < max_tokens:
            hidden = reading.token(picked)
            following = pick(trunk.logits(hidden), temperature, None if drawn is None else drawn[:, position + 1])
            mx.async_eval(following)
        responses.add(cast(list[int], picked.tolist()))
        if following is None or responses.finished:
            break
        if (staying := responses.leave()) is not None:
            rows = mx.array(staying)
            reading.keep(rows)
            following = following[rows]
            drawn = None if drawn is None else drawn[rows]
        picked = following
    return responses.ids


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
    inside = mx.cumsum(blocks[mx.arange(rows), block[:, 0]], axis=-1)
    left = threshold - mx.take_along_axis(ends - totals, block, axis=1)
    # Rounding may put it outside the block: then the first or the last token there that has any probability.
    left = mx.clip(left, 0.0, inside[:, -1:] * (1 - 2**-24))
    token = mx.minimum((inside <= left).sum(axis=-1), BLOCK - 1)
    return mx.minimum(block[:, 0] * BLOCK + token, size - 1)
