"""Answers of a model to many prompts, in batches that fit into memory, with progress."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlxrlhf.algorithms.rollout import TOGETHER
from mlxrlhf.data.dialogue import prompt
from mlxrlhf.errors import UserError
from mlxrlhf.report.runlog import progress


def responses(
    model, prompts: Sequence[Sequence[int]], config, tokenizer, rng: np.random.Generator, title: str = ""
) -> list[list[int]]:
    """Ids of one sampled response to each prompt, its end token included.

    config gives max_tokens and temp. Row i takes the same numbers from `rng` however the rows are batched.
    """
    found = []
    with progress(title, len(prompts)) as advance:
        for at in range(0, len(prompts), TOGETHER):
            some = prompts[at : at + TOGETHER]
            found += model.generate(
                some,
                uniforms=rng.random((len(some), config.max_tokens)),
                temperature=config.temp,
                max_tokens=config.max_tokens,
                stop_ids=tokenizer.ends,
                pad_id=tokenizer.pad_id,
            )
            advance(len(some))
    return found


def encode_prompts(rows: Sequence[dict], tokenizer) -> list[list[int]]:
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
