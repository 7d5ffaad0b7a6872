"""Tool calls in the forms of their makers. What templates write is in test_turns; here is what models write besides."""

import pytest

from mlxrlhf.data.calls import Malformed, form_of, read, spelled

ADD = {"name": "add", "arguments": {"x": 1}}
TYPED = [{"function": {"name": "f", "parameters": {"properties": {"n": {"type": "string"}, "k": {"type": "integer"}}}}}]


@pytest.mark.parametrize(
    "form, text, content, calls",
    [
        ("json", 'Now. <tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call> Then.', "Now.  Then.", [ADD]),
        (
            "json",
            '<tool_call>{"name": "add", "arguments": {"x": "</tool_call>"}}</tool_call>',
            "",
            [{"name": "add", "arguments": {"x": "</tool_call>"}}],
        ),
        ("bare", '<|python_tag|>{"name": "add", "parameters": {"x": 1}}', "", [ADD]),
        ("bare", '{"name": "add", "parameters": {"x": 1}}; {"name": "add", "parameters": {"x": 1}}', "", [ADD, ADD]),
        ("bare", '{"a": 1} is an object', '{"a": 1} is an object', []),
        ("mistral", 'Hm.[TOOL_CALLS]add[ARGS]{"x": 1}[TOOL_CALLS]add[CALL_ID]abc[ARGS]{"x": 1}', "Hm.", [ADD, ADD]),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {"x": 1}, "id": "a12345678"}]',
            "",
            [{**ADD, "id": "a12345678"}],
        ),
        (
            "list",
            '<|tool_call|>[{"name": "add", "arguments": {"x": 1}}, {"name": "add", "arguments": "{\\"x\\": 1}"}]',
            "",
            [ADD, ADD],
        ),
        ("list", '<|tool_call|>[{"name": "add", "arguments": {"x": 1}}]<|/tool_call|>', "", [ADD]),
        (
            "glm",
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>5</arg_value>\n<arg_key>k</arg_key>\n"
            "<arg_value>5</arg_value>\n</tool_call>",
            "",
            [{"name": "f", "arguments": {"n": "5", "k": 5}}],
        ),
        (
            "xml",
            "<tool_call>\n<function=f>\n<parameter=n>\n5\n</parameter>\n<parameter=k>\n5\n</parameter>\n</function>\n"
            "</tool_call>",
            "",
            [{"name": "f", "arguments": {"n": "5", "k": 5}}],
        ),
        (
            "python",
            '<|tool_call_start|>[add(x=1), g(a=[1, true], b={"c": null})]<|tool_call_end|>',
            "",
            [ADD, {"name": "g", "arguments": {"a": [1, True], "b": {"c": None}}}],
        ),
        (
            "gemma4",
            '<|tool_call>call:g{a:[1,<|"|>{b:1}<|"|>],c:{d:true}}<tool_call|>',
            "",
            [{"name": "g", "arguments": {"a": [1, "{b:1}"], "c": {"d": True}}}],
        ),
        (
            "kimi",
            '<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"x": 1}'
            "<|tool_call_end|><|tool_calls_section_end|>",
            "",
            [{**ADD, "id": "functions.add:0"}],
        ),
        (
            "deepseek",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"x": 1}\n```'
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            [ADD],
        ),
        ("harmony", '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"x": 1}<|call|>', "", [ADD]),
    ],
)
def test_each_form_is_read(form, text, content, calls):
    assert read(text, form, TYPED) == (content, calls)


@pytest.mark.parametrize(
    "form, text, reason",
    [
        ("json", "<tool_call>{1}</tool_call>", "is not valid JSON"),
        ("json", '<tool_call>{"name": "add"', "is not valid JSON"),
        ("json", '<tool_call>{"name": "add", "arguments": {}}', "does not end with </tool_call>"),
        ("json", "<tool_call>" + "[" * 100_000, "too deep"),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"x": ', "no JSON object"),
        ("mistral", "[TOOL_CALLS]what?", "is not valid JSON"),
        ("list", "<|tool_call|>[1]", "is not valid JSON with a name"),
        ("glm", "<tool_call>two words</tool_call>", "names no tool"),
        ("glm", "<tool_call>f\n<arg_key>n", "does not end with </tool_call>"),
        ("xml", "<tool_call>f()</tool_call>", "names no function"),
        ("python", "<|tool_call_start|>[add(1)]<|tool_call_end|>", "is no list of calls"),
        ("python", "<|tool_call_start|>[__import__('os')]<|tool_call_end|>", "is no list of calls"),
        ("python", "<|tool_call_start|>[add(x=" + "[" * 100_000, "does not end"),
        ("python", "<|tool_call_start|>[add(x=" + "[" * 9_000 + "<|tool_call_end|>", "is no list of calls"),
        ("gemma4", "<|tool_call>call:g{a:}<tool_call|>", "cannot be read"),
        ("kimi", "<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{", "no JSON object"),
        ("deepseek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{", "no JSON object"),
        ("harmony", " to=functions.add<|channel|>commentary json<|message|>{", "no JSON object"),
    ],
)
def test_what_is_cut_off_or_no_call_is_named_and_never_made(form, text, reason):
    _, (found,) = read(text, form)
    assert isinstance(found, Malformed) and reason in found.reason


@pytest.mark.parametrize("form", ["json", "list"])
def test_spelled_calls_are_read_back(form):
    text = spelled("See: ", [{"function": ADD}, ADD], form)
    assert read(text, form) == ("See: ", [ADD, ADD])


def test_an_unknown_template_gets_our_form():
    assert form_of("{{ messages }}") == "json"
