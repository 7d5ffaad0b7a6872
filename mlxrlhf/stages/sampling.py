"""Answers of a model to many prompts, in batches that fit into memory, with progress."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlxrlhf.runlog import progress

#: rows of one batch, sampled or, by the reward stage, read
TOGETHER, READ_TOGETHER = 64, 32


def responses(model, prompts: Sequence[Sequence[int]], config, tokenizer, rng: np.random.Generator,
              title: str = "") -> list[list[int]]:
    """Ids of one sampled response to each prompt, its end token included.

    config gives max_tokens and temp. Row i takes the same numbers from `rng` however the rows are batched.
    """
    found = []
    with progress(title, len(prompts)) as advance:
        for at in range(0, len(prompts), TOGETHER):
            some = prompts[at:at + TOGETHER]
            found += model.generate(some, uniforms=rng.random((len(some), config.max_tokens)), temperature=config.temp,
                                    max_tokens=config.max_tokens, stop_ids=[tokenizer.end_id],
                                    pad_id=tokenizer.pad_id)
            advance(len(some))
    return found
