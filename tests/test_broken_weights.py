"""A checkpoint whose config.json and weights do not belong together, or whose weights are no numbers, is refused."""

import json
import shutil

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, gguf_files, published

TOY = ModelConfig(24, 16, 2, 2, 1, 32, head_dim=8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    backends.load("mlx").Model(TOY, seed=0).save(folder, pad_id=0, end_id=1)
    return folder


def changed(saved, folder, arrays=None, **config):
    """A copy of the checkpoint with other arrays or other fields in config.json."""
    content = json.loads((saved / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    found = checkpoint.load_arrays(saved / "model.safetensors")
    checkpoint.save_arrays(folder / "model.safetensors", {**found, **(arrays or {})}, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_not_loaded(saved, tmp_path, backend, value):
    name = "model.layers.1.mlp.up_proj.weight"
    array = checkpoint.load_arrays(saved / "model.safetensors")[name]
    array[3, 5] = value
    folder = changed(saved, tmp_path, {name: array})
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        backends.load(backend).Model(checkpoint.read_config(folder), folder=folder)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        list(gguf_files._tensors(folder, checkpoint.read_config(folder)))


def test_layers_beyond_the_config_are_not_dropped_in_silence(saved, tmp_path):
    folder = changed(saved, tmp_path, num_hidden_layers=1)
    with pytest.raises(UserError, match="holds 2 layers, but its config.json asks for 1"):
        checkpoint.weight_files(folder, checkpoint.read_config(folder))
    folder = changed(saved, tmp_path, num_hidden_layers=3)
    with pytest.raises(UserError, match="lacks the tensor model.layers.2"):
        checkpoint.weight_files(folder, checkpoint.read_config(folder))


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5, not a whole number above 0"),
        ({"hidden_size": 0}, "hidden_size is 0, not a whole number above 0"),
        ({"hidden_size": True}, "hidden_size is True, not a whole number"),
        ({"model_type": ["llama"]}, "model_type is ['llama'], not a text"),
        ({"rope_theta": -1, "rope_parameters": None}, "rope_theta is -1, not a number above 0"),
        ({"rope_parameters": "linear"}, "rope_parameters is 'linear', not an object"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "config.json lacks low_freq_factor"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        ({"rms_norm_eps": 10**400}, "is not valid JSON (a number of 401 digits)"),
    ],
)
def test_a_config_that_says_something_else_is_named_by_its_field(saved, tmp_path, fields, said):
    folder = changed(saved, tmp_path, **fields)
    with pytest.raises(UserError) as error:
        checkpoint.read_config(folder)
    assert said in str(error.value)


def test_null_is_no_config(tmp_path):
    (tmp_path / "config.json").write_text("null")
    with pytest.raises(UserError, match="holds a NoneType where an object is expected"):
        checkpoint.read_config(tmp_path)


def test_an_index_names_files_of_its_own_folder(saved, tmp_path):
    folder = changed(saved, tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../a.safetensors"}}))
    with pytest.raises(UserError, match="lies outside its folder"):
        checkpoint.weight_files(folder, checkpoint.read_config(folder))


def test_a_lost_tokenizer_is_not_made_up_from_what_is_left(tmp_path):
    for name in ("tokenizer.model", "tokenizer_config.json", "config.json"):
        shutil.copyfile(published.shipped() / name, tmp_path / name)
    with pytest.raises(UserError, match="lacks its tokenizer.json"):
        open_tokenizer(tmp_path)
