"""The tools on inputs worked by hand, calls that must be refused, and dialogues whose tool turns are true."""

import json
import re

import pytest

from mlxrlhf.agent import tools
from mlxrlhf.agent.dialogues import KINDS, build_dialogues, from_bfcl, split_dialogues
from mlxrlhf.agent.tools import ParseError, call, call_many, format_call, parse_calls
from mlxrlhf.errors import UserError
from mlxrlhf.sandbox import runner
from mlxrlhf.tasks import quality

jailed = pytest.mark.skipif(runner.level() == "none", reason="no operating-system jail here")

ADD = "def add(a, b):\n    return a + b"
BUG = "def third(items):\n    return items[2]\n\nprint(third([1]))"
RISKY = """import os
def run(x):
    'Run.'
    if x and x > 2:
        os.system(x)

def bare():
    return eval("1")"""


@jailed
@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("execute_python", {"code": "print(17 * 23)"}, "391"),
        ("execute_python", {"code": "print('a')\n1 / 0"}, "a\nZeroDivisionError: division by zero (line 2)"),
        ("execute_python", {"code": "print("}, "SyntaxError: '(' was never closed (line 1)"),
        ("execute_python", {"code": "x = 1"}, "(no output)"),
        ("execute_python", {"code": "raise SystemExit(3)"}, "exit code 3"),
        ("execute_bash", {"command": "echo $((6 * 7)); exit 2"}, "42\nexit code 2"),
        ("debug_code", {"code": BUG}, "IndexError: list index out of range\nline 2: return items[2]"),
        ("debug_code", {"code": "print(3)"}, "no error\n3"),
        ("run_tests", {"code": ADD, "tests": "assert add(1, 2) == 3\nassert add(0, 0) == 0"}, "2 passed"),
        (
            "run_tests",
            {"code": ADD.replace("+", "-"), "tests": "assert add(0, 0) == 0\nassert add(1, 2) == 3"},
            "failed: assert add(1, 2) == 3\nAssertionError: got -1",
        ),
        (
            "run_tests",
            {"code": ADD.replace("+ b", "+ c"), "tests": "assert add(1, 2) == 3"},
            "failed: assert add(1, 2) == 3\nNameError: name 'c' is not defined (line 2)",
        ),
        ("run_tests", {"code": "print('7 passed')", "tests": "def test_it():\n    assert True"}, "1 passed"),
        ("run_tests", {"code": "print('7 passed')", "tests": "x = 1"}, "no tests found"),
        ("run_tests", {"code": "import os; os._exit(0)", "tests": "assert True"}, "failed: the code ended the run"),
        (
            "analyze_code",
            {"code": RISKY},
            "functions: run (complexity 3), bare (complexity 1)\nmissing docstring: bare\n"
            "insecure: os.system on line 5, eval on line 8",
        ),
        ("analyze_code", {"code": "x = 1\ny = (2"}, "syntax error on line 2: '(' was never closed"),
    ],
)
def test_tools_say_what_was_worked_by_hand(name, arguments, expected):
    assert call(name, arguments) == expected


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import loads as read; read(b'')",
        "import subprocess as s; s.run('ls', shell=True)",
        "api_key = 'abc'",
        "cursor.execute(f'select {x}')",
        "yaml.load(text)",
        "requests.get(url, verify=False)",
        "from os import system; system('ls')",
        "import os as o; o.system('ls')",
        "numbers = list(map(eval, parts))",
        "from hashlib import md5; md5(b'')",
        "try: pass\nexcept: pass",
    ],
)
def test_what_is_insecure_is_decided_once(line):
    report = call("analyze_code", {"code": line})
    what = re.search(r"^insecure: (.+) on line \d$", report, re.MULTILINE)
    assert what and quality.measure([line], lint=False)[0].insecure == (what[1],)


def test_harmless_code_is_not_insecure():
    code = "import subprocess\nsubprocess.run(['ls'])\nmodel.eval()\ntoken = read()\nyaml.load(text, Loader=Safe)"
    assert quality.measure([code], lint=False)[0].insecure == ()
    assert call("analyze_code", {"code": code}).endswith("insecure: none")
    assert call("analyze_code", {"code": "-" * 19000 + "1"}).startswith("error: ")


@pytest.mark.parametrize(
    "query, title",
    [
        ("math.gcd", "math.gcd"),
        ("reverse a list", "list.reverse"),
        ("while loop", "The while statement"),
        ("str.upper", "str.upper"),
        ("what does ZeroDivisionError mean", "ZeroDivisionError"),
    ],
)
def test_the_documentation_is_found(query, title):
    found = call("search_docs", {"query": query})
    assert found.startswith(title) and len(found.split("\n")) > 1 and len(found) <= 400
    assert call("search_docs", {"query": "xyzzy"}).startswith("nothing found")


