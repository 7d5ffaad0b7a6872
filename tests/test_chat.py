"""The conversation: tools that really run, commands, ratings, own tools, and a terminal with a person at it.

`Scripted` stands in for the model alone: its texts go through the real tokenizer, loop, tools and sandbox.
"""

import dataclasses
import functools
import json
import os
import random
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import mlxrlhf

from mlxrlhf import backends
from mlxrlhf.agent import commands, own_tools, terminal, tools
from mlxrlhf.agent.chat import CUT_OFF, NOBODY, REFUSED, TOO_MANY, Chat, LoadedModel
from mlxrlhf.agent.tools import format_call
from mlxrlhf.config import SIZES, ChatConfig
from mlxrlhf.data import corpora, dialogue
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.data.rows import load_dialogues
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.preferences.pairs import Pair
from mlxrlhf.sandbox import runner

jailed = pytest.mark.skipif(runner.level() == "none", reason="no operating-system jail here")

MULTIPLY = format_call("execute_python", {"code": "print(17 * 23)"})
DIALOGUES = [
    [("user", "Name a colour."), ("assistant", "Blue.")],  # the one that finetune holds out
    [("user", "What is 17 times 23?"), ("assistant", MULTIPLY), ("tool", "391"), ("assistant", "It is 391.")],
    [("user", "Say hello."), ("assistant", "Hello there, friend.")],
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a small random checkpoint, base, and one that knows DIALOGUES by heart, weights/base/tools."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizers.train((text for _, (_, text) in zip(range(40), corpora.stdlib())), 1_000, folder / "tokenizer")
    tokenizer = open_tokenizer(folder / "tokenizer")
    shape = dataclasses.replace(SIZES["nano"], vocab_size=1_000, num_layers=2)
    (folder / "base").mkdir()
    backends.load("mlx").Model(shape, seed=0).save(folder / "base", pad_id=tokenizer.pad_id, end_id=tokenizer.end_id)
    checkpoint.copy_tokenizer(folder / "tokenizer", folder / "base")
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]} for turns in DIALOGUES]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mlxrlhf(
        folder,
        "finetune",
        "--stage",
        "tools",
        "--model",
        "base",
        "--data",
        "rows.jsonl",
        "--backend",
        "mlx",
        "--steps-per-epoch",
        "100",
        "--batch-size",
        "2",
        "--sequence-length",
        "96",
        "--eval-batches",
        "1",
        "--learning-rate",
        "3e-3",
        "--warmup-steps",
        "5",
    )
    return folder


class Scripted:
    """Says the given texts in turn; (text, n) is stopped by Ctrl-C after n tokens."""

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.heard, self.temperatures = tokenizer, list(texts), [], []
        self.config = SimpleNamespace(max_positions=2_048)

    def generate(self, prompts, *, uniforms, max_tokens, temperature, stop_ids, pad_id, on_token):
        self.heard.append(self.tokenizer.decode(prompts[0]))
        self.temperatures.append(temperature)
        text, stop = self.texts.pop(0), None
        if isinstance(text, tuple):
            text, stop = text
        ids = dialogue.answer([{"role": "user", "content": "?"}], text, self.tokenizer)[:max_tokens]
        for position, token in enumerate(ids):
            if position == stop:
                raise KeyboardInterrupt
            on_token(token)
        return [ids]


@pytest.fixture
def talk(project, tmp_path, monkeypatch):
    """talk(*texts, replies=..., **settings) is a conversation with a scripted model and a user who replies so."""

    def start(*texts, replies=None, own=None, tokenizer=None, **settings):
        asked = []

        def ask(question):
            asked.append(question)
            reply = replies.pop(0)
            if isinstance(reply, type):
                raise reply
            return reply

        monkeypatch.setattr(terminal, "interactive", lambda: replies is not None)
        monkeypatch.setattr(terminal, "ask", ask)
        tokenizer = tokenizer or open_tokenizer(project / "tokenizer")
        backend = SimpleNamespace(peak_memory=lambda: 0, Model=backends.load("mlx").Model)
        config = ChatConfig(ratings=str(tmp_path / "data" / "ratings.jsonl"), **settings)
        chat = Chat(LoadedModel("here", Scripted(tokenizer, *texts), tokenizer), backend, config, own or {})
        chat.asked = asked
        return chat

    return start


