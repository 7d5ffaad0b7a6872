"""mlx-lm's server without its HTTP: one model, many prompts at once, a cache of what was read before.

Its generation thread trusts what it is given: a request that it cannot take ends it. What reaches it was checked
(agent/api.py); should it end all the same, the process ends with it, for nothing would be answered any more.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.models.cache import LRUPromptCache
from mlx_lm.server import (
    CompletionRequest,
    GenerationArguments,
    GenerationContext,
    LogitsProcessorArguments,
    ModelDescription,
    ModelProvider,
    Response,
    ResponseGenerator,
    SamplingArguments,
)
from mlx_lm.utils import load_adapters

from mlxrlhf.backends.serving import Sampling, Token
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint

#: answers that are decoded, and prompts that are read, at once
DECODED_AT_ONCE, READ_AT_ONCE = 32, 8
_NAME = "default_model"


def open_engine(
    folder: Path, adapter: str, *, ends: Sequence[int], on_death: Callable[[BaseException], None]
) -> Engine:
    """The engine of a checkpoint folder, its model loaded. Raises UserError when mlx-lm cannot load it.

    adapter: folder of LoRA adapters to put on it, or "". ends: ids that end an answer. on_death is called in the
    generation thread when that cannot go on.
    """
    if mx.default_device() == mx.Device(mx.cpu):
        # mlx-lm compiles its samplers. On the CPU that starts a C++ compiler at the first answer, wins next to nothing,
        # and while it runs the process is deaf to Ctrl-C (that is how system(3) works).
        mx.disable_compile()
    with checkpoint.for_mlx_lm(folder) as readable:
        _try_to_load(folder, adapter, readable)
        provider = _Provider(readable, adapter, ends)
        engine = Engine(provider, on_death)
        provider.loaded.wait()
    if provider.model is None:
        raise UserError(f"mlx-lm could not load {folder}; take a model that `mlx_lm.generate` runs")
    return engine


def _try_to_load(folder: Path, adapter: str, readable: Path) -> None:
    """A trial: the generation thread, where an array has to be made to be used, could only say that it failed."""
    try:
        model = mlx_lm.load(
            str(readable), lazy=True, tokenizer_config={"trust_remote_code": False}, trust_remote_code=False
        )[0]
    except Exception as error:  # whatever a folder of another maker may lack
        raise UserError(
            f"mlx-lm cannot load {folder} ({_first_line(error)}); take a model that `mlx_lm.generate` runs"
        ) from None
    if not adapter:
        return
    try:
        weights: Any = mx.load(str(Path(adapter) / "adapters.safetensors"))
        model = load_adapters(model, adapter)
    except Exception as error:
        raise UserError(
            f"the adapters in {adapter} cannot be put on {folder} ({_first_line(error)}); give the --model that they "
            "were trained on"
        ) from None
    shapes = {name: array.shape for name, array in dict(tree_flatten(model.parameters())).items()}
    for name, array in weights.items():  # mlx-lm itself takes adapters of another model without a word
        if shapes.get(name) != array.shape:
            raise UserError(
                f"the adapters in {adapter} do not fit {folder} ({name} is {array.shape}, the model's "
                f"{shapes.get(name, 'missing')}); give the --model that they were trained on"
            )


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


class _Provider(ModelProvider):
    """The one model that was asked for. The stock provider loads whatever folder or hub model a request names."""

    def __init__(self, folder: Path, adapter: str, ends: Sequence[int]):
        # What `python -m mlx_lm.server` would parse from its command line.
        super().__init__(
            argparse.Namespace(
                model=str(folder),
                adapter_path=adapter or None,
                draft_model=None,
                num_draft_tokens=3,
                trust_remote_code=False,
                chat_template="",
                use_default_chat_template=False,
                chat_template_args={},
                allowed_origins=[],
                pipeline=False,
                decode_concurrency=DECODED_AT_ONCE,
                prompt_concurrency=READ_AT_ONCE,
                prefill_step_size=2048,
                prompt_cache_size=10,
                prompt_cache_bytes=None,
                kv_bits=None,
                kv_group_size=64,
                quantized_kv_start=0,
            )
        )
        self.loaded, self._ends = threading.Event(), ends

    def load_default(self) -> None:
        try:
            super().load_default()
        finally:
            self.loaded.set()

    def load(self, model_path: str, adapter_path: str | None = None, draft_model_path: str | None = None) -> Any:
        model, tokenizer = super().load(_NAME, None, _NAME)
        tokenizer.eos_token_ids = self._ends
        return model, tokenizer


class Engine(ResponseGenerator):
    """mlx-lm's generation thread, fed with ids and read by coroutines."""

    def __init__(self, provider: _Provider, on_death: Callable[[BaseException], None]):
        self._on_death = on_death
        super().__init__(provider, LRUPromptCache(provider.cli_args.prompt_cache_size))

    def reply(self, prompt: Sequence[int], sampling: Sampling) -> Reply:
        """The answer to a prompt, whose tokens and the answer's fit the model's context together."""
        return Reply(self, list(prompt), sampling)

    def stop(self) -> None:
        """End the generation thread."""
        self.stop_and_join()

    def _run_generate(self) -> None:
        try:
            self._generate()
        except BaseException as error:
            if self.model_provider.model is not None:  # otherwise it could not be loaded, as open_engine says
                self._on_death(error)

    def _tokenize(self, tokenizer: Any, request: CompletionRequest, args: GenerationArguments) -> Any:
        """The stock method renders messages; here the ids are made already, as in training."""
        return request.prompt, [request.prompt], ["assistant"], "normal", None


