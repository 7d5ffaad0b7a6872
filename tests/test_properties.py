"""Whatever the bytes of a file are, its reader gives data, or one sentence that names the file.

Each reader is tried on 40 files, the same ones each time; with MLXRLHF_LONG=1 on 1,500, other ones each time.
"""

import contextlib
import gzip
import io
import json
import os
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxrlhf.annotate.store import Item, Store
from mlxrlhf.config import FinetuneConfig, ModelConfig, PPOConfig
from mlxrlhf.data import files
from mlxrlhf.data.rows import ROLES, Report, dialogues
from mlxrlhf.errors import UserError
from mlxrlhf.models import adapters, checkpoint, folders, gguf_files
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.report.runlog import read_metrics
from mlxrlhf.rewards.model import RewardModel
from mlxrlhf.settings import read_yaml, validate
from mlxrlhf.tasks import requests

LONG = bool(os.environ.get("MLXRLHF_LONG"))
EXAMPLES = 1_500 if LONG else 40
tried = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# --- files that nobody wrote by hand ---------------------------------------------------------------------------------

#: the fields that any of the readers knows, and one that none does
NAMES = """prompt chosen rejected messages conversations instruction input output text completion completions response
overall_score overall_preference response1 response2 context weight score_chosen score_rejected criterion tools tests
task role content tool_calls function name arguments from value train group model_type vocab_size hidden_size
num_hidden_layers num_attention_heads num_key_value_heads intermediate_size head_dim rope_parameters rope_scaling
rope_type factor rope_theta rms_norm_eps tie_word_embeddings text_config lora_parameters rank scale base tokenizer
normaliser mean std lora_rank val_accuracy weight_map step sha256 checksum loss other""".split()
WORDS = ["", " ", "p", "a", "user", "assistant", "system", "tool", "human", "gpt", "llama", "letters", "linear", "\x00"]
WORDS += ["\n\nHuman: p\n\nAssistant: a", "\ud83d", "é\u2028\x85", "{}", "[", "type: 1"]
NUMBERS = [0, 1, -1, 3, 99, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, False, None]
leaves = st.sampled_from(WORDS) | st.sampled_from(NUMBERS)
turn = st.fixed_dictionaries({}, optional={name: leaves for name in ("role", "content", "from", "value", "tool_calls")})
values = st.recursive(
    leaves | turn,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
ROWS = [
    {"prompt": "p", "chosen": "a", "rejected": "b"},
    {"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}], "rejected": "b"},
    {"instruction": "p", "output": "a", "completions": [{"response": "a", "overall_score": 1}]},
    {"context": "p", "response1": "a", "response2": "b", "overall_preference": -1},
    {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}], "tools": []},
    {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "p", "completion": "a", "tests": ["assert 1"], "task": "is_prime"},
    {"text": "p"},
]


@st.composite
def spoilt(draw, content):
    """`content` with some bytes lost, doubled, changed or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(found))), draw(st.integers(0, 8))
        found[at : at + length] = draw(st.binary(max_size=8) | st.just(bytes(found[at : at + 2 * length])))
    return bytes(found)


@st.composite
def objects(draw, *good):
    """A sound object of which some fields are lost or mean something else, as JSON text."""
    found = dict(draw(st.sampled_from(good)))
    found.update(draw(st.dictionaries(st.sampled_from([*found, *NAMES]), values, max_size=2)))
    for name in draw(st.lists(st.sampled_from(sorted(found)), max_size=1)):
        del found[name]
    return json.dumps(found).encode()


def whole_files(*good):
    """Files for a reader whose sound files hold one of the objects `good`."""
    sound = json.dumps(good[0]).encode()
    return objects(*good) | spoilt(sound) | values.map(json.dumps).map(str.encode) | st.binary(max_size=60)


DEEP = b'{"prompt": ' + b"[" * 100_000
row_files = (
    st.lists(objects(*ROWS), min_size=1, max_size=3).map(b"\n".join)
    | st.lists(objects(*ROWS), max_size=3).map(lambda rows: b"[" + b",".join(rows) + b"]")
    | spoilt(b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in ROWS))
    | st.binary(max_size=60)
)


def read(path, content, reader):
    """The reader's data, or None where it refused the file in one sentence that names it."""
    path.write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return reader()
        except UserError as error:
            said = str(error)
            assert said.startswith((str(path), "--config " + str(path))) or str(path.parent) in said, said
            assert "\n" not in said and len(said) < 1_200, said
            said.encode()  # no half characters: a terminal takes it
            return None