def contents(chat):
    return [(m["role"], m["content"]) for m in chat.messages]


# --- the loop ------------------------------------------------------------------------------------------------------


@jailed
def test_a_call_is_shown_asked_for_run_and_answered(talk, capsys):
    chat = talk(f"Let me see.\n{MULTIPLY}", "It is 391.", replies=["what", "y"])
    chat.send("What is 17 times 23?")
    assert contents(chat) == [
        ("user", "What is 17 times 23?"),
        ("assistant", f"Let me see.\n{MULTIPLY}"),
        ("tool", "391"),
        ("assistant", "It is 391."),
    ]
    out, err = capsys.readouterr()
    assert out == "Let me see.\nIt is 391.\n"
    assert "[execute_python]\n  code:\n    print(17 * 23)\n  391\n[execute_python: 0." in err
    assert len(chat.asked) == 2 and "tok/s" in err
    assert chat.loaded.model.heard[1].endswith("<tool_response>391</tool_response><|end|><|assistant|>")


@jailed
def test_always_asks_once_for_that_tool_alone(talk):
    bash = format_call("execute_bash", {"command": "echo $((6 * 7))"})
    chat = talk(MULTIPLY, MULTIPLY + bash, "done", replies=["a", "n"])
    chat.send("go")
    assert [c for r, c in contents(chat) if r == "tool"] == ["391", "391", REFUSED]
    assert len(chat.asked) == 2


def test_a_refused_call_is_not_run_and_the_model_hears_it(talk, tmp_path):
    write = format_call("execute_bash", {"command": f"touch {tmp_path}/made"})
    chat = talk(write, "As you like.", replies=["n"])
    chat.send("go")
    assert [c for _, c in contents(chat)][1:] == [write, REFUSED, "As you like."]
    chat = talk(write, "So be it.")
    chat.send("go")
    assert chat.messages[2]["content"] == NOBODY and chat.messages[3]["content"] == "So be it."
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ('<tool_call>{"name": "execute_python", "arguments": {"code": 1 + 1}}</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "remove", "arguments": {}}</tool_call>', 'no tool is named "remove"'),
        ('<tool_call>{"name": "execute_bash", "arguments": {"command": 3}}</tool_call>', "must be a string"),
        ('<tool_call>{"name": "execute_bash"}</tool_call>', "the keys"),
    ],
)
def test_a_malformed_call_is_an_error_for_the_model_and_never_run(talk, monkeypatch, text, said):
    monkeypatch.setattr(tools, "call", lambda *a, **k: pytest.fail("it was run"))
    chat = talk(text, "Sorry.", yes=True)
    chat.send("go")
    assert chat.messages[2]["role"] == "tool" and said in chat.messages[2]["content"]
    assert chat.messages[3]["content"] == "Sorry."


@jailed
def test_of_an_answer_cut_off_only_whole_calls_are_run(talk, project):
    whole = len(dialogue.answer([{"role": "user", "content": "?"}], MULTIPLY, open_tokenizer(project / "tokenizer")))
    chat = talk(MULTIPLY * 2, "391", yes=True, max_tokens=whole + 3)
    chat.send("go")
    assert [c for r, c in contents(chat) if r == "tool"] == ["391", CUT_OFF]


@jailed
def test_rounds_have_a_limit_and_every_call_a_result(talk):
    chat = talk(*[MULTIPLY] * 9, yes=True, max_rounds=2)
    chat.send("go")
    assert [c for r, c in contents(chat) if r == "tool"] == ["391", "391", TOO_MANY]
    assert chat.messages[-1]["content"] == TOO_MANY and len(chat.loaded.model.texts) == 6


