"""Planned against measured peak memory: one step of every stage at every size, each in a fresh process.

    python benchmarks/memory.py [--backend mlx] [--sizes nano,micro,tiny,medium] [--stages pretrain,ppo] [--large]

Weights and tokens are random and the settings small, which changes no byte that is compared: the same plan is asked for
the same settings. MLX: mx.get_peak_memory. PyTorch: the process's largest resident size. Writes memory.json, which also
keeps what earlier calls measured, and memory.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import losses, rollout
from mlxrlhf.config import (
    SIZES,
    DPOConfig,
    EvaluateConfig,
    FinetuneConfig,
    GRPOConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
)

HERE = Path(__file__).parent
STAGES = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "evaluate": EvaluateConfig,
}
#: rows and tokens to a row, by size
BATCH = {"nano": (8, 128), "micro": (8, 128), "tiny": (2, 64), "medium": (1, 32)}
PROMPT, ANSWER = 32, 160
#: what one step of a 1.1B model must stay within, in GB: settings that people would use, but the smallest forward that
#: has the peak (see memory.md)
LARGE = [
    (
        "ppo",
        {
            "dtype": "bfloat16",
            "batch_size": 2,
            "mini_batch_size": 2,
            "micro_batch_size": 2,
            "ppo_epochs": 1,
            "max_tokens": 256,
        },
        6,
    ),
    ("reward", {"dtype": "bfloat16", "max_tokens": 16}, 4),
    (
        "pretrain",
        {
            "dtype": "bfloat16",
            "optimizer_dtype": "bfloat16",
            "gradient_checkpointing": True,
            "batch_size": 1,
            "sequence_length": 256,
        },
        14,
    ),
]


def cases(size: str, backend: str) -> list[tuple[str, dict]]:
    """Stages and settings: full and LoRA, with and without gradient checkpointing, and bfloat16."""
    rows, length = BATCH[size]
    text = {"batch_size": rows, "sequence_length": length}
    rollout = {
        "batch_size": 2 * rows,
        "mini_batch_size": rows,
        "micro_batch_size": rows,
        "ppo_epochs": 1,
        "max_tokens": length // 2,
    }
    pairs = {"batch_size": rows, "micro_batch_size": rows}
    low = {"dtype": "bfloat16", "gradient_checkpointing": True}
    if backend == "mlx":
        low["optimizer_dtype"] = "bfloat16"
    found: list[tuple[str, dict]] = []
    for stage, base in (("pretrain", text), ("finetune", text), ("ppo", rollout), ("dpo", pairs)):
        found += [
            (stage, {**base, "lora_rank": rank, "gradient_checkpointing": checkpointed})
            for rank in (0, 16)
            for checkpointed in (False, True)
        ]
    found.append(("grpo", {**rollout, "batch_size": 1, "responses_per_prompt": 2 * rows}))
    found.append(("pretrain", {**text, "batch_size": max(1, rows // 2), "gradient_accumulation_steps": 2}))
    if size == "nano":  # more logits than are held at once
        found.append(("pretrain", {**text, "batch_size": 96}))
    found.append(("pretrain", {**text, **low}))
    found.append(("ppo", {**rollout, "dtype": "bfloat16"}))
    found.append(("reward", {"max_tokens": length // 4, "batch_size": rows}))
    found.append(("reward", {"max_tokens": length // 4, **pairs, "unfreeze_rank": 8, "unfreeze_batch_size": rows}))
    found.append(("evaluate", {"max_prompts": 2 * rows, "max_tokens": length // 2}))
    return found


def run(backend, config: RunConfig, c: ModelConfig) -> float:
    """The steps of a stage that its command would take, on random weights and tokens; returns the last one's seconds.

    The second optimizer step is the first that finds the moments of AdamW there.
    """
    rng, memory = np.random.default_rng(0), {"dtype": config.dtype}

    def tokens(*shape: int) -> np.ndarray:
        return rng.integers(0, c.vocab_size, shape, dtype=np.int32)

    def sample(model, count: int) -> tuple[list, list]:
        prompts = tokens(count, PROMPT).tolist()
        return prompts, model.generate(
            prompts,
            uniforms=rng.random((count, config.max_tokens)),
            temperature=1.0,
            max_tokens=config.max_tokens,
            stop_ids=[-1],
            pad_id=0,
        )

    if not isinstance(config, (RewardConfig, EvaluateConfig)):
        memory |= {
            "lora_rank": config.lora_rank,
            "gradient_checkpointing": config.gradient_checkpointing,
            "optimizer_dtype": config.optimizer_dtype,
        }
    if isinstance(config, TrainConfig):
        model = backend.Model(c, weight_decay=0.1, **memory)
        mask = np.ones((config.batch_size, config.sequence_length - 1), np.float32)
        batch = {
            "tokens": tokens(config.batch_size, config.sequence_length),
            "start": np.int32(1),
            "mask": mask,
            "total": np.float32(mask.sum() * config.gradient_accumulation_steps),
        }
        if isinstance(config, FinetuneConfig):  # two documents to a row
            batch["segments"] = np.ones_like(batch["tokens"])
            batch["segments"][:, config.sequence_length // 2 :] = 2
        for _ in range(2):
            began = time.monotonic()
            model.step(
                losses.language_modelling,
                [batch] * config.gradient_accumulation_steps,
                want=("logp",),
                learning_rate=1e-4,
            )
    elif isinstance(config, RewardConfig):
        from mlxrlhf.preferences.encoded import EncodedPair
        from mlxrlhf.rewards.head import features, unfreeze

        base = backend.Model(c, lora_rank=config.unfreeze_rank, value_head=config.unfreeze_rank > 0, **memory)
        began = time.monotonic()
        prompts, answers = sample(base, rollout.SAMPLE_ROWS)
        sequences = [p + a for p, a in zip(prompts, answers)]
        read = sequences[: rollout.READ_ROWS]  # one batch of them
        found = features(base, read, [PROMPT] * len(read), 0)
        head = backend.Head(c.hidden_size)
        head.step(config.loss, config.margin, found[0::2], found[1::2], 1e-3)
        if config.unfreeze_rank:
            pairs = [EncodedPair(a, b, "", PROMPT) for a, b in zip(sequences[::2], sequences[1::2])]
            unfreeze(base, pairs[: 2 * config.unfreeze_batch_size], config, 0)
    elif isinstance(config, DPOConfig):
        from mlxrlhf.preferences.encoded import EncodedPair, EncodedPairs
        from mlxrlhf.stages import dpo

        policy = backend.Model(c, **memory)
        pairs = [EncodedPair(*tokens(2, PROMPT + ANSWER).tolist(), "", PROMPT) for _ in range(config.batch_size)]
        learner = dpo.DPO(config, policy, EncodedPairs(pairs, [], 0.5), pad_id=0)
        for _ in range(2):
            began = time.monotonic()
            learner.update(np.arange(config.batch_size), 1e-6)
    elif isinstance(config, EvaluateConfig):
        models = [backend.Model(c, **memory) for _ in range(2)]
        began = time.monotonic()
        for model in models:
            batch = rollout.arrange(*sample(model, config.max_prompts), 0)
            models[0].evaluate(batch, ("logp", "features"))
            model.evaluate(batch, ("logp",))
    else:
        from mlxrlhf.stages import grpo, ppo

        critic = isinstance(config, PPOConfig)
        policy = backend.Model(c, value_head=critic, **memory)
        reference = policy if config.lora_rank else backend.Model(c, **memory | {"gradient_checkpointing": False})
        algorithm = ppo.PPO if critic else grpo.GRPO
        learner = algorithm(
            config,
            policy,
            reference,
            lambda rows, responses, features: {"scores": features[:, 0]},
            end_ids=[-1],
            pad_id=0,
        )
        # Random weights leave no text apart from any other, so bfloat16 may round the first ratio off.
        learner._check_ratio = lambda metrics: None
        began = time.monotonic()
        learner.update(tokens(config.batch_size, PROMPT).tolist(), rng, 1e-6)
    return time.monotonic() - began


def measure(backend_name: str, size: str, stage: str, settings: dict) -> dict:
    """Plan and run one case in this process."""
    backend = backends.load(backend_name, "cpu")
    config, c = STAGES[stage](size=size, **settings), SIZES[size]
    planned = predict(size, stage, settings, backend)
    taken = run(backend, config, c)
    passes, decoding = plan.operations(job_of(config, c))
    rate = backend.memory.matmul_rate(config.dtype, plan.CEILING_ROWS)
    return {
        "backend": backend_name,
        "size": size,
        "stage": stage,
        "settings": settings,
        **planned,
        "measured_mb": round(backend.peak_memory() / 1e6, 1),
        "seconds": round(taken, 1),
        # Where there is no rollout, how near the step came to the speed of bare products.
        "efficiency": None if decoding or not passes else round(passes / rate / taken, 2),
    }


def job_of(config: RunConfig, c: ModelConfig) -> plan.Job:
    """The plan's view of `run`: pairs have answers of ANSWER tokens, but reward's are those it samples."""
    return plan.Job.of(config, c, PROMPT, config.max_tokens if isinstance(config, RewardConfig) else ANSWER)


def predict(size: str, stage: str, settings: dict, backend, process: float | None = None) -> dict:
    """The plan, as memory.json keeps it. process: bytes of the process before the model; None measures them now."""
    planned = plan.predict(job_of(STAGES[stage](size=size, **settings), SIZES[size]), backend)
    parts = {name: round(value / 1e6, 1) for name, value in planned.parts.items()}
    if process is not None and "process" in parts:
        parts["process"] = process
    return {"planned_mb": round(sum(parts.values()), 1), "phase": planned.phase, "parts_mb": parts}


def table(rows: list[dict]) -> str:
    lines = [
        "Planned and measured peak memory (benchmarks/memory.py); memory.json has the settings of each case.",
        "",
        "| backend | size | stage | settings | peak | planned MB | measured MB | error |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    words = {
        "lora_rank": "LoRA",
        "unfreeze_rank": "unfrozen by LoRA",
        "gradient_checkpointing": "checkpointing",
        "gradient_accumulation_steps": "accumulation",
        "optimizer_dtype": "bfloat16 moments",
    }
    for r in sorted(rows, key=lambda r: (r["backend"], list(SIZES).index(r["size"]), list(STAGES).index(r["stage"]))):
        said = [word for name, word in words.items() if r["settings"].get(name)]
        said += [r["settings"]["dtype"]] if "dtype" in r["settings"] else []
        error = r["planned_mb"] / r["measured_mb"] - 1
        lines.append(
            f"| {r['backend']} | {r['size']} | {r['stage']} | {', '.join(said) or '-'} | {r['phase']} | "
            f"{r['planned_mb']:,.0f} | {r['measured_mb']:,.0f} | {error:+.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mlx", choices=("mlx", "torch"))
    parser.add_argument("--sizes", default="nano,micro,tiny,medium")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--large", action="store_true", help="the targets of size large instead: an hour of one core")
    parser.add_argument("--plan-again", action="store_true", help="measure nothing: plan the cases of memory.json anew")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(*json.loads(a.one))))
        return
    file = a.out / "memory.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    wanted = (
        [("large", stage, settings) for stage, settings, _ in LARGE]
        if a.large
        else [(size, *case) for size in a.sizes.split(",") for case in cases(size, a.backend)]
    )
    if a.plan_again:
        for r in rows:
            r.update(
                predict(
                    r["size"],
                    r["stage"],
                    r["settings"],
                    backends.load(r["backend"], "cpu"),
                    r["parts_mb"].get("process"),
                )
            )
        wanted = []
    for size, stage, settings in wanted:
        if stage not in a.stages.split(","):
            continue
        case = [a.backend, size, stage, settings]
        done = subprocess.run([sys.executable, __file__, "--one", json.dumps(case)], capture_output=True, text=True)
        if done.returncode:
            print(case, done.stderr.strip().splitlines()[-1:], file=sys.stderr, flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{row['planned_mb'] / row['measured_mb'] - 1:+.0%}", json.dumps(row), flush=True)
        # Read again: another call may have measured meanwhile.
        rows = json.loads(file.read_text()) if file.is_file() else []
        rows = [r for r in rows if [r[k] for k in ("backend", "size", "stage", "settings")] != case] + [row]
        file.write_text(json.dumps(rows, indent=1) + "\n")
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (a.out / "memory.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
