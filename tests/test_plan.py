"""The plan against numbers worked by hand and against what a model really holds; the refusal of what does not fit."""

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers import mlxrlhf, mlxrlhf_process

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import losses
from mlxrlhf.config import (
    SIZES,
    DPOConfig,
    FinetuneConfig,
    GRPOConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
)
from mlxrlhf.errors import UserError

MLX = backends.load("mlx", "cpu")
#: width 2, one layer, one head of 2, feed-forward 3, vocabulary 5
SMALLEST = ModelConfig(5, 2, 1, 1, 1, 3, head_dim=2)


def test_the_parts_of_nano_by_hand():
    # A block: four projections of 192 x (192 + 64 + 64 + 192), three of 192 x 512, two norms; then 4096 pieces, a norm.
    weights = 4 * (192 * 512 + 3 * 192 * 512 + 2 * 192) + 4096 * 192 + 192
    assert weights == 2_361_024
    # Rows of 128: a norm holds 3 x 192, attention 192 + 64 + 64 + 3 x 128 + 192, the feed-forward 5 x 512 numbers.
    block = 4 * (2 * 3 * 192 + 896 + 2560)
    parts = plan.predict(plan.Job.of(PretrainConfig(batch_size=8, sequence_length=128), SIZES["nano"]), MLX).parts
    assert {name: int(size) for name, size in parts.items() if name != "process"} == {
        "weights": 4 * weights,
        "optimizer moments": 8 * weights,
        "activations": 8 * 128 * 5 * block,  # four blocks, and the gradients of one
        "logits": 8 * 127 * 4096 * 12,  # three float32 arrays
        "gradients": 4096 * 192 * 4,
    }  # of the output layer: it is the first
    assert parts.get("process", 0) == MLX.memory.held()


def test_masters_adapters_and_the_cache_by_hand():
    half = plan.predict(plan.Job.of(PretrainConfig(dtype="bfloat16", optimizer_dtype="bfloat16"), SMALLEST), MLX).parts
    weights = 2 * 2 * 4 + 3 * 2 * 3 + 2 * 2 + 5 * 2 + 2
    assert (half["weights"], half["masters"], half["optimizer moments"]) == (2 * weights, 2 * weights, 4 * weights)
    # Rank 3 on four projections of 2 x 2 and three of 2 x 3; a value head of 2 x 1 + 1 and 1 + 1.
    lora = plan.predict(plan.Job.of(PPOConfig(lora_rank=3), SMALLEST), MLX).parts
    assert lora["adapters and heads"] == 4 * (3 * (4 * 4 + 3 * 5) + 5) and "reference" not in lora
    assert plan.predict(plan.Job.of(PPOConfig(lora_rank=0), SMALLEST), MLX).parts["reference"] == 4 * weights
    # 64 answers of 64 + 64 tokens: keys and values of one head of 2 in one layer.
    deep = dataclasses.replace(SMALLEST, num_layers=1000)
    job = plan.Job.of(RewardConfig(max_tokens=64), deep, prompt=64)
    assert plan.predict(job, MLX).parts["key-value cache"] == 64 * 128 * 2 * 2 * 1000 * 4


def test_the_counts_are_those_of_the_model():
    small = ModelConfig(64, 64, 2, 4, 2, 96, head_dim=16)
    state = MLX.Model(small, lora_rank=3, value_head=True).state()
    assert plan.adapter_weights(small, 3) == sum(v.size for k, v in state.items() if "lora_" in k)


def test_operations_by_hand():
    job = plan.Job(SMALLEST, "float32", train=plan.Batch(1, 4, 3))
    weights = 2 * 2 * 4 + 3 * 2 * 3 + 3 * 2  # projections, feed-forward, three norms
    forward = 4 * (2 * weights + 4 * 2 * 4) + 2 * 3 * 5 * 2
    assert plan.operations(job) == (3 * forward, 0)
    assert plan.operations(dataclasses.replace(job, gradient_checkpointing=True)) == (4 * forward, 0)
    assert plan.operations(dataclasses.replace(job, lora_rank=1, forwards=2)) == (2 * 2 * forward, 0)


@pytest.mark.parametrize(
    "config",
    [
        PretrainConfig(size="large", sequence_length=1024),
        PPOConfig(size="large", lora_rank=0),
        GRPOConfig(size="large"),
        DPOConfig(size="large", lora_rank=0),
        RewardConfig(size="large", unfreeze_rank=8),
    ],
    ids=lambda c: type(c).__name__,
)
def test_what_does_not_fit_is_refused_with_settings_that_do(config, monkeypatch):
    large = SIZES["large"]
    room = 0.6 * plan.predict(plan.Job.of(config, large), MLX).peak
    monkeypatch.setattr(MLX.memory, "limit", lambda: room)
    with pytest.raises(UserError, match=r"it fits with (--[^,]*),") as error:
        plan.check(config, large, MLX)
    kinds = {f.name: type(f.default) for f in dataclasses.fields(config)}
    advice = {
        name.replace("-", "_"): value
        for name, value in re.findall(r"--([a-z-]+)(?: (\w+))?", re.search("fits with ([^,]*),", str(error.value))[1])
    }
    changed = dataclasses.replace(config, **{name: kinds[name](value or True) for name, value in advice.items()})
    assert changed != config
    plan.check(changed, large, MLX)
    plan.check(dataclasses.replace(config, allow_swap=True), large, MLX)


