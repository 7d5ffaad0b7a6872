"""Tool calls in the forms that models write them in.

    content, calls = read('Let me see. <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>')
    # 'Let me see. ', [{"name": "f", "arguments": {"x": 1}}]

The form is a property of the chat template (`form_of`); each reader reads what its template writes for a call. mlx-lm's
server has readers of its own for the same forms; they need mlx, which nothing in this room may import.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: ours, Qwen's, Hermes', Granite 4's and many more
CALL, CALL_END = "<tool_call>", "</tool_call>"
#: the forms that `spelled` writes
SPELLED = ("json", "list")


@dataclass(frozen=True)
class Malformed:
    """What looks like a call and is none; reason is a part of a sentence."""

    reason: str


Call = dict[str, Any]  # name, arguments, and id where the model wrote one
_Found = tuple[int, int, "Call | Malformed"]  # where it begins and ends in the text
_Types = Mapping[str, Mapping[str, Any]]  # tool -> argument -> JSON schema


def spelled(content: str, calls: Sequence[Mapping[str, Any]], form: str = "json") -> str:
    """An assistant's content with its calls behind it, as text in one of the forms SPELLED."""
    functions = [call.get("function", call) for call in calls]
    bodies = [
        json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
        for function in functions
    ]
    if form == "list" and bodies:
        return f"{content}{opening(form)}[{', '.join(bodies)}]"
    return content + "".join(f"{CALL}{body}{CALL_END}" for body in bodies)


def read(text: str, form: str = "json", tools: Sequence[Mapping[str, Any]] = ()) -> tuple[str, list[Call | Malformed]]:
    """The text without its calls, and the calls in order. tools: schemas, for forms that do not write types."""
    content, at, calls = "", 0, []
    for begin, end, call in _READERS[form](text, _types(tools)):
        content, at = content + text[at:begin], end
        calls.append(call)
    return content + text[at:], calls


def form_of(template: str) -> str:
    """The name of the form that a chat template writes calls in; ours where it writes none."""
    return next((name for name, marks in _MARKS if any(mark in template for mark in marks)), "json")


def opening(form: str) -> str:
    """The text that a call begins with, "" where it has no mark of its own."""
    return _ENCLOSURES.get(form, (CALL, CALL_END))[0]


def closing(form: str) -> str:
    """The text that a call ends with, "" where that is the answer's end."""
    return _ENCLOSURES.get(form, (CALL, CALL_END))[1]


# --- one reader for each form --------------------------------------------------------------------------------------

#: form -> what only its templates hold; the first that fits is taken
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gemma4", ("<|tool_call>",)),
    ("glm", ("<arg_key>",)),
    ("python", ("<|tool_call_start|>", "<|tool_list_start|>")),
    ("xml", ("<function=",)),
    ("kimi", ("<|tool_calls_section_begin|>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek", ("<｜tool▁calls▁begin｜>",)),
    ("harmony", ("<|channel|>",)),
    ("list", ("<|tool_call|>",)),
    ("json", (CALL,)),
    ("bare", ('"parameters": ',)),
)
_ENCLOSURES = {
    "gemma4": ("<|tool_call>", "<tool_call|>"),
    "python": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "kimi": ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    "mistral": ("[TOOL_CALLS]", ""),
    "deepseek": ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    "harmony": (" to=functions.", ""),
    "list": ("<|tool_call|>", ""),
    "bare": ("", ""),
}
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


def _json(text: str, types: _Types) -> Iterator[_Found]:
    """<tool_call>{"name": ..., "arguments": {...}}</tool_call>"""
    at = 0
    while (begin := text.find(CALL, at)) >= 0:
        inside = _skip(text, begin + len(CALL))
        try:
            value, end = _DECODER.raw_decode(text, inside)  # its own end: a string may contain the closing mark
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large"
            end = text.find(CALL_END, inside)
            at = end + len(CALL_END) if end >= 0 else inside
            yield begin, at, Malformed(f"is not valid JSON: {reason}")
            continue
        at = _skip(text, end)
        if not text.startswith(CALL_END, at):
            yield begin, at, Malformed(f"does not end with {CALL_END}")
            continue
        at += len(CALL_END)
        if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
            yield begin, at, Malformed('must have the keys "name" and "arguments"')
        else:
            yield begin, at, value


def _bare(text: str, types: _Types) -> Iterator[_Found]:
    """{"name": ..., "parameters": {...}} and nothing else: Llama 3"""
    at = _skip(text, 0)
    if text.startswith("<|python_tag|>", at):
        at = _skip(text, at + len("<|python_tag|>"))
    begin = 0
    while text.startswith("{", at):
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return  # an answer may begin with a brace
        arguments = value.get("parameters", value.get("arguments"))
        if "name" not in value or arguments is None:
            return
        yield begin, end, {"name": value["name"], "arguments": arguments}
        begin = end
        at = _skip(text, end)
        if text[at : at + 1] in (";", ","):
            at = _skip(text, at + 1)