@jailed
def test_long_output_is_cut_and_says_so():
    text = call("execute_python", {"code": "print('y' * 5000)"})
    assert len(text) < 640 and text.endswith("more characters)")


@jailed
def test_many_calls_keep_their_order():
    calls = [
        ("execute_python", {"code": "print(1)"}),
        ("execute_bash", {"command": "echo 2"}),
        ("nothing", {}),
        ("search_docs", {"query": "len"}),
        ("execute_python", {"code": "print(1)"}),
    ]
    first, second, third, fourth, fifth = call_many(calls)
    assert (first, second, fifth) == ("1", "2", "1")
    assert third.startswith("error: no tool") and fourth.startswith("len")


def test_calls_are_parsed():
    arguments = {"code": 'print("</tool_call>")\n'}
    text = f"Let me see. {format_call('execute_python', arguments)}\n{format_call('execute_bash', {'command': 'ls'})}"
    assert parse_calls(text) == [
        {"name": "execute_python", "arguments": arguments},
        {"name": "execute_bash", "arguments": {"command": "ls"}},
    ]
    assert parse_calls("no call at all") == []


@pytest.mark.parametrize(
    "text, said",
    [
        ("<tool_call>{'name': 1}</tool_call>", "not valid JSON"),
        ("<tool_call>" + "[" * 100_000, "not valid JSON"),
        ('<tool_call>{"name": "execute_bash", "arguments": {"command": "ls"}}', "does not end"),
        ("<tool_call>[1]</tool_call>", "keys"),
        (format_call("rm", {}), 'no tool is named "rm"'),
        (format_call("execute_bash", {}), "needs the argument command"),
        (format_call("execute_bash", {"command": "ls", "cwd": "/"}), 'no argument "cwd"'),
        (format_call("execute_bash", {"command": 3}), "must be a string"),
        (format_call("execute_bash", ["ls"]), "must be an object"),
        ('<tool_call>{"name": "execute_bash", "arguments": {"command": "\\ud800"}}</tool_call>', "not text"),
    ],
)
def test_calls_that_cannot_be_made_are_errors(text, said):
    (error,) = parse_calls(text)
    assert isinstance(error, ParseError) and error.message.startswith("error: ") and said in error.message


def test_a_broken_call_does_not_hide_the_next():
    found = parse_calls("<tool_call>{oops</tool_call>" + format_call("execute_bash", {"command": "ls"}))
    assert isinstance(found[0], ParseError) and found[1]["name"] == "execute_bash"


def test_schemas_are_openai_functions():
    for schema in tools.schemas():
        assert schema["type"] == "function" and set(schema["function"]) == {"name", "description", "parameters"}
        assert schema["function"]["parameters"]["type"] == "object"
    assert len(tools.schemas()) == 6


def test_code_does_not_run_without_a_jail(monkeypatch):
    monkeypatch.setattr(runner, "_best_jail", lambda: None)
    with pytest.raises(UserError, match="--unsafe-exec"):
        call("execute_python", {"code": "print(1)"})
    assert call("execute_python", {"code": "print(1)"}, unsafe=True) == "1"
    assert call("analyze_code", {"code": "x = 1"}).startswith("functions: none")


# --- dialogues -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    return build_dialogues(60)


def calls_of(dialogue):
    """(name, arguments, what the tool turn says) of each call."""
    messages = dialogue["messages"]
    for turn, answer in zip(messages, messages[1:]):
        if turn["role"] == "assistant" and answer["role"] == "tool":
            (found,) = parse_calls(turn["content"])
            assert turn["content"] == format_call(found["name"], found["arguments"])
            yield found["name"], found["arguments"], answer["content"]


@jailed
def test_dialogues_tell_what_the_tools_say(built):
    made = [entry for dialogue in built for entry in calls_of(dialogue)]
    assert call_many([(name, arguments) for name, arguments, _ in made]) == [output for _, _, output in made]
    assert {name for name, _, _ in made} == set(tools.TOOLS)


@jailed
def test_dialogues_have_their_kinds_and_form(built):
    assert {dialogue["kind"] for dialogue in built} == set(KINDS)
    for dialogue in built:
        roles = "".join(message["role"][0] for message in dialogue["messages"])
        made = list(calls_of(dialogue))
        assert roles == "u" + "at" * len(made) + "a"
        assert len(made) == {"none": 0, "single": 1, "chain": 2, "fix": 2}[dialogue["kind"]]
        if dialogue["kind"] == "fix":
            fails = [bool(re.search("Error|failed|exit code|syntax error", output)) for _, _, output in made]
            assert fails == [True, False]
        assert "<tool_call>" not in dialogue["messages"][-1]["content"]
        assert sum(len(message["content"]) for message in dialogue["messages"]) < 800


