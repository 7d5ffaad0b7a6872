"""Batched sampling with a KV cache; equal prompts are read once, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mlxrlhf.backends.sampling import Prompts, Responses, draws
from mlxrlhf.backends.torch.network import Llama


@torch.inference_mode()
def generate(
    trunk: Llama,
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
    device = trunk.head_weight().device
    p = Prompts(prompts, max_tokens, pad_id)
    reading = trunk.reading(p)
    hidden = reading.prompts()
    if p.repeated:
        copies = torch.from_numpy(p.copies).to(device)
        reading.keep(copies)
        hidden = hidden[copies]
    numbers = draws(uniforms)
    drawn = None if numbers is None else torch.from_numpy(numbers).to(device)
    responses = Responses(len(prompts), stop_ids, on_token)
    for position in range(max_tokens):
        picked = pick(trunk.logits(hidden), temperature, None if drawn is None else drawn[:, position])
        responses.add(picked.tolist())
        if position + 1 == max_tokens or responses.finished:
            break
        if (staying := responses.leave()) is not None:
            rows = torch.from_numpy(staying).to(device)
            reading.keep(rows)
            picked = picked[rows]
            drawn = None if drawn is None else drawn[rows]
        hidden = reading.token(picked)
    return responses.ids


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
    inside = blocks[torch.arange(rows, device=block.device), block[:, 0]].cumsum(dim=-1)
    left = threshold - (ends.gather(1, block) - totals.gather(1, block))
    # Rounding may put it outside the block: then the first or the last token there that has any probability.
    left = torch.minimum(left.clamp(min=0.0), inside[:, -1:] * (1 - 2**-24))
    token = (inside <= left).sum(dim=-1).clamp(max=BLOCK - 1)
    return (block[:, 0] * BLOCK + token).clamp(max=size - 1)
