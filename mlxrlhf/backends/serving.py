"""What a server asks of the model that it serves: one answer's settings, its tokens as they come, the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How one answer is sampled; every value was checked. top_k 0, top_p 1 and min_p 0 leave nothing out."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    presence_context_size: int = 20
    frequency_penalty: float = 0.0
    frequency_context_size: int = 20
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    top_logprobs: int = 0


@dataclass(frozen=True)
class Token:
    """One token of an answer. logprob is before the temperature; top: the likeliest (id, logprob) where asked for;
    finish: "stop" for an end token, "length" for the last one allowed, "" otherwise."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    finish: str = ""


class Reply(Protocol):
    """The tokens of one answer. Leaving the loop over it early frees its place in the batch."""

    cached: int  # tokens of the prompt that were not read again; known once the first token is there

    def __aiter__(self) -> AsyncIterator[Token]: ...


class Engine(Protocol):
    """A model that answers several prompts at once."""

    def reply(self, prompt: Sequence[int], sampling: Sampling) -> Reply: ...

    def stop(self) -> None:
        """End the thread that generates."""
