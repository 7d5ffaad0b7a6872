"""Published forms of preference data, written by hand."""

import gzip
import json

import pytest

from mlxrlhf.errors import UserError
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.preferences.pairs import Pair, split_by_prompt


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def load(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    return load_pairs(path, said.append), said[0]


TURNS = [user("Hi"), assistant("Hello!"), user("What is 2 + 2?")]
FORMS = {
    "explicit text": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "criterion": "style"},
        Pair("p", "a", "b", "style"),
    ),
    "explicit messages": (
        {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        Pair("p", "a", "b"),
    ),
    "several turns": (
        {"prompt": TURNS, "chosen": [assistant("4")], "rejected": [assistant("5")]},
        Pair(TURNS, "4", "5"),
    ),
    "UltraFeedback binarized": (
        {
            "prompt": "p",
            "prompt_id": "1",
            "chosen": [user("p"), assistant("a")],
            "rejected": [user("p"), assistant("b")],
            "messages": [],
            "score_chosen": 8.5,
            "score_rejected": 7.0,
        },
        Pair("p", "a", "b"),
    ),
    "implicit messages": (
        {"chosen": [*TURNS, assistant("4")], "rejected": [*TURNS, assistant("5")]},
        Pair(TURNS, "4", "5"),
    ),
    "implicit text": (
        {"chosen": "The sky is blue.", "rejected": "The sky is bright green."},
        Pair("The sky is", "blue.", "bright green."),
    ),
    "Anthropic HH": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: What is 2 + 2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: What is 2 + 2?\n\nAssistant: 5",
        },
        Pair(TURNS, "4", "5"),
    ),
    "HelpSteer3, the first is better": (
        {"domain": "code", "context": TURNS, "response1": "4", "response2": "5", "overall_preference": -2},
        Pair(TURNS, "4", "5", rationale="preferred by 2 of 3"),
    ),
    "HelpSteer3, the second is better": (
        {"context": [user("p")], "response1": "b", "response2": "a", "overall_preference": 1},
        Pair("p", "a", "b", rationale="preferred by 1 of 3"),
    ),
    "UltraFeedback": (
        {
            "source": "x",
            "instruction": "p",
            "completions": [
                {"model": "m", "response": "middling", "overall_score": 6.5},
                {"response": "b", "overall_score": 3},
                {"response": "a", "overall_score": 8.0},
            ],
        },
        Pair("p", "a", "b", rationale="scored 8 against 3"),
    ),
    "a transcript as prompt": (
        {"prompt": "\n\nHuman: p\n\nAssistant:", "chosen": "a", "rejected": "b"},
        Pair("p", "a", "b"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_pair_that_it_means(tmp_path, form):
    row, pair = FORMS[form]
    assert load(tmp_path / "pairs.jsonl", [row])[0] == [pair]


def test_what_says_nothing_is_left_out_and_counted(tmp_path):
    better = {"context": [user("p")], "response1": "a", "response2": "b", "overall_preference": -1}
    rows = [
        better,
        {**better, "overall_preference": 0},
        {**better, "overall_preference": 0},
        {**better, "response2": "a"},
        {**better, "response2": " "},
        {"instruction": "p", "completions": [{"response": r, "overall_score": 5} for r in "ab"]},
        {"instruction": "p", "completions": [{"response": "a", "overall_score": 5}]},
        {
            "prompt": "p",
            "chosen": [assistant("a")],
            "rejected": [assistant("b")],
            "score_chosen": 4.0,
            "score_rejected": 4.0,
        },
        {"chosen": [user("p"), assistant("a"), user("q"), assistant("r")], "rejected": [user("p"), assistant("b")]},
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": " "},
    ]
    path = tmp_path / "mixed.jsonl"
    pairs, said = load(path, rows)
    assert pairs == [Pair("p", "a", "b", rationale="preferred by 1 of 3")]
    for words in (
        "5 HelpSteer3 rows",
        f"2 tied (the first: {path}:2)",
        f"2 with two equal answers (the first: {path}:4)",
        f"2 with an empty answer (the first: {path}:5)",
        f"2 scored alike (the first: {path}:6)",
        "1 with fewer than two scored completions",
        f"1 that part before the last turn (the first: {path}:9)",
    ):
        assert words in said
    with pytest.raises(UserError, match="holds no preference pair"):
        load(path, rows[1:3])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "p", "chosen": "a"}, ':2 has no "rejected"'),
        ({"chosen": "a", "rejected": "b"}, ":2: prompt must be text or messages"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, ":2: prompt must be text"),
        ({"prompt": "p", "chosen": "a", "rejected": [assistant("b")]}, ":2: chosen and rejected must both be text"),
        (
            {"prompt": [{"role": "boss", "content": "p"}], "chosen": "a", "rejected": "b"},
            "prompt: message 1 has role 'boss'",
        ),
        ({"prompt": "p", "chosen": [user("a")], "rejected": [assistant("b")]}, "last turn of chosen is the user's"),
        (
            {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "do not start with the same",
        ),
        ({"instruction": "p", "completions": [{"text": "a"}]}, ':2: completion 1 has no text "response"'),
        (
            {"context": "p", "response1": "a", "response2": "b", "overall_preference": "first"},
            ":2: overall_preference is 'first'; it must be a number",
        ),
        (
            {"context": "p", "response1": "a", "response2": "b", "overall_preference": 99},
            ":2: overall_preference is 99; it must be from -3",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "weight": 10**300},
            ":2: weight is a whole number too large for 64 bits",
        ),
        (
            {"prompt": "p", "chosen": [assistant("a")], "rejected": [assistant("b")], "score_chosen": "high"},
            ":2: score_chosen is 'high'; it must be a number",
        ),
        (
            {
                "prompt": "p",
                "chosen": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
                "rejected": [assistant("b")],
            },
            ":2: chosen: tool call 1 of message 1: arguments",
        ),
        ({"question": "p"}, ":2 has the keys question; each row needs prompt, chosen and rejected"),
    ],
)
def test_a_malformed_row_is_named_with_the_fix(tmp_path, row, message):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError) as error:
        load(tmp_path / "pairs.jsonl", [good, row])
    assert message in str(error.value)


