"""Attacks on `serve` and `annotate`, each with a harmless twin, and the table of them in docs/safety.md.

Those on the fields of a request are made here: `attack` and `twin` change a good request, `param` is what the refusal
names. The others name the test that makes them. `python tests/server_attacks.py` writes the table anew.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

TOOL = {
    "type": "function",
    "function": {
        "name": "execute_python",
        "description": "Run code",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}


@dataclass(frozen=True)
class Fields:
    name: str
    attack: dict
    param: str
    twin: dict


@dataclass(frozen=True)
class Tested:
    name: str
    where: str  # serve, annotate or both
    held_by: str
    test: str  # file::function


def message(**changes):
    return {"messages": [{"role": "user", "content": "x", **changes}]}


#: the model of the test has a vocabulary of 800 tokens
FIELDS = (
    Fields("a stop text that is a number (it ended the generation thread)", {"stop": [5]}, "stop", {"stop": ["5"]}),
    Fields("an empty stop text", {"stop": ""}, "stop", {"stop": []}),
    Fields("a stop text without end", {"stop": "x" * 300}, "stop", {"stop": "x" * 200}),
    Fields("top_k beyond the vocabulary (the same)", {"top_k": 1_000_000_000}, "top_k", {"top_k": 800}),
    Fields("top_k below zero", {"top_k": -1}, "top_k", {"top_k": 1}),
    Fields(
        "a bias for an id beyond the vocabulary (it wrote out of bounds)",
        {"logit_bias": {"8192": 5}},
        "logit_bias",
        {"logit_bias": {"799": 5}},
    ),
    Fields("a bias for an id below zero", {"logit_bias": {"-1": 5}}, "logit_bias", {"logit_bias": {}}),
    Fields("a bias out of range", {"logit_bias": {"1": 101}}, "logit_bias", {"logit_bias": {"1": -100}}),
    Fields("a seed beyond 64 bits", {"seed": 2**64}, "seed", {"seed": 2**63}),
    Fields("a seed that is no whole number", {"seed": 1.5}, "seed", {"seed": -1}),
    Fields("a temperature below zero", {"temperature": -1}, "temperature", {"temperature": 1e-300}),
    Fields("a temperature that is text", {"temperature": "1"}, "temperature", {"temperature": 1}),
    Fields("top_p of zero", {"top_p": 0}, "top_p", {"top_p": 1e-9}),
    Fields("min_p above one", {"min_p": 2}, "min_p", {"min_p": 1}),
    Fields(
        "a repetition penalty that overflows",
        {"repetition_penalty": 1e-30},
        "repetition_penalty",
        {"repetition_penalty": 1.3},
    ),
    Fields("max_tokens of zero", {"max_tokens": 0}, "max_tokens", {"max_tokens": 1}),
    Fields("max_tokens that is true", {"max_tokens": True}, "max_tokens", {"max_completion_tokens": 1}),
    Fields("a hundred choices", {"n": 100}, "n", {"n": 2}),
    Fields("top_logprobs without logprobs", {"top_logprobs": 5}, "top_logprobs", {"top_logprobs": 5, "logprobs": True}),
    Fields(
        "tool_choice that cannot be kept",
        {"tool_choice": "required", "tools": [TOOL]},
        "tool_choice",
        {"tool_choice": "auto", "tools": [TOOL]},
    ),
    Fields(
        "a strict tool",
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "tools[0]",
        {"tools": [TOOL]},
    ),
    Fields(
        "a tool's name with a space",
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0]",
        {"tools": []},
    ),
    Fields(
        "a response format that cannot be kept",
        {"response_format": {"type": "json_object"}},
        "response_format",
        {"response_format": {"type": "text"}},
    ),
    Fields(
        "a chat template of the caller's",
        {"chat_template_kwargs": {"chat_template": "{{ x }}"}},
        "chat_template_kwargs",
        {"chat_template_kwargs": {}},
    ),
    Fields(
        "template arguments that are not on the list",
        {"chat_template_kwargs": {"tokenize": False}},
        "chat_template_kwargs",
        {},
    ),
    Fields("stream_options without a stream", {"stream_options": {"include_usage": True}}, "stream_options", {}),
    Fields("role names of the caller's", {"role_mapping": {}}, "role_mapping", {"user": "someone"}),
    Fields("adapters by path", {"adapters": "/etc"}, "adapters", {"metadata": {"a": "b"}}),
    Fields("a draft model by path", {"draft_model": "/etc"}, "draft_model", {"store": False}),
    Fields("a field that OpenAI gave up", {"functions": []}, "functions", {"functions": None}),
    Fields("a field's name with an escape sequence", {"\x1b[31m": 1}, "\x1b[31m", {}),
    Fields(
        "audio in a message",
        message(content=[{"type": "input_audio", "text": "x"}]),
        "messages",
        message(content=[{"type": "text", "text": "x"}]),
    ),
    Fields("content that is a number", message(content=5), "messages", message(content="5")),
    Fields("a message without content", message(content=None), "messages", message(name="ann")),
    Fields("a message that is a number", {"messages": [5]}, "messages", {}),
    Fields("messages that are no list", {"messages": {"role": "user"}}, "messages", {}),
    Fields("a role that is a list", message(role=["user"]), "messages", message(role="developer")),
    Fields("an unknown field of a message", message(cache=1), "messages", message(tool_calls=None)),
    Fields(
        "a tool call that is cut off",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
    ),
)

TESTED = (
    Tested(
        "a page's request as text/plain",
        "both",
        "JSON only",
        "test_web.py::test_a_page_may_send_text_without_asking_so_text_is_not_taken",
    ),
    Tested(
        "a request, or the question whether it may, from a page of another origin",
        "both",
        "Origin",
        "test_web.py::test_pages_of_other_origins_are_refused_unless_they_were_named",
    ),
    Tested(
        "a name of another page's that points here (DNS rebinding)",
        "both",
        "Host",
        "test_web.py::test_a_name_that_was_made_to_point_here_is_refused",
    ),
    Tested(
        "bodies that are no JSON, nested 100,000 deep, with NaN, 1e999 or half characters",
        "both",
        "one reader",
        "test_web.py::test_what_is_no_json_object_is_a_bad_request",
    ),
    Tested("bodies without end", "both", "a limit in bytes", "test_web.py::test_a_body_has_a_limit"),
    Tested(
        "half a request",
        "both",
        "10 seconds for a head, 10 for a body",
        "test_web.py::test_half_a_request_does_not_hold_its_connection",
    ),
    Tested(
        "a request one byte at a time",
        "both",
        "the same",
        "test_web.py::test_one_byte_at_a_time_does_not_hold_it_either",
    ),
    Tested("an image by its address", "serve", "text parts only", "test_serve.py::test_no_image_is_fetched"),
    Tested("another model by path or hub name", "serve", "one model", "test_serve.py::test_one_model_and_no_other"),
    Tested(
        "text that spells special tokens",
        "serve",
        "prompts as in training",
        "test_serve.py::test_text_never_becomes_a_special_token",
    ),
    Tested(
        "an answer beyond the context", "serve", "it ends there", "test_serve.py::test_an_answer_ends_at_the_context"
    ),
    Tested(
        "clients that leave, before or in an answer",
        "serve",
        "their place is free",
        "test_serve.py::test_what_the_thread_cannot_take_is_told_and_a_client_that_left_frees_its_place",
    ),
    Tested("32 clients at once", "serve", "one batch", "test_serve.py::test_thirty_two_clients_at_once"),
    Tested(
        "escape codes of a request on the terminal",
        "serve",
        "lines are cleaned",
        "test_serve.py::test_a_fuzzer_does_not_bring_it_down",
    ),
    Tested(
        "random requests (ten minutes: MLXRLHF_FUZZ_SECONDS=600)",
        "serve",
        "all of it",
        "test_serve.py::test_a_fuzzer_does_not_bring_it_down",
    ),
    Tested(
        "the link without its token, on another address",
        "annotate",
        "a token",
        "test_annotate.py::test_another_host_asks_for_the_token",
    ),
    Tested(
        "another page's script in an answer",
        "annotate",
        "a Content-Security-Policy",
        "test_annotate.py::test_another_page_is_refused",
    ),
    Tested(
        "45 answers that sleep, to keep others waiting",
        "annotate",
        "tests have a queue",
        "test_web.py::test_answers_that_sleep_keep_nobody_waiting",
    ),
    Tested(
        "vote, read the agreement, undo, vote as the others did",
        "annotate",
        "marked, and not counted on the page",
        "test_annotate.py::test_who_votes_anew_after_reading_the_agreement_is_marked_and_moves_nothing",
    ),
    Tested(
        "another user of the machine reads the votes",
        "annotate",
        "the file is 0600",
        "test_annotate.py::test_the_file_is_for_its_owner_alone",
    ),
)


def table() -> str:
    """The attacks as rows of Markdown."""
    rows = ["| attack | on | what holds it |", "|---|---|---|"]
    rows += [f"| {a.name} | {a.where} | {a.held_by} |" for a in TESTED]
    rows += [f"| {a.name} | serve | the field is checked |" for a in FIELDS]
    return "\n".join(rows) + "\n"


PAGE = Path(__file__).parent.parent / "docs" / "safety.md"
START, END = "<!-- attacks on the servers, written by tests/server_attacks.py -->\n", "<!-- end of the servers -->\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + START + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
