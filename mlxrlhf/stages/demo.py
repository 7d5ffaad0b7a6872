"""Every stage at one size, in order, and what changed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from mlxrlhf import report
from mlxrlhf.checkpoint import atomic_text
from mlxrlhf.config import (
    DEMO,
    EvaluateConfig,
    FinetuneConfig,
    PPOConfig,
    PrepareConfig,
    PretrainConfig,
    RewardConfig,
)
from mlxrlhf.stages import evaluate, finetune, folders, ppo, prepare, pretrain, reward


def run(size: str = "nano", backend: str = "mlx", device: str = "", say=print) -> dict:
    """Run all stages, write runs/demo/summary.json and report.html, and return the summary."""
    began = time.monotonic()
    summary: dict = {}
    prepare.run("all", PrepareConfig(size=size, **DEMO["prepare"]), say)
    summary["prepare"] = {"seconds": time.monotonic() - began}
    steps = (("pretrain", "language", pretrain.run, PretrainConfig()),
             ("code", "code", finetune.run, FinetuneConfig(stage="code")),
             ("tools", "tools", finetune.run, FinetuneConfig(stage="tools")),
             ("reward", "reward", reward.run, RewardConfig()),
             ("ppo", "rlhf", ppo.run, PPOConfig()),
             ("evaluate", "", evaluate.run, EvaluateConfig()))
    for name, _, stage, config in steps:
        started = time.monotonic()
        say(f"— {name}")
        figures = stage(replace(config, size=size, backend=backend, device=device, **DEMO[name]))
        summary[name] = {**figures, "seconds": time.monotonic() - started}
    summary = {"seconds": time.monotonic() - began, **summary}
    folder = Path("runs") / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    samples = json.loads((folders.weights(size, "rlhf") / "evaluation" / "samples.json").read_text())
    runs = [(name, folders.weights(size, stage) / "run") for name, stage, *_ in steps if stage]
    page = report.demo_report(folder, runs, summary, samples)
    compared = report.figures_rows(summary["evaluate"]["before"], summary["evaluate"]["after"])
    for measure, before, after in [("", "before", "after"), *compared]:
        say(f"{measure:22}{before:>10}{after:>10}")
    p = summary["ppo"]
    say(f"PPO reward: {p['reward_first10']:.2f} ± {p['reward_first10_std']:.2f} in the first ten updates, "
        f"{p['reward_last10']:.2f} ± {p['reward_last10_std']:.2f} in the last ten; KL {p['kl_last']:.1f} nats")
    for sample in samples:
        if sample["prompt"] == evaluate.SHOWN:
            say(f"\n{sample['prompt']}\n\nbefore:\n{sample['before']}\n\nafter:\n{sample['after']}\n")
            break
    say(f"{summary['seconds'] / 60:.1f} minutes; report: {page}; chat with it: mlxrlhf chat --size {size}")
    return summary
