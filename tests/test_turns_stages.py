"""Whole commands on models of other makers: they learn the turns of their template, end where those end, and keep the
template's arguments."""

import json

import makers
import pytest
from helpers import metrics, mlxrlhf

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig
from mlxrlhf.data.tokenizer import open_tokenizer

TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Second."},
]
PAIRS = [{"prompt": f"Say {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(6)]


@pytest.fixture(scope="module", params=["gemma3", "qwen3"])
def learned(request, tmp_path_factory):
    """(folder, name): a small random model with that maker's tokenizer, taught one dialogue by heart."""
    root, name = tmp_path_factory.mktemp("learned"), request.param
    folder = makers.write(root / name, name)
    tokenizer = open_tokenizer(folder)
    shape = ModelConfig(tokenizer.vocab_size + 8, 64, 2, 2, 1, 96, head_dim=32)
    backends.load("mlx").Model(shape, seed=0).save(folder, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id)
    (root / "rows.jsonl").write_text((json.dumps({"messages": TALK}) + "\n") * 4)
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (root / "prompts.jsonl").write_text('{"prompt": "One?"}\n')
    mlxrlhf(
        root,
        "finetune --stage code --data rows.jsonl --backend mlx --lora-rank 0 --steps-per-epoch 40 --batch-size 2 "
        "--warmup-steps 5 "
        "--sequence-length 64 --learning-rate 1e-2 --eval-batches 1 --eval-every 40 --model",
        name,
    )
    return root, name


def test_chat_ends_where_the_model_learned_to(learned):
    root, name = learned
    chat = f"chat --model weights/{name}/code --backend mlx --temp 0 --tools off --max-tokens 40 --prompt"
    assert mlxrlhf(root, chat, "One?").out == "First.\n"


def test_rollouts_end_and_every_checkpoint_keeps_the_templates_arguments(learned):
    root, name = learned
    mlxrlhf(
        root,
        "grpo --reward lint --prompts prompts.jsonl --backend mlx --steps-per-epoch 1 --batch-size 1 --temp 1 "
        "--responses-per-prompt 8 --mini-batch-size 8 --max-tokens 12 --lora-rank 2 --model",
        name,
    )
    out = root / "weights" / name / "grpo"
    (row,) = metrics(out)
    assert row["response/truncated"] < 0.5 and row["response/length"] < 12
    mlxrlhf(root, "dpo --data pairs.jsonl --backend mlx --batch-size 2 --lora-rank 2 --model", name)
    wanted = {"enable_thinking": False} if name == "qwen3" else None
    for folder in (out, root / "weights" / name / "dpo", out / "adapters"):
        path = folder / "template_args.json"
        assert (json.loads(path.read_text()) if path.is_file() else None) == wanted
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == list(open_tokenizer(root / name).ends)


def test_a_row_that_the_template_cannot_write_stops_before_anything_is_trained(learned):
    root, name = learned
    bad = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (root / "bad.jsonl").write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps({"messages": bad}) + "\n")
    command = f"finetune --data bad.jsonl --backend mlx --steps-per-epoch 1 --out bad --model {name}"
    if name == "gemma3":
        assert "bad.jsonl:2: the chat template of" in mlxrlhf(root, command, code=2).err
        assert not (root / "bad").exists()
    said = mlxrlhf(root, command, "--template-args", "[1]", code=2).err
    assert "--template-args is [1]; give a JSON object" in said