def _mistral(text: str, types: _Types) -> Iterator[_Found]:
    """[TOOL_CALLS][{"name": ..., "arguments": {...}, "id": ...}], and later [TOOL_CALLS]name[ARGS]{...}"""
    at = 0
    while (begin := text.find("[TOOL_CALLS]", at)) >= 0:
        inside = _skip(text, begin + len("[TOOL_CALLS]"))
        named = re.compile(r"([\w.-]+)(?:\[CALL_ID\][\w-]*)?\[ARGS\]\s*").match(text, inside)
        if named:
            value, at = _decode(text, named.end())
            yield begin, at, _checked({"name": named[1], "arguments": value})
            continue
        value, at = _decode(text, inside)
        yield from _listed(value, begin, at)


def _list(text: str, types: _Types) -> Iterator[_Found]:
    """<|tool_call|>[{"name": ..., "arguments": {...}}]: Granite 3, Phi 4 mini"""
    at = 0
    while (begin := text.find("<|tool_call|>", at)) >= 0:
        value, at = _decode(text, _skip(text, begin + len("<|tool_call|>")))
        if text.startswith("<|/tool_call|>", at):
            at += len("<|/tool_call|>")
        yield from _listed(value, begin, at)


def _listed(value: Any, begin: int, end: int) -> Iterator[_Found]:
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        yield begin if number == 0 else end, end, _checked(one)


def _glm(inside: str, types: _Types) -> list[Call | Malformed]:
    """<tool_call>name <arg_key>k</arg_key> <arg_value>v</arg_value></tool_call>: GLM 4.5 and later"""
    name = inside.partition("<arg_key>")[0].strip()
    if not name or any(c.isspace() for c in name):
        return [Malformed("names no tool")]
    pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", inside, re.DOTALL)
    schemas = types.get(name, {})
    return [{"name": name, "arguments": {k.strip(): _typed(v, schemas.get(k.strip())) for k, v in pairs}}]


def _xml(inside: str, types: _Types) -> list[Call | Malformed]:
    """<tool_call><function=name><parameter=k>v</parameter></function></tool_call>: Qwen 3.5, Nemotron 3"""
    function = re.search(r"<function=(.*?)>(.*)</function>", inside, re.DOTALL)
    if not function:
        return [Malformed("names no function")]
    pairs = re.findall(r"<parameter=(.*?)>\n?(.*?)\n?</parameter>", function[2], re.DOTALL)
    name = function[1].strip()
    schemas = types.get(name, {})
    return [{"name": name, "arguments": {k.strip(): _typed(v, schemas.get(k.strip())) for k, v in pairs}}]


def _python(inside: str, types: _Types) -> list[Call | Malformed]:
    """<|tool_call_start|>[name(k="v")]<|tool_call_end|>: LFM 2"""
    try:
        tree = ast.parse(inside.strip(), mode="eval").body
        return [_python_call(call) for call in (tree.elts if isinstance(tree, ast.List) else [tree])]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last: too deep for the parser
        return [Malformed("is no list of calls")]


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call by keywords")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("not a call by keywords")
        arguments[keyword.arg] = _python_value(keyword.value)
    return {"name": ast.unparse(node.func), "arguments": arguments}


def _python_value(node: ast.expr) -> Any:
    """A literal; JSON's true, false and null are names to Python."""
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List):
        return [_python_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(k): _python_value(v) for k, v in zip(node.keys, node.values) if k is not None}
    return ast.literal_eval(node)


_JSON_NAMES = {"true": True, "false": False, "null": None}


def _gemma4(inside: str, types: _Types) -> list[Call | Malformed]:
    """<|tool_call>call:name{k:<|"|>v<|"|>,n:5}<tool_call|>: Gemma 4"""
    named = re.match(r"\s*call:([\w.-]+)(\{.*\})\s*$", inside, re.DOTALL)
    if not named:
        return [Malformed("is not of the form call:name{...}")]
    strings = re.findall(r'<\|"\|>(.*?)<\|"\|>', named[2], re.DOTALL)
    body = re.sub(r'<\|"\|>.*?<\|"\|>', "\0", named[2], flags=re.DOTALL)
    body = re.sub(r"([{,]\s*)([\w.-]+):", r'\1"\2":', body)
    parts = body.split("\0")
    body = parts[0] + "".join(json.dumps(value) + rest for value, rest in zip(strings, parts[1:]))
    try:
        return [{"name": named[1], "arguments": json.loads(body)}]
    except (ValueError, RecursionError):
        return [Malformed("has arguments that cannot be read")]


