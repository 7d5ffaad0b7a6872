"""The shipped model, weights/demo: found with nothing trained, read by other libraries, aligned by the demo, packed."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, mlxrlhf, start

from mlxrlhf import backends
from mlxrlhf.data import dialogue
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.rewards.model import RewardModel
from mlxrlhf.stages import demo
from mlxrlhf.stages.evaluate import SHOWN

FOLDER = ROOT / "weights" / "demo"


@pytest.fixture(scope="module")
def merged():
    """The model as transformers reads it in float32, and as it is with the adapters added by hand."""
    from transformers import AutoModelForCausalLM

    plain, aligned = (AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32") for _ in range(2))
    scale = json.loads((FOLDER / "adapters" / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    arrays = checkpoint.load_arrays(FOLDER / "adapters" / "adapters.safetensors")
    layers = dict(aligned.named_modules())
    for name in (n.removesuffix(".lora_a") for n in arrays if n.endswith(".lora_a")):
        update = scale * arrays[f"{name}.lora_a"].astype("float32") @ arrays[f"{name}.lora_b"].astype("float32")
        layers[name].weight.data += layers[name].weight.new_tensor(update.T)
    return plain, aligned


def greedy(model, tokenizer, prompt, tokens):
    """What transformers answers."""
    import torch

    ids = torch.tensor([dialogue.prompt([{"role": "user", "content": prompt}], tokenizer)])
    out = model.generate(
        ids, max_new_tokens=tokens, do_sample=False, eos_token_id=tokenizer.end_id, pad_token_id=tokenizer.pad_id
    )[0, ids.shape[1] :].tolist()
    return tokenizer.decode([i for i in out if i != tokenizer.end_id])


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_chat_with_nothing_trained_talks_to_it_with_its_adapters(tmp_path, merged, backend):
    asked = ["--prompt", SHOWN, "--max-tokens", "24", "--temp", "0"]
    said, noted = mlxrlhf(tmp_path, "chat", *asked, "--backend", backend)
    assert noted.startswith("nothing is trained under weights/ yet: this is the shipped model, a small demonstration")
    assert said.strip() == greedy(merged[1], open_tokenizer(FOLDER), SHOWN, 24).strip()
    assert not list(tmp_path.iterdir())


def test_compare_shows_it_before_ppo(tmp_path, merged):
    said, _ = mlxrlhf(tmp_path, "chat", "--max-tokens", "8", "--temp", "0", stdin=f"/compare shipped {SHOWN}\n")
    assert "left: shipped-rlhf" in said and "right: shipped" in said
    said, _ = mlxrlhf(tmp_path, "chat", "--model", "shipped", "--prompt", SHOWN, "--max-tokens", "24", "--temp", "0")
    assert said.strip() == greedy(merged[0], open_tokenizer(FOLDER), SHOWN, 24).strip()


def test_ones_own_models_come_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert folders.find_model("") == ("shipped-rlhf", FOLDER, str(FOLDER / "adapters"))
    for own in ("micro/language", "nano/code"):
        (tmp_path / "weights" / own).mkdir(parents=True)
        shutil.copy(FOLDER / "config.json", tmp_path / "weights" / own)
        assert folders.find_model("") == (f"weights/{own}", Path("weights") / own, "")
    assert folders.find_model("", size="micro").folder == Path("weights/micro/language")
    assert capsys.readouterr().err.count("shipped model") == 1
    with pytest.raises(UserError, match="no trained model under weights/tiny; .*leave --size out"):
        folders.find_model("", size="tiny")


def test_mlx_lm_reads_model_and_adapters(merged):
    import mlx.core as mx
    from mlx_lm import generate, load

    model, tokenizer = load(str(FOLDER), adapter_path=str(FOLDER / "adapters"))
    model.set_dtype(mx.float32)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": SHOWN}], add_generation_prompt=True)
    assert (
        generate(model, tokenizer, prompt, max_tokens=24).strip()
        == greedy(merged[1], open_tokenizer(FOLDER), SHOWN, 24).strip()
    )


def test_export_merges_the_adapters(tmp_path, merged):
    from safetensors.numpy import load_file

    mlxrlhf(tmp_path, "export", "--to", "hf", "--out", "plain", "--backend", "mlx")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert load_file(tmp_path / "plain" / "model.safetensors")[name] == pytest.approx(
        merged[1].state_dict()[name].numpy(), abs=1e-6
    )


def test_annotate_samples_from_it(tmp_path):
    """Its answers are stored before anything is served; a taken port stops it there."""
    (tmp_path / "prompts.txt").write_text(f"{SHOWN}\n")
    process = start(tmp_path, "annotate --prompts prompts.txt --max-tokens 8 --port 0 --no-open")
    try:
        lines = [process.stdout.readline() for _ in range(2)]
    finally:
        process.kill()
        _, errors = process.communicate()
    assert any("1 items (1 new)" in line or "left out" in line for line in lines), lines
    assert "this is the shipped model" in errors


def test_the_reward_head_fits():
    backend, tokenizer = backends.load("mlx"), open_tokenizer(FOLDER)
    score = RewardModel.open(FOLDER / "reward", tokenizer).scorer(backend, tokenizer, FOLDER)
    scores = score([[5], [6]], [[7], [8]], np.random.default_rng(0).normal(size=(2, 320)).astype(np.float32))
    assert scores.shape == (2,) and scores[0] != scores[1]


def test_it_is_small_in_git_and_its_card_is_made_of_its_runs():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(len(zlib.compress(file.read_bytes())) for file in files) < 20e6
    card = (FOLDER / "README.md").read_text()
    for said in ("license:", "CC BY-SA 4.0", "mlxrlhf ppo --", "| win rate | 50%", SHOWN):
        assert said in card
    for text in (card, (FOLDER / "reward" / "reward.json").read_text()):
        assert "/home" not in text and "/tmp" not in text and str(ROOT) not in text


def test_the_demo_aligns_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        demo,
        "DEMO",
        {
            "prepare": dict(pairs=40),
            "reward": dict(samples=0, num_epochs=1),
            "ppo": dict(steps_per_epoch=2, batch_size=4, ppo_epochs=1, max_tokens=8, lora_rank=2, learning_rate=1e-3),
            "evaluate": dict(max_prompts=3, max_tokens=8),
        },
    )
    said = []
    summary = demo.run(backend="torch", say=said.append)
    assert summary["ppo"]["updates"] == 2 and summary["evaluate"]["before"]["win_rate"] == 0.5
    assert "<svg" in (tmp_path / "runs" / "demo" / "report.html").read_text()
    assert "chat with it: mlxrlhf chat --model weights/shipped/rlhf" in said[-1]
    assert sorted(p.name for p in (tmp_path / "weights" / "shipped").iterdir()) == ["reward", "rlhf"]
    assert not (tmp_path / "weights" / "micro").exists()


def test_a_size_goes_with_a_demo_from_scratch(tmp_path):
    _, errors = mlxrlhf(tmp_path, "demo", "--size", "micro", code=2)
    assert "--size micro goes with --from-scratch" in errors
