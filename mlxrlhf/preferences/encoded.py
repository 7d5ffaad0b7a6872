"""Preference pairs as token ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlxrlhf.config import DPOConfig, RewardConfig
from mlxrlhf.data import dialogue, files
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.preferences.pairs import Pair, length_baseline, split_by_prompt


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of prompt and answer, the end token included, and what the preference was about."""

    chosen: list[int]
    rejected: list[int]
    criterion: str
    start: int = 1  # where the answers begin
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two sequences."""
        return max(len(self.chosen), len(self.rejected))


class EncodedPairs(NamedTuple):
    """The pairs of a run. length_baseline: how often the longer answer is the chosen one among those held out."""

    train: list[EncodedPair]
    held_out: list[EncodedPair]
    length_baseline: float


def by_criterion(correct: np.ndarray, pairs: Sequence[EncodedPair]) -> dict[str, float]:
    """Mean accuracy for each criterion."""
    groups = defaultdict(list)
    for value, pair in zip(correct, pairs):
        groups[pair.criterion].append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def longest(pairs: Sequence[EncodedPair]) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest answer."""
    return max(p.start for p in pairs), max(p.longest - p.start for p in pairs)


def pair_weights(pairs: Sequence[EncodedPair]) -> np.ndarray:
    """How much each pair counts, (N,) float32, 1 on average."""
    weights = np.array([p.weight for p in pairs], np.float32)
    return weights / weights.mean()


def encoded_pairs(config: RewardConfig | DPOConfig, tokenizer: AnyTokenizer, context: int) -> EncodedPairs:
    """The pairs of --data, split by prompt, or the prepared ones.

    Those of more tokens than --max-length or the model's context are left out aloud.
    """
    if config.data:
        train, held_out = split_by_prompt(load_pairs(config.data), config.seed)
        if not train:
            raise UserError(
                f"{config.data} has pairs for one prompt only; one prompt is needed to train on and one to "
                "validate with"
            )
    else:
        folder = folders.data(config)
        path = folders.need(folder / "rlhf_preferences.json", f"mlxrlhf prepare preferences {folders.flag(config)}")
        folders.same_tokenizer(tokenizer, folder)
        prepared = [(row.pop("split"), Pair(**row)) for _, row in files.rows(path)]
        train, held_out = ([pair for split, pair in prepared if split == side] for side in ("train", "val"))

    limit = min(context, config.max_length) if config.max_length else context
    first, second = (_that_fit(side, tokenizer, limit) for side in (train, held_out))
    return EncodedPairs(first, second, length_baseline(held_out))


def _that_fit(pairs: Sequence[Pair], tokenizer: AnyTokenizer, limit: int) -> list[EncodedPair]:
    """The pairs of at most `limit` tokens; says how many are longer and where the first is. Raises UserError when all
    are."""
    fitting, shortest, first = [], 0, ""
    for pair in pairs:
        encoded = encode_pair(pair, tokenizer)
        if encoded.longest <= limit:
            fitting.append(encoded)
        else:
            shortest, first = min(shortest or encoded.longest, encoded.longest), first or pair.place
    if not fitting:
        raise UserError(
            f"every pair has more tokens than --max-length or the model's context, {limit:,}, the shortest "
            f"{shortest:,}; take shorter pairs, raise --max-length or take another model"
        )
    if len(fitting) < len(pairs):
        print(
            f"left out {len(pairs) - len(fitting):,} of {len(pairs):,} pairs, longer than {limit:,} tokens"
            + (f" (the first: {first})" if first else "")
        )
    return fitting


def encode_pair(pair: Pair, tokenizer: AnyTokenizer) -> EncodedPair:
    """The pair's ids. Raises UserError, by the row's place, where the model's template would lose a part of it."""
    try:
        prompt = dialogue.prompt(pair.messages, tokenizer, pair.tools)
        chosen, rejected = (
            dialogue.answer(pair.messages, side, tokenizer, pair.tools) for side in (pair.chosen, pair.rejected)
        )
    except UserError as error:
        raise UserError(f"{pair.place}: {error}" if pair.place else str(error)) from None
    return EncodedPair(prompt + chosen, prompt + rejected, pair.criterion, len(prompt), pair.weight)
