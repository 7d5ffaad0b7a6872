"""OpenAI's chat completions over HTTP: streaming, tool calls, several requests at once.

Prompts are made as in training and answers are read as in chat; web.py decides who may ask, api.py what may be asked,
and mlx-lm's generation thread (backends/mlx/serve.py) answers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlxrlhf import backends, web
from mlxrlhf.agent import api
from mlxrlhf.agent.api import Asked, Body, Form, Refused, Served
from mlxrlhf.agent.speech import Speech
from mlxrlhf.backends.serving import Engine, Reply, Token
from mlxrlhf.config import ServeConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import PublishedTokenizer, open_tokenizer
from mlxrlhf.display import cleaned
from mlxrlhf.errors import UserError, unforeseen
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.models.adapters import check_base

#: bytes of a request, and requests that may wait or be answered at once
MAX_BODY, MAX_OPEN = 8 << 20, 256
#: the least log-probability that is sent: JSON has no infinity (OpenAI's own value)
LEAST_LOGPROB = -9999.0


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UserError for a model or an address that cannot be served."""
    backends.load("mlx", config.device)  # before anything imports mlx: it puts a fast BLAS under it
    from mlxrlhf.backends.mlx import serve as mlx_serve

    name, folder, adapter = folders.find_model(config.model, size=config.size, adapter=config.adapter)
    shape = checkpoint.read_config(folder)
    checkpoint.check_safetensors(folder)
    if adapter and not (Path(adapter) / "adapter_config.json").is_file():
        raise UserError(
            f"{adapter} holds no adapter_config.json; give the adapters folder that mlxrlhf or mlx-lm wrote"
        )
    if adapter:
        check_base(folder, Path(adapter))
    listening = web.listen(config.host, config.port)
    tokenizer = folders.tokenizer_for(config, folder, adapter)
    prompter = Prompter(tokenizer, config.chat_template)
    served = Served(
        (name, "default_model", str(folder), str(folder.resolve())),
        shape.vocab_size,
        shape.max_positions,
        config.max_tokens,
        config.temp,
    )
    web.log_warnings()
    engine = mlx_serve.open_engine(folder, adapter, ends=prompter.tokenizer.ends, on_death=_end)
    try:
        print(f"serving {name} at {web.link(listening, config.host)}/v1; Ctrl-C stops it", flush=True)
        if not web.is_local(listening.getsockname()[0]):
            print("whoever reaches this address may use it, over plain HTTP: use a network you trust", flush=True)
        web.serve(guarded(application(prompter, engine, served), config, listening), listening)
        print(flush=True)
    finally:
        engine.stop()
    sys.stdout.flush()
    # MLX cleans up after the generation thread while it ends; an ordinary exit now and then meets it and aborts.
    os._exit(0)


def _end(error: BaseException) -> None:
    """Without its generation thread the server would answer nothing any more."""
    sentence = unforeseen(error, "mlxrlhf serve: the thread that generates answers")
    print(cleaned(f"mlxrlhf: {sentence}"), file=sys.stderr, flush=True)
    os._exit(1)


class Prompter:
    """How the served model is spoken to: its tokenizer, and others for requests with arguments of their own."""

    def __init__(self, tokenizer: AnyTokenizer, chat_template: str = ""):
        self.tokenizer, self._chat_template = tokenizer, chat_template
        self._others: dict[tuple[tuple[str, Any], ...], AnyTokenizer] = {(): tokenizer}

    def speaking(self, arguments: tuple[tuple[str, Any], ...]) -> AnyTokenizer:
        """The tokenizer whose chat template gets these arguments. Raises UserError where it has no such argument."""
        if arguments not in self._others:
            if not isinstance(self.tokenizer, PublishedTokenizer):
                raise UserError("chat_template_kwargs: this model's turns have no arguments")
            given = {**self.tokenizer.template_args, **dict(arguments)}
            other = open_tokenizer(self.tokenizer.folder, given, self._chat_template)
            dialogue.prompt([{"role": "user", "content": "x"}], other)  # names an argument that there is not
            self._others[arguments] = other
        return self._others[arguments]

    def prompt(self, asked: Asked) -> tuple[AnyTokenizer, list[int]]:
        """The ids that the model was trained to see, and how its answer is read."""
        tokenizer = self.speaking(asked.template)
        if asked.text is not None:
            return tokenizer, [*tokenizer.start_ids, *tokenizer.encode(asked.text)]
        return tokenizer, dialogue.prompt(asked.messages, tokenizer, asked.tools)


