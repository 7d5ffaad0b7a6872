"""Answers of a model to many prompts, in batches that fit into memory, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms.rollout import SAMPLE_ROWS
from mlxrlhf.backends.protocol import Model
from mlxrlhf.data.dialogue import AnyTokenizer, prompt
from mlxrlhf.errors import UserError
from mlxrlhf.report.runlog import progress


def responses(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: Any,
    tokenizer: AnyTokenizer,
    rng: np.random.Generator,
    title: str = "",
) -> list[list[int]]:
    """Ids of one sampled response to each prompt, its end token included.

    config gives max_tokens and temp. Row i takes the same numbers from `rng` however the rows are batched.
    """
    sampled: list[list[int]] = []
    with progress(title, len(prompts)) as advance:
        for begin in range(0, len(prompts), SAMPLE_ROWS):
            some = prompts[begin : begin + SAMPLE_ROWS]
            uniforms = rng.random((len(some), config.max_tokens))
            sampled += sample(
                model,
                some,
                uniforms,
                temperature=config.temp,
                stop_ids=tokenizer.ends,
                pad_id=tokenizer.pad_id,
            )
            advance(len(some))
    return sampled


def sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    uniforms: np.ndarray,
    *,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
) -> list[list[int]]:
    """A response to each prompt by its row of uniforms (B, max_tokens); of several processes each samples a share."""
    max_tokens, (number, processes) = uniforms.shape[1], model.world
    own = list(range(number, len(prompts), processes))
    sampled: list[list[int]] = []
    if own:
        sampled = model.generate(
            [prompts[i] for i in own],
            uniforms=uniforms[own],
            temperature=temperature,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            pad_id=pad_id,
        )
    if processes == 1:
        return sampled
    tokens = np.zeros((len(prompts), max_tokens + 1), np.int32)  # the first column holds the length
    for i, response in zip(own, sampled):
        tokens[i, 0], tokens[i, 1 : len(response) + 1] = len(response), response
    return [row[1 : row[0] + 1].tolist() for row in parallel.gather(model, tokens).sum(axis=0)]


def encode_prompts(rows: Sequence[dict], tokenizer: AnyTokenizer) -> list[list[int]]:
    """Ids of each request, up to where the answer starts."""
    return [prompt([{"role": "user", "content": row["prompt"]}], tokenizer) for row in rows]


def check_context(prompts: Sequence[Sequence[int]], max_tokens: int, context: int) -> None:
    """Raises UserError when the longest prompt and its response do not fit into the model's context."""
    longest = max(map(len, prompts))
    if longest + max_tokens > context:
        raise UserError(
            f"a prompt of {longest:,} tokens and --max-tokens {max_tokens:,} exceed the model's context of "
            f"{context:,}; shorten the prompt or lower --max-tokens"
        )
