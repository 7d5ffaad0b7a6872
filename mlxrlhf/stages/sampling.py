"""The prompts of a stage, and answers of a model to them, in batches that fit into memory, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import rollout
from mlxrlhf.algorithms.rollout import SAMPLE_ROWS
from mlxrlhf.backends.protocol import Model
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.files import Row
from mlxrlhf.data.rows import Report, conversation, prompt_row
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.report.runlog import progress
from mlxrlhf.tasks import requests

Ids = list[int]


def prompts_of(
    config: Any, tokenizer: AnyTokenizer, context: int, groups: Sequence[str] = ("train",)
) -> tuple[list[dict[str, Any]], list[Ids]]:
    """The prompts a stage works on, as rows with their tests, and the ids of each up to where the answer starts.

    config: a PromptsConfig with max_tokens and seed. They come from --prompts, or from `groups` of the prepared ones. A
    prompt above --max-prompt-tokens, or that leaves no room for --max-tokens in the model's context, is left out aloud.
    Raises UserError for a malformed row, one that the model's template refuses, and when no prompt is left.
    """
    placed = _placed(config, groups)
    room = context - config.max_tokens
    limit = min(room, config.max_prompt_tokens) if config.max_prompt_tokens else room
    report, rows, encoded = Report(), [], []
    for place, row in placed:
        ids = _encoded(row, place, tokenizer)
        if len(ids) > limit:
            report.leave_out(f"longer than {limit:,} tokens", place)
        else:
            rows.append(row)
            encoded.append(ids)
    if report.left_out:
        rule = "--max-prompt-tokens" if limit < room else f"the context without --max-tokens {config.max_tokens:,}"
        print(f"prompts: {len(rows):,} of {len(placed):,} are taken{report}: {rule}")
    if not rows:
        raise UserError(
            f"no prompt has at most {limit:,} tokens, which is what --max-tokens {config.max_tokens:,} leaves of the "
            f"model's context of {context:,}, or --max-prompt-tokens; shorten the prompts or lower --max-tokens"
        )
    return requests.with_tests(rows), encoded


def _placed(config: Any, groups: Sequence[str]) -> list[Row]:
    """(place, row) of the prompts that were asked for, in the order of their file."""
    if config.prompts:
        placed = requests.load_prompts(config)
    else:
        placed = []
        for number, row in enumerate(folders.load_prompts(config, groups), start=1):
            place = f"prepared prompt {number}"
            placed.append((place, prompt_row(row, place, system=config.system)))
    if 0 < config.max_prompts < len(placed):
        order = np.random.default_rng(config.seed).permutation(len(placed))
        placed = [placed[i] for i in sorted(order[: config.max_prompts])]
    return placed


def _encoded(row: dict[str, Any], place: str, tokenizer: AnyTokenizer) -> Ids:
    try:
        return encode_prompts([row], tokenizer)[0]
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def encode_prompts(rows: Sequence[dict[str, Any]], tokenizer: AnyTokenizer) -> list[Ids]:
    """Ids of each request, up to where the answer starts."""
    return [dialogue.prompt(conversation(row["prompt"]), tokenizer, row.get("tools") or ()) for row in rows]


def responses(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: Any,
    tokenizer: AnyTokenizer,
    rng: np.random.Generator,
    title: str = "",
) -> list[Ids]:
    """Ids of one sampled response to each prompt, its end token included.

    config gives max_tokens and temp. Row i takes the same numbers from `rng` however the rows are batched.
    """
    with progress(title, len(prompts)) as advance:
        return sample(
            model,
            prompts,
            rng.random((len(prompts), config.max_tokens)),
            temperature=config.temp,
            stop_ids=tokenizer.ends,
            pad_id=tokenizer.pad_id,
            together=SAMPLE_ROWS,
            advance=advance,
        )


def sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    uniforms: np.ndarray,
    *,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    together: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Ids]:
    """A response to each prompt by its row of uniforms (B, max_tokens); of several processes each samples a share.

    Prompts of similar length are read together, at most `together` (0: any number) at once, so that one long prompt
    does not pad all the others. Each response has its own row of uniforms, so this changes speed and memory alone.
    """
    max_tokens, (number, processes) = uniforms.shape[1], model.world
    own = list(range(number, len(prompts), processes))
    tokens = np.zeros((len(prompts), max_tokens + 1), np.int32)  # the first column holds the length
    for part in rollout.of_similar_length([len(prompts[i]) for i in own], together or len(prompts)):
        rows = [own[i] for i in part]
        sampled = model.generate(
            [prompts[i] for i in rows],
            uniforms=uniforms[rows],
            temperature=temperature,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            pad_id=pad_id,
        )
        for i, response in zip(rows, sampled):
            tokens[i, 0], tokens[i, 1 : len(response) + 1] = len(response), response
        advance(len(rows) * processes)
    if processes > 1:
        tokens = parallel.gather(model, tokens).sum(axis=0)
    return [row[1 : row[0] + 1].tolist() for row in tokens]


def check_context(prompts: Sequence[Sequence[int]], max_tokens: int, context: int) -> None:
    """Raises UserError when the longest prompt and its response do not fit into the model's context."""
    longest = max(map(len, prompts))
    if longest + max_tokens > context:
        raise UserError(
            f"a prompt of {longest:,} tokens and --max-tokens {max_tokens:,} exceed the model's context of "
            f"{context:,}; shorten the prompt or lower --max-tokens"
        )
