"""Digests of what an artefact depends on, and prepared data that are whole or refused."""

import json
import shutil

import numpy as np
import pytest
from faults import Faults, Killed

from mlxrlhf.data import corpora, prepared
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import identity
from mlxrlhf.models.checkpoint import write_safetensors

WORDS = ["def add(a, b):\n    return a + b\n", "A list of names, sorted by length and then by letter.\n"]


def weights(folder, changed=0.0, files=1):
    folder.mkdir()
    arrays = {f"layer.{i}": np.full((2, 3), i, np.float32) for i in range(4)}
    arrays["layer.2"][1, 2] += changed
    names = list(arrays)
    for number in range(files):
        part = {name: arrays[name] for name in names[number::files]}
        write_safetensors(folder / f"model-{number}.safetensors", part, {"format": "pt"} if files > 1 else None)
    return folder


def test_a_digest_of_weights_sees_every_value_and_no_file_names(tmp_path):
    one = identity.trunk_digest(weights(tmp_path / "one"))
    assert identity.trunk_digest(weights(tmp_path / "two", files=2)) == one and len(one) == 16
    assert identity.trunk_digest(weights(tmp_path / "three", changed=1e-6)) != one
    with pytest.raises(UserError, match=r"holds no model\*.safetensors"):
        identity.trunk_digest(tmp_path)
    (tmp_path / "one" / "model-0.safetensors").write_bytes(b"12345678garbage")
    with pytest.raises(UserError, match="cannot be read"):
        identity.trunk_digest(tmp_path / "one")


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "REMEMBERED_BYTES", 1)
    folder = weights(tmp_path / "one")
    one = identity.trunk_digest(folder)
    identity._known.clear()
    monkeypatch.setattr(identity, "_tensors_digest", lambda paths: pytest.fail("read again"))
    assert identity.trunk_digest(folder) == one
    monkeypatch.undo()
    (folder / "model-0.safetensors").write_bytes((tmp_path / "one" / "model-0.safetensors").read_bytes()[:-1] + b"?")
    assert identity.trunk_digest(folder) != one


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizers.train([text * 40 for text in WORDS] + [str(i) * 50 for i in range(400)], 320, folder)
    return open_tokenizer(folder)


def test_a_digest_of_a_tokenizer_counts_its_template(tokenizer, tmp_path):
    shutil.copytree(tokenizer.folder, tmp_path / "copy")
    assert identity.tokenizer_digest(tmp_path / "copy") == identity.tokenizer_digest(tokenizer.folder)
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert identity.tokenizer_digest(tmp_path / "copy") != identity.tokenizer_digest(tokenizer.folder)
    with pytest.raises(UserError, match="has no tokenizer.json"):
        identity.tokenizer_digest(tmp_path)


def test_what_differs_is_named_with_both_sides():
    identity.check_same({"base": "a", "data": "b"}, {"base": "a"}, "weights/nano/reward", "train it again")
    with pytest.raises(UserError, match=r"^reward was made with another base \(a\) than it would meet \(c\); train it"):
        identity.check_same({"base": "a"}, {"base": "c"}, "reward", "train it again")


# --- prepared data -------------------------------------------------------------------------------------------------


def prepare(folder, tokenizer, seed=0):
    if not (folder / "tokenizer").is_dir():
        shutil.copytree(tokenizer.folder, folder / "tokenizer")
    rng = np.random.default_rng(seed)
    with prepared.writing(folder, tokenizer.fingerprint) as new:
        for side in ("train", "val"):
            np.save(new / f"language_{side}.npy", rng.integers(0, 320, 50 + seed).astype(np.uint16))
        (new / "prompts.json").write_text(json.dumps({"seed": seed}))


def load(folder):
    return [
        corpora.load_tokens(folder, "language", side, "mlxrlhf prepare all --size nano") for side in ("train", "val")
    ]


def test_prepared_data_are_read_back(tokenizer, tmp_path):
    prepare(tmp_path / "nano", tokenizer)
    assert [len(ids) for ids in load(tmp_path / "nano")] == [50, 50]
    assert sorted(p.name for p in (tmp_path / "nano").iterdir()) == [
        "language_train.npy",
        "language_val.npy",
        "manifest.json",
        "prompts.json",
        "tokenizer",
    ]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda f: (f / "language_val.npy").unlink(), "does not exist; run: mlxrlhf prepare all --size nano"),
        (lambda f: (f / "language_val.npy").write_bytes(b""), "damaged or half replaced; run again: mlxrlhf prepare"),
        (lambda f: np.save(f / "language_val.npy", np.arange(400)), "damaged or half replaced"),
        (lambda f: (f / "manifest.json").unlink(), "is not in manifest.json: it was prepared by an earlier version"),
        (lambda f: (f / "manifest.json").write_text("[" * 10**5), "is not in manifest.json"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer does not exist"),
        (lambda f: change_tokenizer(f / "tokenizer"), "the data were prepared in part; run again"),
        (lambda f: write(f, np.arange(321)), "holds the id 320, beyond the vocabulary of 320"),
        (lambda f: write(f, np.zeros(0, np.int32)), "holds no ids"),
        (lambda f: write(f, np.zeros(3)), "holds no ids"),
        (lambda f: write(f, np.zeros((2, 2), int)), "holds rows"),
    ],
)
def test_prepared_data_that_are_not_whole_are_refused(tokenizer, tmp_path, spoil, said):
    prepare(tmp_path / "nano", tokenizer)
    spoil(tmp_path / "nano")
    with pytest.raises(UserError) as raised:
        load(tmp_path / "nano")
    assert said in str(raised.value) and "prepare all" in str(raised.value)


def change_tokenizer(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write(folder, ids):
    with prepared.writing(folder, open_tokenizer(folder / "tokenizer").fingerprint) as new:
        np.save(new / "language_val.npy", ids)


def test_data_prepared_half_way_are_refused_at_every_call(tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "nano"
    prepare(folder, tokenizer)
    with monkeypatch.context() as patch:
        faults = Faults(patch, tmp_path)
        prepare(folder, tokenizer)
    refused = 0
    for number in range(1, faults.count + 1):
        prepare(folder, tokenizer, seed=0)
        with monkeypatch.context() as patch:
            Faults(patch, tmp_path, "kill", number)
            try:
                prepare(folder, tokenizer, seed=1)
            except Killed:
                pass
        try:
            assert {len(ids) for ids in load(folder)} in ({50}, {51}), "the old or the new, never some of both"
        except UserError as error:
            refused += "half replaced" in str(error)
        assert not [path for path in folder.iterdir() if ".old" in path.name], number
    assert refused >= 2
    prepare(folder, tokenizer, seed=2)
    assert {len(ids) for ids in load(folder)} == {52} and not [p for p in tmp_path.rglob("*") if ".mlxrlhf-" in p.name]


def test_what_the_user_changed_is_set_aside(tokenizer, tmp_path, capsys):
    folder = tmp_path / "nano"
    prepare(folder, tokenizer)
    (folder / "prompts.json").write_text("mine")
    prepare(folder, tokenizer)
    assert (folder / "prompts.json.old-1").read_text() == "mine" and "is now" in capsys.readouterr().out
    assert json.loads((folder / "prompts.json").read_text()) == {"seed": 0}
    prepare(folder, tokenizer, seed=1)
    assert [p.name for p in folder.iterdir() if ".old" in p.name] == ["prompts.json.old-1"]