def _marked(
    opening: str, closing: str, inside: Callable[[str, _Types], list[Call | Malformed]]
) -> Callable[[str, _Types], Iterator[_Found]]:
    """A reader of calls that stand between two marks."""

    def reader(text: str, types: _Types) -> Iterator[_Found]:
        at = 0
        while (begin := text.find(opening, at)) >= 0:
            close = text.find(closing, begin + len(opening))
            if close < 0:
                yield begin, len(text), Malformed(f"does not end with {closing}")
                return
            at = close + len(closing)
            for number, call in enumerate(inside(text[begin + len(opening) : close], types)):
                yield begin if number == 0 else at, at, call

    return reader


def _kimi(text: str, types: _Types) -> Iterator[_Found]:
    """<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}<|tool_call_end|>: Kimi K2"""
    section = "<|tool_calls_section_begin|>"
    for begin, end, inside in _between(text, "<|tool_call_begin|>", "<|tool_call_end|>"):
        if text[:begin].rstrip().endswith(section):
            begin = text.rindex(section, 0, begin)
        if text[end:].lstrip().startswith("<|tool_calls_section_end|>"):
            end = text.index("<|tool_calls_section_end|>", end) + len("<|tool_calls_section_end|>")
        id, _, body = inside.partition("<|tool_call_argument_begin|>")
        name = id.strip().removeprefix("functions.").partition(":")[0]
        call = _checked({"name": name, "arguments": _decode(body, _skip(body, 0))[0]})
        yield begin, end, {**call, "id": id.strip()} if isinstance(call, dict) else call


def _deepseek(text: str, types: _Types) -> Iterator[_Found]:
    """<｜tool▁call▁begin｜>function<｜tool▁sep｜>name ```json {...} ```<｜tool▁call▁end｜>: DeepSeek V3, R1"""
    first, last = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    for begin, end, inside in _between(text, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"):
        if text[:begin].rstrip().endswith(first):
            begin = text.rindex(first, 0, begin)
        if text[end:].lstrip().startswith(last):
            end = text.index(last, end) + len(last)
        left, _, right = inside.partition("<｜tool▁sep｜>")
        name, _, body = right.partition("\n") if left.strip() == "function" else (left, "", right)
        body = body.strip().removeprefix("```json").removesuffix("```").strip()
        yield begin, end, _checked({"name": name.strip(), "arguments": _decode(body, 0)[0]})


def _harmony(text: str, types: _Types) -> Iterator[_Found]:
    """to=functions.name<|channel|>commentary json<|message|>{...}<|call|>: gpt-oss"""
    pattern = re.compile(
        r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)? to=functions\.([\w.-]+)"
        r"(?:<\|channel\|>commentary)?[^<]*(?:<\|constrain\|>\w+)?<\|message\|>"
    )
    for header in pattern.finditer(text):
        value, end = _decode(text, _skip(text, header.end()))
        if text.startswith("<|call|>", end):
            end += len("<|call|>")
        yield header.start(), end, _checked({"name": header[1], "arguments": value})


_READERS: dict[str, Callable[[str, _Types], Iterator[_Found]]] = {
    "json": _json,
    "bare": _bare,
    "mistral": _mistral,
    "list": _list,
    "glm": _marked(CALL, CALL_END, _glm),
    "xml": _marked(CALL, CALL_END, _xml),
    "python": _marked("<|tool_call_start|>", "<|tool_call_end|>", _python),
    "gemma4": _marked("<|tool_call>", "<tool_call|>", _gemma4),
    "kimi": _kimi,
    "deepseek": _deepseek,
    "harmony": _harmony,
}


# --- what they share -----------------------------------------------------------------------------------------------


def _skip(text: str, at: int) -> int:
    """Where the next character stands that is no white space."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _between(text: str, opening: str, closing: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, what is inside) of each marked stretch; what was cut off is inside the last."""
    at = 0
    while (begin := text.find(opening, at)) >= 0:
        inside = begin + len(opening)
        close = text.find(closing, inside)
        at = len(text) if close < 0 else close + len(closing)
        yield begin, at, text[inside : len(text) if close < 0 else close]


def _decode(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a place and where it ends; None and the end of the text where there is none."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, len(text)


def _checked(call: Any) -> Call | Malformed:
    """A call whose arguments are an object; arguments given as JSON text are read."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return Malformed("is not valid JSON with a name and arguments")
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _decode(arguments, _skip(arguments, 0))[0]
    if not isinstance(arguments, dict):
        return Malformed("has arguments that are no JSON object")
    checked = {"name": call["name"], "arguments": arguments}
    return {**checked, "id": call["id"]} if isinstance(call.get("id"), str) else checked


def _types(tools: Sequence[Mapping[str, Any]]) -> _Types:
    functions = [tool.get("function", tool) for tool in tools]
    return {f["name"]: (f.get("parameters") or {}).get("properties") or {} for f in functions if "name" in f}


def _typed(value: str, schema: Mapping[str, Any] | None) -> Any:
    """An argument of a form that writes no quotes: text where the schema says so, otherwise JSON where it is some."""
    if schema and schema.get("type") == "string":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
