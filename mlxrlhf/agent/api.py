"""OpenAI's chat completions: what a request may say, and what answers and errors look like.

A request is taken apart field by field: what is passed on was checked, what is not known is refused, and what OpenAI
offers and this server cannot do is refused too, never ignored.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxrlhf.backends.serving import Sampling
from mlxrlhf.data.rows import messages_of
from mlxrlhf.errors import UserError

Body = dict[str, Any]

MAX_CHOICES, MAX_STOPS, MAX_STOP_CHARACTERS, MAX_TOOLS = 8, 16, 256, 128
#: below this, a temperature is 0: its inverse would overflow
LEAST_TEMPERATURE = 0.01
#: what a request may say to no effect: it is about OpenAI's accounts and data centres
WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
#: what a message of a request may hold; null is the same as nothing
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning")
#: arguments that a request may give the chat template, and their types
TEMPLATE_ARGUMENTS: dict[str, type] = {"enable_thinking": bool}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Refused(Exception):
    """A request that is not answered, in the form of OpenAI's errors."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> Body:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Served:
    """What requests are checked against: the model's names, sizes and defaults."""

    names: Sequence[str]  # the first is the one it is called by
    vocab_size: int
    context: int
    max_tokens: int
    temperature: float


@dataclass(frozen=True)
class Asked:
    """A checked request. Chat has messages, a completion a text."""

    sampling: Sampling
    model: str
    messages: list[Body]
    text: str | None = None
    tools: tuple[Body, ...] = ()
    one_call: bool = False  # parallel_tool_calls: false
    choices: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    template: tuple[tuple[str, Any], ...] = ()


# --- requests ------------------------------------------------------------------------------------------------------