# --- rows ------------------------------------------------------------------------------------------------------------


def names_of(form):
    return {"jsonl": "rows.jsonl", "json": "rows.json", "gz": "rows.jsonl.gz"}[form]


@pytest.mark.parametrize("form", ["jsonl", "json", "gz"])
def test_rows_of_a_file(tmp_path, form):
    path = tmp_path / names_of(form)

    @tried
    @given(row_files, st.booleans())
    @example(DEEP, False)
    @example(b'{"prompt": "\\ud83d"}', False)
    @example(b"\xff\xfe{\x00", False)
    def check(content, packed):
        if form == "gz":
            packed_content = gzip.compress(content, 1)
            content = packed_content[: len(packed_content) // 2] if packed else packed_content
        found = read(path, content, lambda: list(files.rows(path)))
        assert found is None or found and all(isinstance(row, dict) and str(path) in place for place, row in found)
        json.dumps(found, ensure_ascii=False).encode()

    check()


def test_pairs(tmp_path):
    path = tmp_path / "rows.jsonl"

    @tried
    @given(row_files)
    def check(content):
        for pair in read(path, content, lambda: load_pairs(path)) or ():
            assert pair.chosen.strip() and pair.rejected.strip() and pair.chosen != pair.rejected and pair.prompt
            assert 0 < pair.weight < float("inf") and all(m["role"] in ROLES for m in pair.messages)

    check()


def test_rows_to_learn_from(tmp_path):
    path, report = tmp_path / "rows.jsonl", Report()

    @tried
    @given(row_files)
    def check(content):
        for _, row in read(path, content, lambda: list(dialogues(path, report))) or ():
            messages = row.get("messages", [])
            assert row.get("text", "x").strip() and all(isinstance(m["content"], str) for m in messages)
            assert all(m["content"].strip() or m["tool_calls"] for m in messages if m["role"] == "assistant")

    check()


def test_prompts(tmp_path):
    path = tmp_path / "rows.jsonl"

    @tried
    @given(row_files)
    def check(content):
        config = PPOConfig(prompts=str(path), system="Be brief.")
        rows = [row for _, row in read(path, content, lambda: requests.load_prompts(config)) or ()]
        for row in requests.with_tests(rows):
            assert row["prompt"][0]["role"] == "system" and row["prompt"][-1]["role"] != "assistant"
            assert all(isinstance(test, str) for test in row["tests"])

    check()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1] * 3), path)
    sound = path.read_bytes()

    @tried
    @given(spoilt(sound) | st.binary(max_size=60))
    def check(content):
        found = read(path, content, lambda: list(files.rows(path)))
        assert found is None or all(isinstance(row, dict) for _, row in found)

    check()


# --- settings and what stands beside weights --------------------------------------------------------------------------


def test_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    flags = [name.replace("_", "-") for name in FinetuneConfig.__dataclass_fields__]
    line = st.tuples(
        st.sampled_from(flags), leaves.map(str) | st.sampled_from([".inf", "1e3", "[1]", "&a 1", "*a", "~"])
    )
    lines = st.lists(line.map(lambda pair: f"{pair[0]}: {pair[1]}".encode(errors="surrogatepass")), max_size=3)

    @tried
    @given(lines.map(b"\n".join) | spoilt(b"seed: 1\nlearning-rate: 1e-4\n") | st.binary(max_size=60))
    def check(content):
        found = read(path, content, lambda: read_yaml(path, FinetuneConfig))
        if found is not None:
            with contextlib.suppress(UserError):
                validate(FinetuneConfig(**found))

    check()


LLAMA = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA |= {"intermediate_size": 8, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}


def test_config_json(tmp_path):
    @tried
    @given(whole_files(LLAMA))
    def check(content):
        shape = read(tmp_path / "config.json", content, lambda: checkpoint.read_config(tmp_path))
        if shape is not None:
            assert shape.parameters() > 0 and 0 < shape.rope_theta < float("inf") and shape.head_dim > 0

    check()