def test_ctrl_c_keeps_the_partial_answer_and_runs_nothing(talk, project, capsys):
    whole = len(dialogue.answer([{"role": "user", "content": "?"}], MULTIPLY, open_tokenizer(project / "tokenizer")))
    chat = talk(("one two three", 2), "next", (MULTIPLY + " and so on", whole), replies=[])
    chat.send("count")
    partial = chat.messages[-1]["content"]
    assert partial and "one two three".startswith(partial) and "[stopped, 2 tokens, " in capsys.readouterr().err
    chat.send("go on")
    assert partial in chat.loaded.model.heard[1]
    chat.send("multiply")
    assert chat.messages[-1]["role"] == "assistant" and MULTIPLY in chat.messages[-1]["content"]
    chat = talk(MULTIPLY * 2, replies=[KeyboardInterrupt])
    chat.send("go")
    assert [r for r, _ in contents(chat)] == ["user", "assistant", "tool", "tool"]


def test_a_conversation_longer_than_the_context_takes_the_message_back(talk):
    chat = talk()
    with pytest.raises(UserError, match="context of 2,048"):
        chat.send("long " * 5_000)
    assert chat.messages == []
    chat = talk(own={f"tool{i}": tools.Tool("f", "word " * 999, {"properties": {}}, str) for i in range(5)})
    with pytest.raises(UserError, match="--tools off"):
        chat.send("Hi")


# --- what models are shown -----------------------------------------------------------------------------------------