class _Fields:
    """The fields of a request, each taken once and checked; what is left at the end is not known."""

    def __init__(self, body: Body):
        self._left = {name: value for name, value in body.items() if value is not None}  # null: not given

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def bad(self, name: str, wanted: str) -> Refused:
        return Refused(f"{name} must be {wanted}", param=name, code="invalid_value")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.bad(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(name, f"a whole number from {low} to {high}")
        return value

    def count(self, name: str, default: int, low: int, high: int) -> int:
        value = self.integer(name, default, low, high)
        return default if value is None else value

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def only(self, name: str, allowed: Sequence[Any], why: str) -> None:
        """A field of which this server can do some values."""
        value = self.take(name)
        if value is not None and value not in allowed:
            raise Refused(f"{name}: {why}", param=name, code="unsupported_value")

    def finish(self) -> None:
        for name in self._left:
            if name not in WITHOUT_EFFECT:
                said = name if len(name) <= 60 else name[:57] + "..."
                raise Refused(f"this server knows no request field {said!r}", param=said, code="unknown_parameter")


def chat_request(body: Body, served: Served) -> Asked:
    """The request of POST /v1/chat/completions. Raises Refused."""
    fields = _Fields(body)
    model = _model(fields, served)
    messages = _messages(fields.take("messages"))
    tools = _tools(fields)
    one_call = not fields.flag("parallel_tool_calls", True)
    logprobs = fields.flag("logprobs", False)
    top = fields.count("top_logprobs", 0, 0, min(20, served.vocab_size))
    if top and not logprobs:
        raise Refused("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    template = _template(fields)
    fields.only("modalities", (["text"],), "this server answers with text alone")
    asked = _common(fields, served, Asked(Sampling(1, 0.0), model, messages, tools=tools, template=template))
    sampling = replace(asked.sampling, top_logprobs=top)
    return replace(asked, sampling=sampling, one_call=one_call, logprobs=logprobs)


def text_request(body: Body, served: Served) -> Asked:
    """The request of POST /v1/completions: one text that the model goes on from. Raises Refused."""
    fields = _Fields(body)
    model = _model(fields, served)
    text = fields.take("prompt")
    if not isinstance(text, str) or not text:
        raise fields.bad("prompt", "a text that is not empty")
    fields.only("echo", (False,), "this server does not repeat the prompt")
    fields.only("best_of", (1,), "this server returns every answer that it samples")
    fields.only("suffix", ("",), "this server does not fill in")
    return _common(fields, served, Asked(Sampling(1, 0.0), model, [], text=text))


def _common(fields: _Fields, served: Served, asked: Asked) -> Asked:
    """What both kinds of requests have; afterwards no field may be left."""
    sampling = _sampling(fields, served)
    stream = fields.flag("stream", False)
    asked = replace(
        asked,
        sampling=sampling,
        stop=_stop(fields),
        choices=fields.count("n", 1, 1, MAX_CHOICES),
        stream=stream,
        include_usage=_include_usage(fields, stream),
    )
    fields.only("response_format", ({"type": "text"},), "this server answers with plain text, not to a schema")
    fields.only("service_tier", ("auto", "default"), "this server has one tier")
    fields.only("store", (False,), "this server stores no requests")
    fields.finish()
    return asked


def _model(fields: _Fields, served: Served) -> str:
    model = fields.take("model")
    if model is None:
        return served.names[0]
    if not isinstance(model, str) or model not in served.names:
        said = f" {model[:200]!r}" if isinstance(model, str) else ""
        raise Refused(
            f"no model{said} here; this server has {served.names[0]!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return model


def _sampling(fields: _Fields, served: Served) -> Sampling:
    longest = fields.count("max_tokens", served.max_tokens, 1, 2**31)
    longest = fields.count("max_completion_tokens", longest, 1, 2**31)
    temperature = fields.number("temperature", served.temperature, 0, 2)
    top_p = fields.number("top_p", 1.0, 0, 1)
    if top_p == 0:
        raise fields.bad("top_p", "a number above 0, at most 1")
    top_k = fields.count("top_k", 0, 0, served.vocab_size)
    repetition = fields.number("repetition_penalty", 0.0, 0, 10)
    if 0 < repetition < 0.1:
        raise fields.bad("repetition_penalty", "0, or a number from 0.1 to 10")
    seed = fields.integer("seed", None, -(2**63), 2**64 - 1)
    return Sampling(
        max_tokens=longest,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=top_p,
        top_k=top_k if top_k < served.vocab_size else 0,
        min_p=fields.number("min_p", 0.0, 0, 1),
        repetition_penalty=repetition,
        repetition_context_size=fields.count("repetition_context_size", 20, 1, served.context),
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        presence_context_size=fields.count("presence_context_size", 20, 1, served.context),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        frequency_context_size=fields.count("frequency_context_size", 20, 1, served.context),
        logit_bias=_logit_bias(fields, served.vocab_size),
        seed=None if seed is None else seed % 2**64,
    )


def _logit_bias(fields: _Fields, vocab_size: int) -> dict[int, float]:
    value = fields.take("logit_bias")
    if value is None:
        return {}
    wanted = f"an object from token ids, 0 to {vocab_size - 1}, to numbers from -100 to 100"
    if not isinstance(value, dict):
        raise fields.bad("logit_bias", wanted)
    bias_of = {}
    for token, bias in value.items():
        known = token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < vocab_size
        if not known or isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
            raise fields.bad("logit_bias", wanted)
        bias_of[int(token)] = float(bias)
    return bias_of


def _stop(fields: _Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS for s in stops)
    ):
        raise fields.bad(
            "stop", f"a text or a list of at most {MAX_STOPS}, each of 1 to {MAX_STOP_CHARACTERS} characters"
        )
    return tuple(stops)


def _include_usage(fields: _Fields, stream: bool) -> bool:
    value = fields.take("stream_options")
    if value is None:
        return False
    if not stream:
        raise Refused("stream_options needs stream: true", param="stream_options", code="invalid_value")
    known = {"include_usage", "include_obfuscation"}
    if not isinstance(value, dict) or not set(value) <= known or not all(isinstance(v, bool) for v in value.values()):
        raise fields.bad("stream_options", '{"include_usage": true or false}')
    return bool(value.get("include_usage", False))


def _template(fields: _Fields) -> tuple[tuple[str, Any], ...]:
    value = fields.take("chat_template_kwargs")
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(
        name in TEMPLATE_ARGUMENTS and isinstance(one, TEMPLATE_ARGUMENTS[name]) for name, one in value.items()
    ):
        known = ", ".join(f"{name} ({kind.__name__})" for name, kind in TEMPLATE_ARGUMENTS.items())
        raise fields.bad("chat_template_kwargs", f"an object of {known}")
    return tuple(sorted(value.items()))


def _tools(fields: _Fields) -> tuple[Body, ...]:
    """The tools that the model is told of: none where tool_choice says so."""
    value, choice = fields.take("tools"), fields.take("tool_choice")
    if choice not in (None, "auto", "none"):
        raise Refused(
            'tool_choice: this server cannot make a model call a tool; give "auto" or "none"',
            param="tool_choice",
            code="unsupported_value",
        )
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise fields.bad("tools", f"a list of at most {MAX_TOOLS} tools")
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(value))
    return () if choice == "none" else tools


def _tool(tool: Any, name: str) -> Body:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function" or set(tool) > {"type", "function"}:
        raise Refused(f'{name} must be {{"type": "function", "function": ...}}', param=name, code="invalid_value")
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (
            lambda v: isinstance(v, str) and bool(_NAME.fullmatch(v)),
            "1 to 64 letters, digits, _ . or -",
        ),
        "description": (lambda v: isinstance(v, str), "a text"),
        "parameters": (lambda v: isinstance(v, dict), "a JSON schema"),
        "strict": (lambda v: v is False, "false or left out: this server does not hold answers to a schema"),
    }
    given = {key: value for key, value in function.items() if value is not None}
    for key, value in {"name": None, **given}.items():
        if key not in checks:
            raise Refused(f"{name}.function has the unknown field {key[:60]!r}", param=name, code="unknown_parameter")
        if not checks[key][0](value):
            raise Refused(f"{name}.function.{key} must be {checks[key][1]}", param=name, code="invalid_value")
    given.pop("strict", None)
    return {"type": "function", "function": given}