@jailed
def test_questions_calls_and_answers_belong_together(built):
    checked = 0
    for dialogue in built:
        question, answer = dialogue["messages"][0]["content"], dialogue["messages"][-1]["content"]
        called = " ".join(str(arguments) for _, arguments, _ in calls_of(dialogue))
        if dialogue["kind"] == "none":
            continue
        assert all(number in called for number in re.findall(r"\d\d+", question))
        for name, arguments, output in list(calls_of(dialogue))[-1:]:
            found = re.fullmatch(r"print\((.*)\)", arguments.get("code", ""))
            if name == "execute_python" and found:
                value = eval(f"({found[1]})")  # written by our own templates
                assert output == (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
                assert output in answer
                checked += 1
    assert checked >= 5


@jailed
def test_dialogues_depend_on_the_seed_alone(built):
    assert build_dialogues(60) == built
    assert build_dialogues(60, seed=1) != built


@jailed
def test_the_split_is_disjoint(built):
    train, test = split_dialogues(built, train=50)
    assert (len(train), len(test)) == (50, 10) and all(dialogue in built for dialogue in train + test)

    def texts(part):
        return {dialogue["messages"][0]["content"] for dialogue in part}

    def first_calls(part):
        return {dialogue["messages"][1]["content"] for dialogue in part if dialogue["kind"] != "none"}

    assert not texts(train) & texts(test) and not first_calls(train) & first_calls(test)
    with pytest.raises(UserError):
        split_dialogues(built, train=61)


def test_dialogues_that_share_a_call_stay_together():
    def dialogue(text, answer):
        return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}

    one, two = (format_call("execute_bash", {"command": command}) for command in ("ls", "pwd"))
    linked = [dialogue("a", one), dialogue("b", two), dialogue("a", two), dialogue("b", "no call")]
    train, test = split_dialogues([*linked, dialogue("c", "no call")], train=4)
    assert train == linked and len(test) == 1


# --- bfcl-eval -----------------------------------------------------------------------------------------------------

FUNCTION = {
    "name": "math.hypot",
    "description": "Hypotenuse.",
    "parameters": {
        "type": "dict",
        "required": ["x", "o"],
        "properties": {
            "x": {"type": "float"},
            "z": {"type": "integer"},
            "type": {"type": "any", "optional": True},
            "o": {"type": "dict", "properties": {"p": {"type": "tuple", "items": {"type": "float"}}}},
        },
    },
}


def test_bfcl_becomes_dialogues(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    asked = [[{"role": "user", "content": "Hypotenuse?"}]]
    write("BFCL_v4_simple_python.json", [{"id": "s0", "question": asked, "function": [FUNCTION]}])
    write(
        "possible_answer/BFCL_v4_simple_python.json",
        [{"id": "s0", "ground_truth": [{"math.hypot": {"x": [4, 4.0], "z": ["", 0], "o": [{"p": [[1.5]]}]}}]}],
    )
    earlier = [[*asked[0], {"role": "assistant", "content": "?"}, *asked[0]]]
    write(
        "BFCL_v4_irrelevance.json",
        [
            {"id": "i0", "question": asked, "function": [FUNCTION]},
            {"id": "i1", "question": earlier, "function": [FUNCTION]},
        ],
    )
    called, refused = from_bfcl(tmp_path)
    assert [message["role"] for message in called["messages"]] == ["user", "assistant"]
    assert called["messages"][1]["content"] == (
        '<tool_call>{"name": "math.hypot", "arguments": {"x": 4, "o": {"p": [1.5]}}}</tool_call>'
    )
    schema = called["tools"][0]["function"]["parameters"]
    assert schema == {
        "type": "object",
        "required": ["x", "o"],
        "properties": {
            "x": {"type": "number"},
            "z": {"type": "integer"},
            "type": {},
            "o": {"type": "object", "properties": {"p": {"type": "array", "items": {"type": "number"}}}},
        },
    }
    assert refused["kind"] == "none" and "<tool_call>" not in refused["messages"][1]["content"]
    assert from_bfcl(tmp_path / "BFCL_v4_irrelevance.json") == [refused]

    (tmp_path / "possible_answer/BFCL_v4_simple_python.json").unlink()
    with pytest.raises(UserError, match="possible_answer"):
        from_bfcl(tmp_path)
    (tmp_path / "BFCL_v4_simple_python.json").write_text("[1]\n")
    (tmp_path / "possible_answer/BFCL_v4_simple_python.json").write_text("")
    with pytest.raises(UserError, match="lacks"):
        from_bfcl(tmp_path)
    with pytest.raises(UserError, match="bfcl-eval"):
        from_bfcl(tmp_path / "nowhere")