def test_adapter_config_json(tmp_path):
    @tried
    @given(whole_files({"lora_parameters": {"rank": 8, "scale": 2.0}}))
    def check(content):
        found = read(tmp_path / "adapter_config.json", content, lambda: adapters.read_adapter_config(tmp_path))
        assert found is None or found[0] > 0 and np.isfinite(found[1])

    check()


def test_reward_json(tmp_path):
    sound = {"tokenizer": "letters", "base": "b", "base_digest": "d", "hidden_size": 8, "lora_rank": 0}
    sound["normaliser"] = {"mean": 0.1, "std": 1.0}
    letters = SimpleNamespace(fingerprint="letters", folder=tmp_path)

    @tried
    @given(whole_files(sound))
    def check(content):
        found = read(tmp_path / "reward.json", content, lambda: RewardModel.open(tmp_path, letters))
        assert found is None or found.normaliser.std > 0 and found.lora_rank >= 0

    check()


def test_state_json(tmp_path):
    said = []
    folder = tmp_path / "state" / "step-00000001"
    folder.mkdir(parents=True)

    @tried
    @given(whole_files({"step": 1, "sha256": {"arrays-00000.safetensors": "0"}, "checksum": "0"}))
    def check(content):
        assert read(folder / "state.json", content, lambda: SavePoints(tmp_path).latest(said.append)) is None
        assert "is damaged" in said.pop()

    check()


def test_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'
    path.write_bytes(rows + b'{"step": 3, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]

    @tried
    @given(spoilt(rows) | st.binary(max_size=60))
    def check(content):
        found = read(path, content, lambda: read_metrics(path))
        assert found is not None and all(isinstance(row, dict) for row in found), "a log is never a reason to stop"

    check()


def test_prepared_prompts(tmp_path):
    (tmp_path / "nano").mkdir()
    config = PPOConfig(data_dir=str(tmp_path))

    @tried
    @given(whole_files({"train": [{"task": "is_prime", "prompt": "p"}]}))
    def check(content):
        found = read(tmp_path / "nano" / "prompts.json", content, lambda: folders.load_prompts(config, ("train",)))
        assert found is None or all(isinstance(row["prompt"], str) for row in found)

    check()


# --- weights and databases --------------------------------------------------------------------------------------------


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_arrays(path, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})
    sound = path.read_bytes()
    (size,) = struct.unpack("<Q", sound[:8])
    header = json.loads(sound[8 : 8 + size])

    def packed(text):
        return struct.pack("<Q", len(text)) + text + sound[8 + size :]

    @tried
    @given(spoilt(sound) | whole_files(header, header["a"]).map(packed) | st.binary(max_size=60))
    def check(content):
        found = read(path, content, lambda: checkpoint.load_arrays(path))
        assert found is None or all(isinstance(array, np.ndarray) for array in found.values())

    check()


def test_index(tmp_path):
    shape = ModelConfig(8, 8, 1, 2, 2, 8, head_dim=4)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))

    @tried
    @given(whole_files({"weight_map": {"a": "model-1.safetensors"}}, {"weight_map": {"a": "../a"}}))
    def check(content):
        path = tmp_path / "model.safetensors.index.json"
        assert read(path, content, lambda: checkpoint.weight_files(tmp_path, shape)) is None

    check()


def test_gguf(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in ((writer.add_embedding_length, 8), (writer.add_head_count, 2), (writer.add_head_count_kv, 2)):
        add(value)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    for finish in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        finish()
    sound = path.read_bytes()

    @tried
    @given(spoilt(sound) | st.binary(max_size=60))
    def check(content):
        read(path, content, lambda: gguf_files.convert_gguf(path, tmp_path / "out"))

    check()


def test_databases(tmp_path):
    path = tmp_path / "votes.db"
    store = Store(path)
    store.add([Item("p", "a", "b", "x", "y", "s", "c", "t", ("assert 1",))])
    store.close()
    store._db = None
    sound = path.read_bytes()

    def use():
        store = Store(path)
        try:
            store.current("ann")
            return store.has("s", "p")
        finally:
            store.close()

    @settings(tried, max_examples=max(8, EXAMPLES // 4))
    @given(spoilt(sound) | st.binary(max_size=60))
    def check(content):
        for beside in tmp_path.glob("votes.db-*"):
            beside.unlink()
        assert read(path, content, use) in (None, True, False)

    check()