def _messages(value: Any) -> list[Body]:
    if not isinstance(value, list) or not value:
        raise Refused("a request needs at least one message", param="messages", code="invalid_value")
    given = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise Refused(f"message {number} must be an object", param="messages", code="invalid_value")
        kept = {key: one for key, one in message.items() if one is not None and one != []}
        unknown = sorted(set(kept) - set(MESSAGE_KEYS))
        if unknown:
            raise Refused(
                f"message {number} has the unknown field {unknown[0][:60]!r}",
                param="messages",
                code="unknown_parameter",
            )
        for key in ("name", "tool_call_id", "reasoning_content", "reasoning"):
            if not isinstance(kept.get(key, ""), str):
                raise Refused(f"{key} of message {number} must be text", param="messages", code="invalid_value")
        if kept.get("role") == "assistant" and "content" not in kept:
            kept["content"] = ""  # a message of tool calls alone, as the client got it
        given.append(kept)
    try:
        return messages_of(given, "messages")
    except UserError as error:
        raise Refused(str(error), param="messages", code="invalid_value") from None


def for_choice(sampling: Sampling, index: int, room: int) -> Sampling:
    """How one of several choices is sampled: within the room that the context leaves, with a seed of its own."""
    seed = None if sampling.seed is None else (sampling.seed + index) % 2**64
    return replace(sampling, max_tokens=min(sampling.max_tokens, room), seed=seed)


# --- answers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The envelope of one request's answers."""

    asked: Asked
    id: str
    created: int

    @classmethod
    def of(cls, asked: Asked) -> Form:
        return cls(asked, ("cmpl-" if asked.text is not None else "chatcmpl-") + uuid.uuid4().hex, int(time.time()))

    def envelope(self, choices: list[Body], **more: Any) -> Body:
        kind = "text_completion" if self.asked.text is not None else "chat.completion"
        if self.asked.stream and self.asked.text is None:
            kind += ".chunk"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "choices": choices,
            **more,
        }

    def whole(self, choices: list[Body], usage: Body) -> str:
        return dumps(self.envelope(choices, usage=usage))

    def chunk(self, index: int, delta: Body, finish: str | None = None, logprobs: Body | None = None) -> str:
        """A piece of a streamed answer, as a server-sent event."""
        if self.asked.text is not None:
            choice: Body = {"index": index, "text": delta.get("content", ""), "finish_reason": finish, "logprobs": None}
        else:
            choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return event(self.envelope([choice], **({"usage": None} if self.asked.include_usage else {})))

    def usage_chunk(self, usage: Body) -> str:
        return event(self.envelope([], usage=usage))

    def choice(self, index: int, message: Body, finish: str, logprobs: Body | None) -> Body:
        if self.asked.text is not None:
            return {"index": index, "text": message["content"] or "", "finish_reason": finish, "logprobs": None}
        return {"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs}


def usage(prompt: int, cached: int, completion: int) -> Body:
    """How many tokens were read, were in the cache, and were sampled in all choices."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def tool_call(call: Body, index: int | None = None) -> Body:
    """A call as clients get it; index in a stream."""
    arguments = call["arguments"] if isinstance(call["arguments"], str) else dumps(call["arguments"])
    made = {
        "id": call.get("id") or f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call["name"], "arguments": arguments},
    }
    return made if index is None else {"index": index, **made}


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def event(value: Any) -> str:
    return f"data: {dumps(value)}\n\n"
