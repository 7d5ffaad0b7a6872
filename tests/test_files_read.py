"""Files of rows: every container and every form gives the rows that it means; what is wrong is named by its place."""

import gzip
import json
import tracemalloc

import pytest

from mlxrlhf.config import PPOConfig
from mlxrlhf.data import files
from mlxrlhf.data.rows import Report, dialogues, load_dialogues
from mlxrlhf.errors import UserError
from mlxrlhf.tasks import requests

ROWS = [{"text": "naïve \u2028 🦜", "n": 1}, {"text": "a\nb", "n": [2.5, None, True]}]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def rows_of(path, content, **settings):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row for _, row in files.rows(path, **settings)]


# --- containers ------------------------------------------------------------------------------------------------------


def packed(content):
    """Without the time: what is collected must be the same in every process that shares the tests."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", "\n".join(LINES)),
        ("a.jsonl", "\r\n\r\n".join(LINES) + "\n  \n"),
        ("a.jsonl", "\ufeff" + "\n".join(LINES)),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.ndjson", "\n\n" + "\n".join(LINES)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\ufeff \n" + json.dumps(ROWS, indent=4)),
        ("a.json", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("a.json", "".join(LINES)),
        ("a.jsonl.gz", packed("\n".join(LINES).encode())),
        ("a.json.gz", packed(json.dumps(ROWS).encode()) + packed(b"\n")),
        ("no ending", "\n".join(LINES)),
    ],
)
def test_every_container_gives_the_rows(tmp_path, name, content):
    assert rows_of(tmp_path / name, content) == ROWS


def test_parquet_gives_the_rows_and_null_where_a_row_lacks_a_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"prompt": f"p{i}", "messages": [user("q")]} if i else {"prompt": None, "messages": None} for i in range(600)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=100)
    found = list(files.rows(tmp_path / "a.parquet"))
    assert len(found) == 600 and found[0][0].endswith("a.parquet, row 1") and found[599][0].endswith("row 600")
    assert found[0][1] == rows[0] and found[7][1] == rows[7]


def test_a_folder_is_its_files_by_name_and_a_text_file_its_lines(tmp_path):
    for name, text in (("b.jsonl", "b"), ("sub/a.json", "c"), (".git/x.jsonl", "hidden"), ("sub/.y.json", "hidden")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"prompt": text}))
    (tmp_path / "a.txt").write_text("\ufeff first \n\n second\u2028still\r\n", newline="")
    (tmp_path / "notes.md").write_text("no rows")
    found = [row["prompt"] for _, row in files.rows(tmp_path, text="prompt")]
    assert found == ["first", "second\u2028still", "b", "c"]
    assert [row["prompt"] for _, row in files.rows(tmp_path)] == ["b", "c"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without a .jsonl"):
        files.rows(tmp_path / "empty")
    with pytest.raises(UserError, match="a.txt is a text file"):
        files.rows(tmp_path / "a.txt")


def test_a_split_of_a_hub_data_set(tmp_path, monkeypatch):
    for name in ("main/train-0", "main/test-0", "socratic/train-0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name}))
    asked = []

    def snapshot(name, patterns, kind):
        asked.append(patterns)
        return tmp_path

    monkeypatch.setattr(files.hub, "snapshot", snapshot)

    def found(source):
        return [row["question"] for _, row in files.rows(source)]

    assert found("hub:openai/gsm8k") == ["main/train-0", "socratic/train-0"]
    assert found("hub:openai/gsm8k:test") == ["main/test-0"] and asked[-1] == ["*test*"]
    assert found("hub:openai/gsm8k:main/train*") == ["main/train-0"] and asked[-1] == ["main/train*"]
    with pytest.raises(UserError, match="has no .* file that matches validation"):
        found("hub:openai/gsm8k:validation")


def test_a_large_file_takes_the_memory_of_a_row(tmp_path):
    row = json.dumps({"text": "é" * 1000})
    for name, start, between, end in (("a.jsonl", "", "\n", ""), ("a.json", "[", ", ", "]"), ("b.json", "", " ", "")):
        (tmp_path / name).write_text(start + between.join([row] * 10_000) + end)
        tracemalloc.start()
        count = sum(len(found["text"]) == 1000 for _, found in files.rows(tmp_path / name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 10_000 and peak < 6e6, f"{name} of {(tmp_path / name).stat().st_size:,} bytes took {peak:,}"


LONG = b'{"text": "' + b"x" * 300_000 + b'"}'


@pytest.mark.parametrize(
    "name, content", [("a.json", b"[" + LONG + b"," + LONG + b"]"), ("a.jsonl", LONG + b"\n" + LONG)]
)
def test_a_row_may_be_longer_than_what_is_read_at_once(tmp_path, name, content):
    assert [len(row["text"]) for row in rows_of(tmp_path / name, content)] == [300_000] * 2


GOOD = b'{"text": "x"}\n'


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\xef\xbb\xbf \n\n", "a.jsonl is empty"),
        ("a.json", b"[ ]", "a.json is empty"),
        ("a.jsonl", GOOD + b"\n[1]\n", "a.jsonl:3 holds a list"),
        ("a.json", b'[{"text": "x"},\n null]', "a.json, row 2 holds a NoneType"),
        ("a.jsonl", GOOD + b'{"text": "x"', "a.jsonl:2 is not valid JSON"),
        ("a.json", b'[{"text": "x"},\n{"text" 1}]', "a.json, row 2 is not valid JSON (Expecting ':' delimiter, line 2"),
        ("a.json", b'[{"text": "x"} {"text": "y"}]', "a.json, row 1 is not valid JSON (neither a comma"),
        ("a.json", b'[{"text": "x"}] 1', "text after the list's closing bracket"),
        ("a.json", b'[{"text": "x"}', "a.json, row 1 is not valid JSON (neither"),
        ("a.json", b'{"text": "x"}\n{\n"text": x}', "a.json:2 is not valid JSON (Expecting value, line 3"),
        ("a.jsonl", GOOD + b'{"text": "\xff"}', "a.jsonl:2 is not UTF-8 text (byte 10"),
        ("a.json", b'[{"text": "\xff"}]', "a.json is not UTF-8 text"),
        ("a.jsonl", '{"text": 1}'.encode("utf-16"), "a.jsonl:1 is not UTF-8 text"),
        ("a.jsonl", GOOD + b'{"text": "\\ud83d"}', "a.jsonl:2 is not valid JSON (half a character"),
        ("a.json", b'[{"text": "\\udc00"}]', "a.json, row 1 is not valid JSON (half a character"),
        ("a.jsonl", GOOD + b'{"n": NaN}', "a.jsonl:2 is not valid JSON (NaN is no JSON number"),
        ("a.json", b'[{"n": 1e999}]', "a.json, row 1 is not valid JSON (1e999 is too large"),
        ("a.jsonl", b'{"n": 1, "n": 2}', "a.jsonl:1 is not valid JSON (the key 'n' stands twice"),
        ("a.jsonl", b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a.jsonl:1 is nested too deeply"),
        ("a.json", b'[{"n": ' + b"[" * 100_000, "a.json, row 1 is nested too deeply"),
        ("a.jsonl.gz", packed(GOOD * 1000)[:-9], "a.jsonl.gz cannot be read (Compressed file ended"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz cannot be read (Not a gzipped file"),
        ("a.parquet", b"PAR1 no parquet", "a.parquet cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path, name, content, said):
    with pytest.raises(UserError) as error:
        rows_of(tmp_path / name, content)
    assert said in str(error.value) and "\n" not in str(error.value)


# --- rows to learn from ----------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    "row, messages",
    [
        ({"prompt": "p", "completion": "a"}, [user("p"), assistant("a")]),
        ({"prompt": [user("p")], "completion": [assistant("a")]}, [user("p"), assistant("a")]),
        ({"instruction": "p", "input": "", "output": "a"}, [user("p"), assistant("a")]),
        ({"instruction": "p", "input": "with this", "output": "a"}, [user("p\n\nwith this"), assistant("a")]),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "p"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            [{"role": "system", "content": "s"}, user("p"), assistant("a")],
        ),
        ({"conversations": [user("p"), assistant("a")]}, [user("p"), assistant("a")]),
        (
            {"messages": [{"role": "developer", "content": "s"}, {**user("p"), "name": None}, assistant("a")]},
            [{"role": "system", "content": "s"}, user("p"), assistant("a")],
        ),
        (
            {"messages": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), assistant("a")]},
            [user("ab"), assistant("a")],
        ),
        (
            {
                "messages": [
                    user("p"),
                    {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": '{"x": 1}'}]},
                    {"role": "function", "content": "1"},
                ]
            },
            [user("p"), {**assistant(""), "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
        ),
    ],
)
def test_every_form_becomes_the_conversation_that_it_means(tmp_path, row, messages):
    (tmp_path / "a.json").write_text(json.dumps(row))
    (found,) = load_dialogues(tmp_path / "a.json")
    assert found["messages"] == messages


@pytest.mark.parametrize(
    "row, said",
    [
        ({"question": "p"}, "has the keys question; give prompt and completion"),
        ({"messages": [user("p")]}, "no assistant turn"),
        ({"messages": []}, "messages must be a list of turns"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 1 has role 'bot'"),
        ({"messages": [user(None), assistant("a")]}, "the content of message 1 must be text"),
        ({"messages": [user([{"type": "image"}]), assistant("a")]}, "the content of message 1 must be text"),
        ({"messages": [user("p"), {**assistant("a"), "tool_calls": "f"}]}, "tool_calls of message 2 must be a list"),
        ({"messages": [{**user("p"), "tool_calls": [CALL]}, assistant("a")]}, "in a turn of the assistant"),
        (
            {"messages": [user("p"), {**assistant("a"), "tool_calls": [{"name": 1}]}]},
            "tool call 1 of message 2 must be",
        ),
        (
            {"messages": [user("p"), {**assistant("a"), "tool_calls": [{"name": "f", "arguments": "{x}"}]}]},
            "tool call 1 of message 2: arguments is not valid JSON",
        ),
        (
            {"messages": [user("p"), {**assistant("a"), "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "arguments must be an object",
        ),
        ({"messages": [user("p"), assistant("a")], "tools": "[1]"}, "tools must be a list of schemas"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "turn 1 is from 'alien'"),
        ({"instruction": "", "output": "a"}, "instruction must be text that is not empty"),
        ({"prompt": 3, "completion": "a"}, "prompt must be text or a list of messages"),
    ],
)
def test_a_malformed_row_to_learn_from_is_named(tmp_path, row, said):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + json.dumps(row))
    with pytest.raises(UserError) as error:
        load_dialogues(tmp_path / "a.jsonl")
    assert "a.jsonl:2" in str(error.value) and said in str(error.value)


def test_rows_of_no_use_are_left_out_and_counted(tmp_path):
    rows = [
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": " "},
        {"messages": [user("p"), assistant("")]},
        {"messages": [user("p"), {**assistant(""), "tool_calls": [CALL]}]},
        {"text": "\n"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = Report()
    assert len(list(dialogues(tmp_path / "a.jsonl", report))) == 2
    assert str(report) == (
        "2 rows of prompt and completion, 2 conversations, 1 texts; left out: 2 with an empty answer (the first: "
        f"{tmp_path}/a.jsonl:2); 1 with empty text (the first: {tmp_path}/a.jsonl:5)"
    )


def test_two_columns_may_be_named_as_prompt_and_answer(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "p", "answer": "a"}))
    ((_, row),) = dialogues(tmp_path / "a.jsonl", Report(), "question", "answer")
    assert row["messages"] == [user("p"), assistant("a")]
    with pytest.raises(UserError, match="give both"):
        list(dialogues(tmp_path / "a.jsonl", Report(), "question"))


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompts(path, *rows, **settings):
    path.write_text("\n".join(map(json.dumps, rows)))
    return [row for _, row in requests.load_prompts(PPOConfig(prompts=str(path), **settings))]


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "row, prompt, answer",
    [
        ({"prompt": "p"}, "p", None),
        ({"prompt": [user("p")]}, "p", None),
        (
            {"prompt": [SYSTEM, user("p"), assistant("a"), user("q")]},
            [SYSTEM, user("p"), assistant("a"), user("q")],
            None,
        ),
        (
            {"messages": [user("p"), assistant("a"), user("q"), assistant("b")]},
            [user("p"), assistant("a"), user("q")],
            "b",
        ),
        ({"messages": [user("p")], "answer": "mine"}, "p", "mine"),
        ({"messages": [user("p"), assistant("a")], "answer": "mine"}, "p", "mine"),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]}, "p", "a"),
        ({"instruction": "p", "input": "x", "output": "a"}, "p\n\nx", "a"),
    ],
)
def test_prompts_are_conversations_up_to_where_the_assistant_answers(tmp_path, row, prompt, answer):
    (found,) = prompts(tmp_path / "a.jsonl", {**row, "level": 3})
    assert found["prompt"] == prompt and found.get("answer") == answer and found["level"] == 3


def test_gsm8k_runs_by_naming_its_columns_and_other_columns_stay(tmp_path):
    row = {"question": "How many?", "answer": "2 + 2 = 4\n#### 4", "difficulty": 1}
    (found,) = prompts(tmp_path / "a.jsonl", row, prompt_field="question", answer_field="answer", system="Be brief.")
    assert found == {**row, "prompt": [SYSTEM, user("How many?")]}
    (found,) = prompts(tmp_path / "a.jsonl", row, prompt_field="question", answer_field="difficulty")
    assert found["answer"] == 1 and found["prompt"] == "How many?"
    with pytest.raises(UserError, match="a.jsonl:1 has no column 'query', which --prompt-field names; it has question"):
        prompts(tmp_path / "a.jsonl", row, prompt_field="query")
    with pytest.raises(UserError, match='a.jsonl:1 has no "prompt".*--prompt-field'):
        prompts(tmp_path / "a.jsonl", row)


def test_a_system_turn_of_its_own_stays_and_tools_are_kept(tmp_path):
    tool = {"type": "function", "function": {"name": "f"}}
    own = [{"role": "system", "content": "Rhyme."}, user("p")]
    found = prompts(
        tmp_path / "a.jsonl", {"prompt": own}, {"prompt": "q", "tools": json.dumps([tool])}, system="Be brief."
    )
    assert found[0]["prompt"] == own and found[1]["prompt"] == [SYSTEM, user("q")] and found[1]["tools"] == [tool]


@pytest.mark.parametrize(
    "row, said",
    [
        ({"prompt": " "}, "prompt must not be empty"),
        ({"prompt": 7}, "prompt must be text or a list"),
        ({"prompt": [user("p"), assistant("a")]}, "prompt ends with the assistant's turn"),
        ({"messages": [assistant("a")]}, "nothing but the assistant's turn"),
        ({"prompt": "p", "tests": "assert 1"}, '"tests" must be a list'),
        ({"prompt": "p", "tests": ["assert " + "(" * 500]}, "is not Python"),
        ({"prompt": "p", "task": ["is_prime"]}, '"task" must be the name of a task'),
    ],
)
def test_a_malformed_prompt_is_named(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        prompts(tmp_path / "a.jsonl", {"prompt": "fine"}, row)
    assert "a.jsonl:2" in str(error.value) and said in str(error.value)
