"""Predicted against measured peak memory: one step of every stage at every size, each in a fresh process.

    python benchmarks/memory.py [--backend mlx] [--sizes nano,micro,tiny,medium] [--stages ...] [--out benchmarks]

Weights are random and batches small, which changes no byte. MLX: mx.get_peak_memory. PyTorch on Linux: the kernel's
resident high-water mark less what is resident after a step of a toy model. Writes memory.json and memory.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from memory_fit import peak, reset

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import losses
from mlxrlhf.config import SIZES, FinetuneConfig, ModelConfig, PPOConfig, PretrainConfig, RewardConfig

STAGES = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "reward": RewardConfig, "ppo": PPOConfig}
#: what is small, by size: the optimizer steps of one PPO update see every phase
ROWS = {"nano": (8, 128), "micro": (8, 128), "tiny": (2, 64), "medium": (1, 64), "large": (1, 64), "xlarge": (1, 64)}
PROMPT = 30


def cases(size: str) -> list[tuple[str, dict]]:
    """Stage and settings: full and LoRA, with and without gradient checkpointing, and bfloat16."""
    rows, length = ROWS[size]
    lm = dict(batch_size=rows, sequence_length=length)
    rollout = dict(batch_size=2 * rows, mini_batch_size=rows, micro_batch_size=rows, ppo_epochs=1,
                   max_tokens=length // 2)
    found = []
    for stage, base in (("pretrain", lm), ("finetune", lm), ("ppo", rollout)):
        for rank in (0, 16):
            found += [(stage, {**base, "lora_rank": rank, "gradient_checkpointing": on}) for on in (False, True)]
    found.append(("pretrain", {**lm, "dtype": "bfloat16"}))
    small = {"dtype": "bfloat16", "optimizer_dtype": "bfloat16", "gradient_checkpointing": True}
    found.append(("pretrain", {**lm, **small}))
    found.append(("ppo", {**rollout, "dtype": "bfloat16", "lora_rank": 16}))
    found.append(("reward", dict(max_tokens=length // 4, batch_size=rows)))
    found.append(("reward", dict(max_tokens=length // 4, batch_size=rows, micro_batch_size=rows, unfreeze_rank=8)))
    return found


def run(backend, config, c: ModelConfig) -> None:
    """The step of a stage that its command would take, on random weights and tokens."""
    from mlxrlhf.stages import ppo as ppo_stage
    from mlxrlhf.stages import reward as reward_stage

    rng = np.random.default_rng(0)

    def tokens(*shape):
        return rng.integers(0, c.vocab_size, shape, dtype=np.int32)

    if isinstance(config, (PretrainConfig, FinetuneConfig)):
        model = backend.Model(c, dtype=config.dtype, weight_decay=0.1, lora_rank=config.lora_rank,
                              gradient_checkpointing=config.gradient_checkpointing,
                              optimizer_dtype=config.optimizer_dtype)
        mask = np.ones((config.batch_size, config.sequence_length - 1), np.float32)
        batch = {"tokens": tokens(config.batch_size, config.sequence_length), "start": np.int32(1), "mask": mask,
                 "total": np.float32(mask.sum())}
        if isinstance(config, FinetuneConfig):  # two documents to a row
            batch["segments"] = 1 + (np.arange(config.sequence_length) * 2 // config.sequence_length)[None, :].repeat(
                config.batch_size, 0).astype(np.int32)
        for _ in range(2):  # the moments are there from the first step on
            assert not model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-4)["skipped"]
    elif isinstance(config, RewardConfig):
        base = backend.Model(c, dtype=config.dtype, lora_rank=config.unfreeze_rank,
                             value_head=bool(config.unfreeze_rank))
        count = reward_stage.SAMPLED_TOGETHER
        prompts = tokens(count, PROMPT).tolist()
        answers = base.generate(prompts, uniforms=rng.random((count, config.max_tokens)), temperature=1.0,
                                max_tokens=config.max_tokens, stop_ids=[-1], pad_id=0)
        sequences = [p + a for p, a in zip(prompts, answers)]
        found = reward_stage.features(base, sequences, [PROMPT] * count, 0)
        head = backend.Head(c.hidden_size)
        head.step(config.loss, config.margin, found[:count // 2], found[count // 2:], 1e-3)
        if config.unfreeze_rank:
            pairs = [reward_stage.EncodedPair(a, b, "", PROMPT) for a, b in zip(sequences[::2], sequences[1::2])]
            reward_stage.unfreeze(base, pairs[:2 * config.batch_size], config, 0)
    else:
        policy = backend.Model(c, dtype=config.dtype, lora_rank=config.lora_rank, value_head=True,
                               gradient_checkpointing=config.gradient_checkpointing,
                               optimizer_dtype=config.optimizer_dtype)
        reference = policy if config.lora_rank else backend.Model(c, dtype=config.dtype)
        ppo = ppo_stage.PPO(config, policy, reference, lambda rows, responses, features: {
            "scores": features[:, 0]}, end_ids=[-1], pad_id=0)
        # bfloat16 rounds the two forwards apart by more than the check of the real command allows.
        ppo._check_first = lambda metrics: None
        ppo.update(tokens(config.batch_size, PROMPT).tolist(), rng, 1e-6)


def one(backend_name: str, size: str, stage: str, settings: dict) -> dict:
    """Measure in this process."""
    backend = backends.load(backend_name, "cpu")
    config = STAGES[stage](size=size, **settings)
    small = ModelConfig(64, 64, 1, 1, 1, 64)
    run(backend, config, small)
    gc.collect()
    before, began = reset(backend_name), time.monotonic()
    run(backend, config, SIZES[size])
    measured = peak(backend_name) - (0 if backend_name == "mlx" else before)
    planned = predict(backend_name, size, stage, settings)
    return {"backend": backend_name, "size": size, "stage": stage, "settings": settings, "phase": planned.phase,
            "predicted_mb": round(planned.peak / 1e6, 1), "measured_mb": round(measured / 1e6, 1),
            "error": round(planned.peak / measured - 1, 3), "seconds": round(time.monotonic() - began, 1)}


def predict(backend_name: str, size: str, stage: str, settings: dict) -> plan.Plan:
    config = STAGES[stage](size=size, **settings)
    answer = config.max_tokens if stage == "reward" else plan.ANSWER_TOKENS
    return plan.predict(plan.Job.of(config, SIZES[size], PROMPT, answer), backend_name)


def table(rows: list[dict]) -> str:
    lines = ["| backend | size | stage | settings | predicted MB | measured MB | error |",
             "|---|---|---|---|---:|---:|---:|"]
    for r in rows:
        said = [name for name, key in (("LoRA", "lora_rank"), ("LoRA", "unfreeze_rank"),
                                       ("checkpointing", "gradient_checkpointing")) if r["settings"].get(key)]
        said += [r["settings"][key] for key in ("dtype",) if key in r["settings"]]
        said += ["bfloat16 moments"] if "optimizer_dtype" in r["settings"] else []
        lines.append(f"| {r['backend']} | {r['size']} | {r['stage']} | {', '.join(said) or 'full'} | "
                     f"{r['predicted_mb']:,.0f} | {r['measured_mb']:,.0f} | {r['error']:+.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mlx", choices=("mlx", "torch"))
    parser.add_argument("--sizes", default="nano,micro,tiny,medium")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", default=str(Path(__file__).parent))
    parser.add_argument("--settings", default="", help="JSON of settings: measure this one case of each size and stage")
    parser.add_argument("--predict-again", action="store_true", help="only predict the cases of memory.json anew")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(one(*json.loads(a.one))))
        return
    file = Path(a.out) / "memory.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    if a.predict_again:
        for r in rows:
            planned = predict(r["backend"], r["size"], r["stage"], r["settings"])
            r.update(phase=planned.phase, predicted_mb=round(planned.peak / 1e6, 1),
                     error=round(planned.peak / 1e6 / r["measured_mb"] - 1, 3))
    else:
        for size in a.sizes.split(","):
            known = [(s, json.loads(a.settings)) for s in STAGES] if a.settings else cases(size)
            for stage, settings in known:
                if stage not in a.stages.split(",") or (a.backend == "torch" and "optimizer_dtype" in settings):
                    continue
                case = json.dumps([a.backend, size, stage, settings])
                done = subprocess.run([sys.executable, __file__, "--one", case], capture_output=True, text=True)
                if done.returncode:
                    print(size, stage, settings, done.stderr.strip().splitlines()[-1:], file=sys.stderr)
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                print(json.dumps(row), flush=True)
                same = [r for r in rows if all(r[k] == row[k] for k in ("backend", "size", "stage", "settings"))]
                rows = [r for r in rows if r not in same] + [row]
                file.write_text(json.dumps(rows, indent=1) + "\n")
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (Path(a.out) / "memory.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