def test_smaller_forwards_keep_the_rows_of_a_step(monkeypatch):
    config = PretrainConfig(size="tiny", sequence_length=512)
    half = dataclasses.replace(config, batch_size=4)
    room = plan.predict(plan.Job.of(half, SIZES["tiny"]), MLX).peak + 4 * SIZES["tiny"].parameters()  # summed gradients
    monkeypatch.setattr(MLX.memory, "limit", lambda: room)
    assert plan.remedy(config, SIZES["tiny"], MLX, 64, 160) == "--batch-size 4 --gradient-accumulation-steps 4"


def test_what_cannot_fit_says_so(monkeypatch):
    monkeypatch.setattr(MLX.memory, "limit", lambda: 2**28)
    with pytest.raises(UserError, match="choose a smaller --size"):
        plan.check(PPOConfig(size="xlarge"), SIZES["xlarge"], MLX)


@pytest.mark.parametrize(
    "dtype,low,warned", [("bfloat16", 10e9, True), ("bfloat16", 300e9, False), ("float32", 10e9, False)]
)
def test_a_precision_that_is_slow_here_is_warned_of(dtype, low, warned, monkeypatch, capsys):
    monkeypatch.setattr(MLX.memory, "matmul_rate", lambda name, rows, seconds=0: 80e9 if name == "float32" else low)
    plan.check(PPOConfig(dtype=dtype), SIZES["nano"], MLX)
    assert ("products in bfloat16 take 8 times as long as in float32" in capsys.readouterr().err) == warned


def gigabytes(said, name):
    return float(re.search(rf"{name} +([\d.]+) GB", said).group(1))


def test_the_command_takes_the_stage_s_flags_and_needs_no_weights(tmp_path):
    """In a process of its own, for what this one holds would count."""
    (tmp_path / "run.yaml").write_text("batch-size: 8\nsequence-length: 128\n")
    nano = mlxrlhf_process(tmp_path, "plan --size nano --stage pretrain --backend mlx -c run.yaml").out
    assert gigabytes(nano, "peak memory") == 0.16
    assert re.search(r"time per step +[\d.]+ (s|min|h)\b", nano)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "vocab_size": 4096,
                "hidden_size": 192,
                "num_hidden_layers": 4,
                "intermediate_size": 512,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "head_dim": 64,
                "tie_word_embeddings": True,
            }
        )
    )
    mine = mlxrlhf_process(tmp_path, "plan --model mine --stage pretrain --backend mlx -c run.yaml").out
    assert mine.splitlines()[0] == nano.splitlines()[0] and "2,361,024 weights" in mine
    assert gigabytes(mine, "peak memory") == 0.16


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--stage", "chat"], "choose one of pretrain, finetune, reward, ppo, grpo, dpo, evaluate"),
        (["--stage", "ppo", "--sequence-length", "8"], "No such option: --sequence-length"),
        (["--stage", "dpo", "--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--model", "nowhere"], "there is no such folder"),
    ],
)
def test_a_wrong_flag_is_one_sentence(arguments, said, tmp_path):
    assert said in mlxrlhf(tmp_path, "plan", *arguments, code=2).err


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_a_model_counts_the_shapes_it_was_trained_on(name):
    model = backends.load(name, "cpu").Model(ModelConfig(32, 16, 1, 2, 1, 16, head_dim=8))

    def step(rows):
        batch = {
            "tokens": np.ones((rows, 8), np.int32),
            "start": np.int32(1),
            "total": np.float32(7 * rows),
            "mask": np.ones((rows, 7), np.float32),
        }
        model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-3)
        return model.traces

    assert [step(rows) for rows in (2, 3, 2, 3)] == [1, 2, 2, 2]


def test_on_metal_the_plan_compares_with_the_recommended_working_set(monkeypatch):
    from mlxrlhf.backends.mlx import memory

    machine = {"memory_size": 16 * 2**30, "max_recommended_working_set_size": 11 * 2**30}
    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    monkeypatch.setattr(memory.mx, "device_info", lambda: machine)
    assert memory.limit() == 11 * 2**30
    del machine["max_recommended_working_set_size"]  # CUDA
    assert memory.limit() == 16 * 2**30


def test_who_brings_a_model_is_told_of_adapters_first(monkeypatch):
    config = FinetuneConfig(model="some/model", lora_rank=0, batch_size=1, sequence_length=8)
    model = SIZES["medium"]
    whole = plan.predict(plan.Job.of(config, model), MLX).peak
    monkeypatch.setattr(MLX.memory, "limit", lambda: whole * 0.7)
    assert plan.remedy(config, model, MLX, 64, 160) == "--lora-rank 16"


def test_a_published_model_that_still_does_not_fit_is_offered_in_4_bits(monkeypatch):
    config = PPOConfig(model="some/model", dtype="bfloat16", micro_batch_size=1, gradient_checkpointing=True)
    model = SIZES["large"]
    packed = plan.predict(plan.Job.of(dataclasses.replace(config, quantize=4), model), MLX).peak
    monkeypatch.setattr(MLX.memory, "limit", lambda: packed)
    assert plan.remedy(config, model, MLX, plan.PROMPT_TOKENS, plan.ANSWER_TOKENS) == "--quantize 4"
    # One that is packed already is not packed again.
    assert "quantize" not in plan.remedy(config, dataclasses.replace(model, bits=4), MLX, 64, 160)