def test_our_models_see_the_tools_as_in_training(talk, project):
    turns = [{"role": "user", "content": "Hi"}]
    chat = talk(own={"double": tools.Tool("double", "Double.", {"type": "object", "properties": {}}, lambda: "")})
    tokenizer = chat.loaded.tokenizer
    assert chat.loaded.prompt(turns, tools.TOOLS) == dialogue.prompt(turns, tokenizer), "the six: without a listing"
    text = tokenizer.decode(chat.loaded.prompt([{"role": "system", "content": "Be brief."}, *turns], chat.available))
    assert text.startswith(
        '<|system|>Be brief.\n[{"type": "function", "function": {"name": "execute_python", '
        '"description": "Run Python code and return what it prints.", '
    )
    assert text.endswith(
        '{"type": "function", "function": {"name": "double", "description": "Double.", "parameters": '
        '{"type": "object", "properties": {}}}}]<|end|><|user|>Hi<|end|><|assistant|>'
    )


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """published(template) is the tokenizer of a model by another maker."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def make(template):
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trained.train_from_iterator(
            [CHATML],
            trainers.BpeTrainer(
                vocab_size=300,
                special_tokens=["<|im_start|>", "<|im_end|>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            ),
        )
        folder = tmp_path_factory.mktemp("published")
        PreTrainedTokenizerFast(
            tokenizer_object=trained,
            eos_token="<|im_end|>",
            chat_template=template,
            additional_special_tokens=["<|im_start|>"],
        ).save_pretrained(folder)
        return open_tokenizer(folder)

    return make


CALLED = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": MULTIPLY},
    {"role": "tool", "content": "391"},
    {"role": "tool", "content": "7"},
]


def test_published_models_are_told_of_the_tools_by_their_template_or_in_the_system_message(published):
    plain, listing, strict = (LoadedModel("", None, published(t)) for t in (CHATML, WITH_TOOLS, STRICT))
    text = plain.tokenizer.decode(plain.prompt(CALLED, tools.TOOLS))
    assert text.startswith("<|im_start|>system\nYou may call these tools:\n") and text.count('"run_tests"') == 1
    assert "<tool_call>" in text.partition("<|im_end|>")[0], "how to call one"
    assert "<|im_start|>tool\n391<|im_end|>" in text
    text = listing.tokenizer.decode(listing.prompt(CALLED, tools.TOOLS))
    assert text.startswith('<|im_start|>system\n[{"type": "function"') and text.count("<|im_start|>system") == 1
    assert "system" not in plain.tokenizer.decode(plain.prompt(CALLED, {}))
    asked = [*CALLED, {"role": "user", "content": "and?"}]
    assert strict.tokenizer.decode(strict.prompt(asked, {})).endswith(
        "[user]<tool_response>\n391\n</tool_response>\n<tool_response>\n7\n</tool_response>\nand?<|im_end|>"
    )


# --- what reaches the terminal -------------------------------------------------------------------------------------


def test_terminal_sequences_never_reach_the_terminal(talk, capsys):
    hostile = "\x1b]0;title\x07hi\x1b[31m red\x1b[0m \x1b]52;c;YQ==\x1b\\ok\x9b2J\x08\x1bc \x1b[?1049h\ttab\r\nnaïve 🦜"
    shown = "hi red ok \ttab\nnaïve 🦜"
    assert terminal.cleaned(hostile) == shown
    for size in (1, 2, 5):
        cleaner = terminal.Cleaner()
        pieces = [cleaner.push(hostile[i : i + size]) for i in range(0, len(hostile), size)]
        assert "".join(pieces) + cleaner.finish() == shown
    for nasty in ("\x1b]0;never ended " + "x" * 999, "\x1b\x1b[31m[32mx", "\x1b[31\nnext", "end\x1b"):
        assert "\x1b" not in terminal.cleaned(nasty)
    assert terminal.cleaned("\x1b[31\nnext").endswith("\nnext"), "a broken sequence swallows nothing"
    code = "print('\x1b[2Jgone')  # \u202e"
    chat = talk(hostile + format_call("execute_python", {"code": code}), hostile, yes=True)
    chat.send("go")
    out, err = capsys.readouterr()
    assert out == f"{shown}\n{shown}\n" and not {"\x1b", "\x9b", "\u202e"} & set(err)
    assert r"print('\x1b[2Jgone')  # \u202e" in err, "what is approved is shown as it is"
    assert "\n  gone\n" in err


def test_no_half_of_a_marker_is_shown_and_calls_are_held_back():
    text = f"1 < 2 <tool {MULTIPLY}between{MULTIPLY} <tool_cal"
    rng = random.Random(0)
    for _ in range(50):
        written, calls, at = [], [], 0
        whole = "1 < 2 <tool \nbetween\n <tool_cal"
        hidden = terminal.Hidden("<tool_call>", "</tool_call>", lambda: calls.append(1))  # noqa: B023
        stream = terminal.Stream(written.append, [hidden])
        while at < len(text):
            step = rng.randint(1, 9)
            stream.push(text[at : at + step])
            at += step
            shown = "".join(written)
            assert whole.removesuffix("<tool_cal").startswith(shown)
        stream.finish()
        assert "".join(written) == whole and len(calls) == 2


# --- own tools -----------------------------------------------------------------------------------------------------

OWN = '''
import typing
from typing import Literal, Optional

def _helper(x): return x

def scale(values: list[float], factor: int, unit: Literal["m", "km"] = "m", note: Optional[str] = None,
          names: dict[str, int] = {}, flag: bool = False) -> str:
    """Scale values.

    Args:
        values: what to scale
        factor: by how much
        unit: its unit
        note: something to add
        names: counts
        flag: round or not
    """
    print("said on the way")
    return {"scaled": [v * factor for v in values], "unit": unit, "note": note}

def fail() -> str:
    """Fail."""
    raise KeyError("no such thing")

def leave() -> None:
    """Leave."""
'''


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return own_tools.load(tmp_path / "own.py")


def test_own_functions_become_tools_and_errors_come_back_as_text(own, talk, tmp_path, capsys):
    assert list(own) == ["scale", "fail", "leave"]
    assert own["scale"].parameters["required"] == ["values", "factor"]
    chat = talk(
        format_call("scale", {"values": [1, 2.5], "factor": 2, "note": None})
        + format_call("fail", {})
        + format_call("leave", {}),
        "done",
        own=own,
        yes=True,
    )
    chat.send("go")
    scaled, failed, left = [c for r, c in contents(chat) if r == "tool"]
    assert json.loads(scaled) == {"scaled": [2, 5.0], "unit": "m", "note": None}
    assert failed == f"error: KeyError: 'no such thing' ({tmp_path}/own.py:24)" and left == "(no output)"
    assert "said on the way" not in capsys.readouterr().out
    assert '"scale"' in chat.loaded.model.heard[0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"values": [1]}, "scale needs the argument factor"),
        ({"values": [1], "factor": 2.5}, "the argument factor of scale must be an integer"),
        ({"values": [1], "factor": True}, "the argument factor of scale must be an integer"),
        ({"values": [1, "2"], "factor": 1}, "the argument values[1] of scale must be a number"),
        ({"values": "12", "factor": 1}, "the argument values of scale must be an array"),
        ({"values": [], "factor": 1, "unit": "mile"}, "the argument unit of scale must be one of m, km"),
        ({"values": [], "factor": 1, "note": 3}, "the argument note of scale must be a string"),
        ({"values": [], "factor": 1, "flag": 1}, "the argument flag of scale must be true or false"),
        ({"values": [], "factor": 1, "names": {"a": "b"}}, 'the argument names["a"] of scale must be an integer'),
        ({"values": [float("nan")], "factor": 1}, "the argument values[0] of scale must be a finite number"),
        ({"values": [], "factor": 1, "more": 1}, 'scale has no argument "more"'),
        ({"values": functools.reduce(lambda inside, _: [inside], range(400), []), "factor": 1}, "must be a number"),
    ],
)
def test_arguments_are_checked_against_the_schema(own, arguments, said):
    [found] = tools.parse_calls(format_call("scale", arguments), {**tools.TOOLS, **own})
    assert isinstance(found, tools.ParseError) and said in found.message


@pytest.mark.parametrize(
    "source, said",
    [
        ("def f(x: int): pass", "own.py:1: f has no docstring"),
        ("\n\ndef f(x):\n    'Do.'", "own.py:3: the argument x of f has no type hint"),
        ("def f(x: int):\n    'Do.'", "own.py:1: .* no description for the argument 'x'"),
        ("def f(x: object):\n    '''Do.\n\n    Args:\n        x: it\n    '''", "own.py:1: a type hint of f cannot"),
        ("def f(*x: int):\n    'Do.'", r"own.py:1: f takes \*x"),
        ("def execute_bash():\n    'Do.'", "own.py:1: execute_bash is the name of a tool"),
        ("async def f():\n    'Do.'", "own.py:1: f is async"),
        ("x = 1\ny = z", "own.py:2 raises NameError"),
        ("x = (", "own.py:1 is not Python"),
        ("x = 1", "own.py defines no function"),
    ],
)
def test_a_function_that_is_no_tool_is_named_by_file_and_line(tmp_path, source, said):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(UserError, match=said) as raised:
        own_tools.load(tmp_path / "own.py")
    assert "\n" not in str(raised.value)


# --- commands ------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_an_unknown_one_is_a_sentence(talk, capsys):
    chat = talk()
    commands.run(chat, "/help")
    out = capsys.readouterr().out
    for name in ("help", "system", "temp", "tools", "save", "load", "retry", "undo", "clear", "compare", "rate"):
        assert f"/{name}" in out
    for line, said in (
        ("/nothing at all", "/nothing is no command"),
        ("/temp warm", "number of at least 0"),
        ("/temp -1", "at least 0"),
        ("/tools maybe", "on, off or list"),
        ("/retry", "nothing has been"),
        ("/undo", "nothing has been"),
        ("/save", "needs a file"),
        ("/load nowhere.json", "cannot be"),
        ("/compare", "needs a checkpoint"),
        ("/rate", "no answer to rate"),
        ("/save x.json", "nothing"),
    ):
        with pytest.raises(UserError, match=said):
            commands.run(chat, line)


def test_system_temp_and_tools_change_the_next_answer(talk, capsys):
    chat = talk("one", "two", MULTIPLY, yes=True)
    commands.run(chat, "/system Be brief.")
    commands.run(chat, "/temp 0.7")
    chat.send("a")
    commands.run(chat, "/system Be long.")
    chat.send("b")
    assert chat.loaded.model.temperatures == [0.7, 0.7]
    assert chat.loaded.model.heard[1].startswith("<|system|>Be long.<|end|><|user|>a<|end|><|assistant|>one<|end|>")
    commands.run(chat, "/system -")
    assert chat.messages[0]["role"] == "user"
    commands.run(chat, "/tools off")
    chat.send("c")
    assert chat.messages[-1] == {"role": "assistant", "content": MULTIPLY}, "with tools off a call is text"
    assert MULTIPLY in capsys.readouterr().out
    commands.run(chat, "/tools list")
    out = capsys.readouterr().out
    assert "tools are off" in out and all(name in out for name in tools.TOOLS)
    commands.run(chat, "/tools on")
    assert chat.tools_on


def test_retry_undo_and_clear(talk):
    chat = talk("one", "two", "three", system="Be brief.")
    chat.send("a")
    chat.send("b")
    commands.run(chat, "/retry")
    assert contents(chat)[3:] == [("user", "b"), ("assistant", "three")]
    assert chat.loaded.model.heard[1] == chat.loaded.model.heard[2]
    commands.run(chat, "/undo")
    assert contents(chat) == [("system", "Be brief."), ("user", "a"), ("assistant", "one")]
    commands.run(chat, "/clear")
    assert contents(chat) == [("system", "Be brief.")]


def test_save_and_load_come_back_exactly_and_finetune_reads_them(talk, tmp_path, capsys):
    chat = talk('"quotes" \\ and 🦜\n\ttab', MULTIPLY, "done", replies=["n"], system="Be brief.")
    chat.send("naïve\nlines\u2028\x85")
    chat.send("multiply")
    saved = list(chat.messages)
    for name in ("talk.json", "talk.jsonl", "talk.jsonl"):
        commands.run(chat, f"/save {tmp_path / name}")
        chat.messages = []
        commands.run(chat, f"/load {tmp_path / name}")
        assert chat.messages == saved
    assert [row["messages"] for row in load_dialogues(tmp_path / "talk.jsonl")] == [saved] * 2
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is a text file"):
        commands.run(chat, f"/save {tmp_path / 'notes.txt'}")
    with pytest.raises(UserError, match="No such file"):
        commands.run(chat, f"/save {tmp_path / 'nowhere' / 'talk.json'}")
    for content, said in (
        ('{"messages": []}', "list of turns"),
        ('{"text": ""}', 'no "messages"'),
        ('{"messages": [{"role": "bot", "content": ""}]}', "role 'bot'"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match=said):
            commands.run(chat, f"/load {tmp_path / 'bad.json'}")
    assert (tmp_path / "notes.txt").read_text() == "mine" and chat.messages == saved


def ratings(tmp_path):
    return [json.loads(line) for line in (tmp_path / "data" / "ratings.jsonl").read_text().splitlines()]


def test_compare_shows_two_models_and_rate_stores_the_choice(talk, project, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    chat = talk("Hello from the left.", "Hello\nagain.", replies=["left", "kinder", "r", ""], temp=0.0)
    right = "Hello there, friend."
    commands.run(chat, f"/compare {project / 'weights/base/tools'} Say hello.")
    lines = capsys.readouterr().out.splitlines()
    assert any("Hello from the left." in line and right in line for line in lines), "side by side"
    assert chat.messages == []
    commands.run(chat, "/rate")
    assert ratings(tmp_path) == [
        {
            "prompt": "Say hello.",
            "chosen": "Hello from the left.",
            "rejected": right,
            "criterion": "preference",
            "rationale": "kinder",
            "chosen_model": "here",
            "rejected_model": str(project / "weights/base/tools"),
        }
    ]
    monkeypatch.setenv("COLUMNS", "40")
    chat.messages = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "No."}]
    commands.run(chat, f"/compare {project / 'weights/base/tools'}")
    out = capsys.readouterr().out
    assert out.index("Hello\nagain.") < out.index(right)
    commands.run(chat, "/rate")
    assert ratings(tmp_path)[1]["chosen"] == right and ratings(tmp_path)[1]["rationale"] == ""


def test_rate_samples_a_second_answer_and_reward_trains_on_several_turns(talk, project, tmp_path):
    chat = talk(
        "one",
        "two",
        "another two",
        "three",
        "a third",
        "four",
        "four",
        "x",
        "y",
        system="Count.",
        replies=["r", "", "l", "first", "t"],
    )
    chat.send("a")
    chat.send("b")
    commands.run(chat, "/rate")
    first = ratings(tmp_path)[0]
    assert first["prompt"] == chat.messages[:-1] and first["chosen"] == "another two" and first["rejected"] == "two"
    chat.send("c")
    commands.run(chat, "/rate")
    assert ratings(tmp_path)[1]["chosen"] == "three"
    chat.send("d")
    with pytest.raises(UserError, match="the same"):
        commands.run(chat, "/rate")
    chat.send("e")
    commands.run(chat, "/rate")
    assert len(ratings(tmp_path)) == 2, "a tie stores nothing"
    pairs = load_pairs(tmp_path / "data" / "ratings.jsonl")
    assert pairs[0] == Pair(first["prompt"], "another two", "two")
    assert pairs[1].rationale == "first"
    from mlxrlhf.preferences.encoded import encode_pair

    tokenizer = open_tokenizer(project / "tokenizer")
    encoded = encode_pair(pairs[0], tokenizer)
    assert tokenizer.decode(encoded.chosen) == (
        "<|system|>Count.<|end|><|user|>a<|end|><|assistant|>one<|end|><|user|>b<|end|><|assistant|>another two<|end|>"
    )
    assert encoded.start == len(dialogue.prompt(first["prompt"], tokenizer))
    out, _ = mlxrlhf(
        project,
        "reward",
        "--model",
        "base",
        "--data",
        str(tmp_path / "data" / "ratings.jsonl"),
        "--num-epochs",
        "1",
        "--backend",
        "mlx",
        "--out",
        str(tmp_path / "reward"),
    )
    assert "val_accuracy" in out


def test_a_prompt_of_several_turns_is_checked(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps(
            {
                "prompt": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}],
                "chosen": "c",
                "rejected": "d",
            }
        )
    )
    with pytest.raises(UserError, match="pairs.jsonl:1: prompt: message 2 has role 'bot'"):
        load_pairs(path)


def test_a_half_written_last_line_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}')
    commands.append(path, {"b": "é"})
    commands.append(path, {"c": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": "é"}, {"c": 3}]


# --- the command line ----------------------------------------------------------------------------------------------

KNOWS = ["chat", "--model", "weights/base/tools", "--backend", "mlx"]
ASKS = ["--prompt", "What is 17 times 23?"]


@jailed
def test_one_shot_prints_the_answer_alone_to_stdout(project):
    out, err = mlxrlhf(project, *KNOWS, *ASKS, "--yes")
    assert out == "It is 391.\n" and "print(17 * 23)" in err and "\n  391\n" in err
    out, err = mlxrlhf(project, *KNOWS, *ASKS)
    assert "--yes runs tools without asking" in err and "\n  391\n" not in err
    out, err = mlxrlhf(project, *KNOWS, *ASKS, "--tools", "off")
    assert out == f"{MULTIPLY}\n"
    _, err = mlxrlhf(project, *KNOWS, "--tools", "nowhere.py", code=2)
    assert "nowhere.py cannot be read" in err


def test_a_pipe_is_read_plainly(project):
    _, err = mlxrlhf(project, *KNOWS, "--max-tokens", "2", "--prompt", b"\xff")
    assert "2 tokens" in err
    out, err = mlxrlhf(project, *KNOWS, stdin='Say hello.\n"""\nSay\nhello.\n"""\n/what\n/save piped.json\n')
    assert "Hello there, friend." in out and "/what is no command" in err
    messages = json.loads((project / "piped.json").read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["Say hello.", "Say\nhello."]


def test_chat_on_mlx_loads_no_library_that_it_needs_not(project):
    code = (
        "import sys; from mlxrlhf_cli import main\n"
        "try: main.app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'mlx_lm', 'prompt_toolkit', 'pydoc_data'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *KNOWS, "--prompt", "Say hello."], cwd=project, text=True, capture_output=True
    )
    assert done.stdout.endswith("[]\n") and "tok/s" in done.stderr, done.stderr


# --- a person at a terminal ----------------------------------------------------------------------------------------

READY = "\x1b[?2004h"  # line editing asks the terminal to mark pastes


class Person:
    """Somebody at a pseudo-terminal, in front of `mlxrlhf chat`."""

    def __init__(self, project, state, *arguments):
        pexpect = pytest.importorskip("pexpect")
        environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "mlxrlhf_cli.main", *arguments],
            cwd=str(project),
            env=environment,
            encoding="utf-8",
            timeout=60,
            dimensions=(40, 120),
        )
        self.history = state / "mlxrlhf" / "chat_history"
        self.sees("/help lists the commands", READY)

    def sees(self, *texts):
        for text in texts:
            self.child.expect_exact(text)

    def types(self, keys, *texts):
        self.child.send(keys)
        self.sees(*texts)

    def leaves(self):
        self.child.sendeof()
        self.child.wait()
        assert self.child.exitstatus == 0


def test_a_person_edits_pastes_recalls_and_approves(project, tmp_path):
    person = Person(project, tmp_path, *KNOWS)
    if runner.level() != "none":
        person.types("What is 17 times 23?\r", "run it?")
        person.types("y\r", "391", "[execute_python: ", "It is 391.", "tok/s", READY)
    assert stat.S_IMODE(person.history.stat().st_mode) == 0o600
    person.types("/clear\r", "anew", READY)
    person.types("Say hellxx.\x1b[D\x7f\x7fo\r", "Hello there, friend.", "tok/s", READY)  # left, two backspaces
    person.types("\x1b[A\r", "tok/s", READY)  # up
    person.types("nonsense\x03Say goodbye.\r", "tok/s", READY)
    person.types('"""\rSay\rhello.\r"""\r', "tok/s", READY)
    person.types("\x1b[200~Say it,\nhello.\x1b[201~\r", "tok/s", READY)  # a bracketed paste
    person.types(f"/save {tmp_path}/talk.json\r", "saved", READY)
    person.leaves()
    said = [m["content"] for m in json.loads((tmp_path / "talk.json").read_text())["messages"] if m["role"] == "user"]
    assert said == ["Say hello.", "Say hello.", "Say goodbye.", "Say\nhello.", "Say it,\nhello."]
    assert "nonsense" not in person.history.read_text() and "Say goodbye." in person.history.read_text()


def test_ctrl_c_stops_an_answer_and_not_the_program(project, tmp_path):
    person = Person(
        project, tmp_path, "chat", "--model", "base", "--backend", "mlx", "--temp", "0", "--max-tokens", "2000"
    )  # greedy, a random model repeats itself for ever
    person.types("Say hello.\r")
    person.child.expect(r"\r\n[^\r\n]{60}")
    person.types("\x03", "[stopped, ", "tok/s", READY)
    person.types(f"/save {tmp_path}/talk.json\r", "saved", READY)
    person.leaves()
    answer = json.loads((tmp_path / "talk.json").read_text())["messages"][1]
    assert answer["role"] == "assistant" and 10 < len(answer["content"]) < 10_000


def test_two_chats_rate_into_one_file(tmp_path):
    """Every line of both is whole, also where an editor left the file without its last line feed."""
    path = tmp_path / "ratings.jsonl"
    path.write_text('{"chat": -1, "text": ""}')
    code = (
        "import sys; from pathlib import Path; from mlxrlhf.agent.commands import append\n"
        "for i in range(150): append(Path(sys.argv[1]), {'chat': int(sys.argv[2]), 'row': i, 'text': 'x' * (i * 97)})"
    )
    chats = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)]) for number in (0, 1)]
    assert [chat.wait(60) for chat in chats] == [0, 0]
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    for number in (0, 1):
        assert [row["row"] for row in rows if row["chat"] == number] == list(range(150))
    assert len(rows) == 301
