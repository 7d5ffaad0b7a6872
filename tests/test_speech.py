"""An answer as it comes: what may be sent when, worked by hand."""

import json

import pytest

from mlxrlhf.agent.speech import Speech

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'


def hear(text, size, tools=(), stop=(), **settings):
    """The pieces that are sent of an answer that comes `size` characters at a time, and its calls."""
    speech, sent = Speech(None, tools, stop), []
    for i in range(0, len(text), size):
        sent.append(speech.push(text[i : i + size], **settings).get("content", ""))
        if speech.stopped:
            break
    news, calls = speech.finish()
    return [*sent, news.get("content", "")], calls


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_whatever_the_pieces_are_the_answer_is_the_same(size):
    text = f"Let me see: a < b. {CALL} and {CALL}"
    sent, calls = hear(text, size, TOOLS)
    assert "".join(sent) == "Let me see: a < b.  and " and [c["name"] for c in calls] == ["f", "f"]
    sent, calls = hear(text, size)
    assert "".join(sent) == text and not calls, "no tools were offered: it is text"
    sent, calls = hear(text, size, TOOLS, one_call=True)
    assert len(calls) == (1 if size < 1_000 else 2), "the server takes the first where one may be made"
    sent, calls = hear("one two three", size, stop=["wo", "three"])
    assert "".join(sent) == "one t"


def test_what_may_be_the_beginning_of_a_mark_waits():
    assert hear("a <tool", 1, TOOLS)[0] == ["a", " ", "", "", "", "", "", "<tool"]
    assert hear("a <b", 1, TOOLS)[0] == ["a", " ", "", "<b", ""]
    assert hear("xyz", 1, stop=["yzz"])[0] == ["x", "", "", "yz"]


def test_a_call_that_cannot_be_read_is_shown_as_it_is():
    for text in ("hm <tool_call>{oops}</tool_call>", 'hm <tool_call>{"name": "f"', f"{CALL}<tool_call>x</tool_call>"):
        sent, calls = hear(text, 3, TOOLS)
        assert "".join(sent) == text and not calls


class Thinking:
    """A published tokenizer's part in it."""

    has_template = True

    class template:
        form, writes_calls, opens = "json", True, False


@pytest.mark.parametrize("size", [1, 4, 1_000])
def test_reasoning_is_told_apart(size, monkeypatch):
    from mlxrlhf.agent import speech as module

    monkeypatch.setattr(module, "PublishedTokenizer", Thinking)
    speech, content, thought = Speech(Thinking(), TOOLS, ()), "", ""
    text = f"<think>\nhm {json.dumps('x')}\n</think>\n\nYes. {CALL}"
    for i in range(0, len(text), size):
        news = speech.push(text[i : i + size])
        content, thought = content + news.get("content", ""), thought + news.get("reasoning_content", "")
    news, calls = speech.finish()
    content += news.get("content", "")
    assert (thought, content, len(calls)) == ('hm "x"', "Yes. ", 1)