def test_every_container_gives_the_same_pairs(tmp_path):
    rows = [{"prompt": [user("p")], "chosen": [assistant(f"a{i}")], "rejected": [assistant("b")]} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    expected = [Pair("p", f"a{i}", "b") for i in range(3)]
    assert all(load_pairs(path) == expected for path in sorted(tmp_path.iterdir()))
    parquet.write_table(pyarrow.table({"prompt": ["p"], "chosen": ["a"], "rejected": [None]}), tmp_path / "e.parquet")
    with pytest.raises(UserError, match='e.parquet, row 1 has no "rejected"'):
        load_pairs(tmp_path / "e.parquet")


def test_a_missing_reader_or_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'mlxrlhf\[parquet\]'"):
        load_pairs(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="cannot be read"):
        load_pairs(tmp_path / "none.jsonl")
    (tmp_path / "bad.json").write_text("[{]")
    with pytest.raises(UserError, match="is not valid JSON"):
        load_pairs(tmp_path / "bad.json")


def test_a_hub_data_set_is_read_from_its_training_files(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        row = {"prompt": "p", "chosen": name, "rejected": "b"}
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps(row))
    assert load_pairs("hub:someone/pairs") == [Pair("p", "train", "b")]
    assert load_pairs("hub:someone/pairs:data/te*") == [Pair("p", "test", "b")]
    assert asked[0][:2] == ("someone/pairs", "dataset") and "*train*.parquet" in asked[0][2]
    assert asked[1][2] == ["data/te*"]
    (tmp_path / "data" / "train.jsonl").unlink()
    assert load_pairs("hub:someone/pairs") == [Pair("p", "test", "b")], "what there is, where nothing is for training"
    with pytest.raises(UserError, match="has no .* file that matches none"):
        load_pairs("hub:someone/pairs:none*")

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="could not be fetched from the hub"):
        load_pairs("hub:someone/pairs")


def test_pairs_of_one_prompt_stay_together():
    pairs = [Pair(f"p{i // 3}", f"a{i}", "b") for i in range(60)]
    train, val = split_by_prompt(pairs, seed=0)
    assert len(val) == 6 and len(train) == 54 and not {p.prompt for p in train} & {p.prompt for p in val}
