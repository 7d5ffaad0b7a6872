"""Rotary embeddings of families that mlx-lm loads: what config.json says is what is computed, wherever it says it."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mlxrlhf import backends  # noqa: E402
from mlxrlhf.models import checkpoint  # noqa: E402

SHAPE = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=128,
    initializer_range=0.3,
    eos_token_id=2,
    pad_token_id=0,
    bos_token_id=1,
)
THETA = {"rope_type": "default", "rope_theta": 500.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
GEMMA = {
    "full_attention": {"rope_type": "default", "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
CASES = {
    "qwen2": ("Qwen2Config", THETA, {}),
    "qwen3": ("Qwen3Config", THETA, {"head_dim": 16}),
    "qwen3-yarn": ("Qwen3Config", YARN, {"head_dim": 16}),
    "qwen2-yarn": ("Qwen2Config", {**YARN, "attention_factor": 1.3}, {}),
    "mistral": ("MistralConfig", THETA, {"head_dim": 16}),
    "olmo2": ("Olmo2Config", THETA, {}),
    "olmo2-dynamic": ("Olmo2Config", DYNAMIC, {}),
    "smollm3": ("SmolLM3Config", THETA, {}),
    "smollm3-llama3": ("SmolLM3Config", LLAMA3, {}),
    "phi3": ("Phi3Config", {**THETA, "partial_rotary_factor": 0.5}, {}),
    "gemma3": (
        "Gemma3TextConfig",
        GEMMA,
        {"initializer_range": 0.2, "head_dim": 16, "num_hidden_layers": 6, "sliding_window": 8},
    ),
}


def written(case, folder):
    """A tiny random model as transformers 5 writes it, and its logits of some ids."""
    name, rope, more = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**SHAPE, "rope_parameters": rope, **more})
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(folder)
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())
    tokens = np.random.default_rng(0).integers(3, 64, (2, 40), dtype=np.int32)
    with torch.no_grad():
        return tokens, model(torch.tensor(tokens)).logits.numpy()


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers_with_another_base_and_scaling(case, tmp_path):
    tokens, expected = written(case, tmp_path)
    model = backends.load("mlx").Model(checkpoint.read_config(tmp_path), folder=tmp_path)
    assert expected.std() > 0.1
    np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-3)


def test_what_is_saved_is_read_rightly_by_stock_mlx_lm_and_by_transformers(tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tokens, expected = written("mistral", tmp_path / "a")
    shape = checkpoint.read_config(tmp_path / "a")
    backends.load("mlx").Model(shape, folder=tmp_path / "a").save(tmp_path / "b", pad_id=0, end_id=2)
    stock, _ = load_model(tmp_path / "b")
    np.testing.assert_allclose(np.array(stock(mx.array(tokens))), expected, atol=1e-3)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").float()
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.tensor(tokens)).logits.numpy(), expected, atol=1e-3)


def test_a_folder_for_programs_of_mlx_lm_says_it_at_the_top(tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    tokens, expected = written("olmo2", tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with checkpoint.for_mlx_lm(tmp_path) as readable:
        stock, config = load_model(readable)
    assert config["rope_theta"] == 500.0 and not readable.exists()
    np.testing.assert_allclose(np.array(stock(mx.array(tokens))), expected, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