# --- HTTP ----------------------------------------------------------------------------------------------------------


def guarded(app: Starlette, config: ServeConfig, listening: Any) -> web.Guard:
    """The application behind Host and Origin, with the pages that --allowed-origins lets in."""
    origins = [origin.strip() for origin in config.allowed_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return web.Guard(
        app,
        lambda reason, status: _error(Refused(reason, status=status)),
        hosts=web.own_names(config.host),
        any_address=not web.is_local(listening.getsockname()[0]),
        origins=origins,
        programs=True,
    )


def application(prompter: Prompter, engine: Engine, served: Served) -> Starlette:
    """POST /v1/chat/completions and /v1/completions, GET /v1/models and /health."""
    server = _Server(prompter, engine, served)

    def endpoint(read: Callable[[Body, Served], Asked]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                return await server.answer(request, read)
            except web.BadRequest as error:
                return _error(Refused(str(error), status=error.status))
            except Refused as error:
                return _error(error)
            except Exception as error:
                return _error(_failed(error))

        return handle

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [server.model]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] not in served.names:
            return _error(Refused(f"this server has {served.names[0]!r}", status=404, code="model_not_found"))
        return JSONResponse(server.model)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        said = "there is nothing at this address; this server has /v1/chat/completions, /v1/completions and /v1/models"
        return _error(Refused(said if status == 404 else "this address takes another method", status=status))

    chat, text = endpoint(api.chat_request), endpoint(api.text_request)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", text, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
        ],
        exception_handlers={404: refused, 405: refused},
    )


def _failed(error: Exception) -> Refused:
    """What a client hears of an error that nobody foresaw; the terminal is told more."""
    print(cleaned(f"mlxrlhf: {unforeseen(error, 'mlxrlhf serve: an answer')}"), file=sys.stderr, flush=True)
    return Refused("the server failed; its terminal says where", status=500)


def _error(error: Refused) -> Response:
    return JSONResponse(error.body(), error.status, headers=web.HEADERS)


class _Server:
    """Answers requests: one stream of tokens for each choice."""

    def __init__(self, prompter: Prompter, engine: Engine, served: Served):
        self.prompter, self.engine, self.served = prompter, engine, served
        self.model = {"id": served.names[0], "object": "model", "created": 0, "owned_by": "mlxrlhf"}
        self._open = 0

    async def answer(self, request: Request, read: Callable[[Body, Served], Asked]) -> Response:
        asked = read(await web.read_json(request, MAX_BODY), self.served)
        try:
            tokenizer, prompt = self.prompter.prompt(asked)
        except UserError as error:
            raise Refused(str(error), code="invalid_value") from None
        room = self.served.context - len(prompt)
        if room < 1:
            raise Refused(
                f"the conversation has {len(prompt):,} tokens; the model's context holds {self.served.context:,}",
                code="context_length_exceeded",
            )
        if not prompt:
            raise Refused("the prompt is empty", param="prompt", code="invalid_value")
        if self._open + asked.choices > MAX_OPEN:
            raise Refused("the server is busy; try again in a moment", status=429, code="rate_limit_exceeded")
        answers = [_Answer(self, asked, tokenizer, prompt, i, room) for i in range(asked.choices)]
        form = Form.of(asked)
        if asked.stream:
            return StreamingResponse(self._events(form, answers), media_type="text/event-stream", headers=web.HEADERS)
        return await self._answer_whole(request, form, answers)

    async def _answer_whole(self, request: Request, form: Form, answers: Sequence[_Answer]) -> Response:
        """All choices at once; nothing, where the client left meanwhile."""
        tasks = [asyncio.create_task(answer.read()) for answer in answers]
        left = asyncio.create_task(_left(request))
        try:
            waiting: set[asyncio.Task[Any]] = {left, *tasks}
            while left in waiting and len(waiting) > 1:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if left in done:
                    return Response(status_code=499)
                for task in done:
                    task.result()  # raises what it raised
            choices = [task.result() for task in tasks]
        finally:
            await _cancel([left, *tasks])
        return Response(form.whole(choices, _usage(answers)), media_type="application/json", headers=web.HEADERS)

    async def _events(self, form: Form, answers: Sequence[_Answer]) -> AsyncIterator[str]:
        """Server-sent events of all choices as they come."""
        waiting: asyncio.Queue[str | Exception | None] = asyncio.Queue()

        async def pump(answer: _Answer) -> None:
            try:
                async for chunk in answer.chunks(form):
                    waiting.put_nowait(chunk)
                waiting.put_nowait(None)
            except Exception as error:
                waiting.put_nowait(error)

        tasks = [asyncio.create_task(pump(answer)) for answer in answers]
        running = len(tasks)
        try:
            while running:
                item = await waiting.get()
                if isinstance(item, Exception):
                    print(
                        cleaned(f"mlxrlhf: {unforeseen(item, 'mlxrlhf serve: an answer')}"), file=sys.stderr, flush=True
                    )
                    yield api.event(Refused("the server failed; its terminal says where", status=500).body())
                    return
                if item is None:
                    running -= 1
                else:
                    yield item
            if form.asked.include_usage:
                yield form.usage_chunk(_usage(answers))
            yield "data: [DONE]\n\n"
        finally:
            await _cancel(tasks)

    def opened(self, change: int) -> None:
        self._open += change


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End tasks that nobody waits for any more; those that have ended are left as they are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _usage(answers: Sequence[_Answer]) -> Body:
    first = answers[0]
    return api.usage(len(first.prompt), first.cached, sum(answer.count for answer in answers))