class Reply:
    """The tokens of one answer as they come."""

    def __init__(self, engine: Engine, prompt: list[int], sampling: Sampling):
        self.cached = 0
        self._box = _Mailbox(asyncio.get_running_loop())
        request = CompletionRequest("text", cast(Any, prompt), [], None, None)
        engine.requests.put((self._box, request, _arguments(sampling)))

    async def __aiter__(self) -> AsyncIterator[Token]:
        try:
            while (item := await self._box.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, GenerationContext):
                    self.cached = max(item.prompt_cache_count, 0)
                elif isinstance(item, Response):
                    top = tuple((one["id"], one["logprob"]) for one in item.top_tokens)
                    yield Token(item.token, item.logprob, top, item.finish_reason or "")
                    if item.finish_reason:
                        return
        finally:
            self._box.leave()


class _Mailbox:
    """What the generation thread believes to be a queue: it hands its items over to a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._queue, self._left = loop, asyncio.Queue[Any](), False
        self._context: GenerationContext | None = None

    def put(self, item: Any) -> None:
        if isinstance(item, GenerationContext):
            self._context = item
        if self._left:
            self.leave()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> Any:
        return await self._queue.get()

    def leave(self) -> None:
        """Nobody reads any more: the answer is ended at its next token, or at its first where it still waits."""
        self._left = True
        if self._context is not None:
            self._context.stop()


def _arguments(s: Sampling) -> GenerationArguments:
    return GenerationArguments(
        model=ModelDescription(model=_NAME, draft=_NAME, adapter=""),
        sampling=SamplingArguments(
            temperature=s.temperature,
            top_p=s.top_p,
            top_k=s.top_k,
            min_p=s.min_p,
            xtc_probability=0.0,
            xtc_threshold=0.1,
        ),
        logits=LogitsProcessorArguments(
            logit_bias=dict(s.logit_bias),
            repetition_penalty=s.repetition_penalty,
            repetition_context_size=s.repetition_context_size,
            presence_penalty=s.presence_penalty,
            presence_context_size=s.presence_context_size,
            frequency_penalty=s.frequency_penalty,
            frequency_context_size=s.frequency_context_size,
        ),
        stop_words=[],  # found in the text that is sent, however its tokens are cut
        max_tokens=s.max_tokens,
        num_draft_tokens=3,
        logprobs=False,
        top_logprobs=s.top_logprobs,
        seed=s.seed,
        chat_template_kwargs=None,
    )