class _Answer:
    """One choice of a request: its tokens become text, text becomes content, reasoning and tool calls."""

    def __init__(
        self, server: _Server, asked: Asked, tokenizer: AnyTokenizer, prompt: list[int], index: int, room: int
    ):
        self.asked, self.prompt, self.index = asked, prompt, index
        self.cached = self.count = 0
        self._server, self._tokenizer = server, tokenizer
        self._sampling = api.for_choice(asked.sampling, index, room)
        self._finish = ""
        self._tokens: list[Token] = []  # whose log-probabilities were not sent yet
        self._speech = Speech(tokenizer, asked.tools, asked.stop, raw=asked.text is not None)
        self._calls: list[Body] = []

    async def chunks(self, form: Form) -> AsyncIterator[str]:
        """The choice as server-sent events."""
        if form.asked.text is None:
            yield form.chunk(self.index, {"role": "assistant", "content": ""})
        async for news in self._news():
            yield form.chunk(self.index, news, logprobs=self._logprobs())
        if self._calls:
            calls = [api.tool_call(call, i) for i, call in enumerate(self._calls)]
            yield form.chunk(self.index, {"tool_calls": calls}, logprobs=self._logprobs())
        yield form.chunk(self.index, {}, self.finish_reason, logprobs=self._logprobs())

    async def read(self) -> Body:
        """The whole choice."""
        parts: dict[str, str] = {}
        async for news in self._news():
            for kind, text in news.items():
                parts[kind] = parts.get(kind, "") + text
        message: Body = {"role": "assistant", "content": parts.get("content") or (None if self._calls else "")}
        if "reasoning_content" in parts:
            message["reasoning_content"] = parts["reasoning_content"]
        if self._calls:
            message["tool_calls"] = [api.tool_call(call) for call in self._calls]
        form = Form.of(self.asked)
        return form.choice(self.index, message, self.finish_reason, self._logprobs())

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self._calls and self._finish == "stop" else self._finish

    async def _news(self) -> AsyncIterator[dict[str, str]]:
        """Text as it may be sent; afterwards the calls and the reason of the end are known."""
        decode = self._tokenizer.stream_decoder()
        self._server.opened(1)
        reply: Reply = self._server.engine.reply(self.prompt, self._sampling)
        try:
            async for token in reply:
                self.count += 1
                self.cached = reply.cached
                self._finish = token.finish
                self._tokens.append(token)
                text = "" if token.id in self._tokenizer.ends else decode(token.id)
                news = self._speech.push(text, one_call=self.asked.one_call)
                if news:
                    yield news
                if self._speech.stopped:
                    self._finish = "stop"
                    break
        finally:
            self._server.opened(-1)
        news, calls = self._speech.finish()
        self._calls = calls[:1] if self.asked.one_call else calls
        if news:
            yield news

    def _logprobs(self) -> Body | None:
        """Those of the tokens since the last time, where they were asked for."""
        if not self.asked.logprobs:
            return None
        tokens, self._tokens = self._tokens, []
        return {"content": [self._logprob(t.id, t.logprob, t.top) for t in tokens], "refusal": None}

    def _logprob(self, token: int, logprob: float, top: Sequence[tuple[int, float]] | None = None) -> Body:
        text = self._tokenizer.decode([token])
        value = logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB  # NaN too
        described: Body = {"token": text, "logprob": value, "bytes": list(text.encode())}
        if top is not None:
            likeliest = sorted(top, key=lambda one: -one[1])
            described["top_logprobs"] = [self._logprob(id, value) for id, value in likeliest]
        return described
