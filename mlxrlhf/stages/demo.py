"""Reward model, PPO and their evaluation on the shipped model; or every stage at one size, in order. What changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mlxrlhf.config import (
    DEMO,
    DEMO_FROM_SCRATCH,
    EvaluateConfig,
    FinetuneConfig,
    PPOConfig,
    PrepareConfig,
    PretrainConfig,
    RewardConfig,
)
from mlxrlhf.files import atomic_text
from mlxrlhf.models import folders
from mlxrlhf.report.page import HEADINGS, demo_report, figures_rows
from mlxrlhf.stages import evaluate, finetune, ppo, prepare, pretrain, reward
from mlxrlhf.workspace import under_root

#: name in DEMO, the folder that a step writes under weights/, what is run, its defaults
Step = tuple[str, str, Callable[[Any], dict[str, Any]], Any]

TRAINING: tuple[Step, ...] = (
    ("pretrain", "language", pretrain.run, PretrainConfig()),
    ("code", "code", finetune.run, FinetuneConfig(stage="code")),
    ("tools", "tools", finetune.run, FinetuneConfig(stage="tools")),
)
ALIGNMENT: tuple[Step, ...] = (
    ("reward", "reward", reward.run, RewardConfig()),
    ("ppo", "rlhf", ppo.run, PPOConfig()),
    ("evaluate", "", evaluate.run, EvaluateConfig()),
)


def run(size: str = "", backend: str = "mlx", device: str = "", say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the stages from random weights at `size`, or the last three on the shipped model where it is "".

    Writes runs/demo/summary.json and report.html, and returns the summary.
    """
    began = time.monotonic()
    summary: dict[str, Any] = {}
    chosen: dict[str, Any] = {"size": size} if size else {"model": "shipped"}
    steps = (*TRAINING, *ALIGNMENT) if size else ALIGNMENT
    settings = DEMO_FROM_SCRATCH if size else DEMO
    for part in ("all",) if size else ("tokenizer", "preferences"):
        prepare.run(part, PrepareConfig(**chosen, **settings["prepare"]), say)
    summary["prepare"] = {"seconds": time.monotonic() - began}
    for name, _, stage, config in steps:
        started = time.monotonic()
        say(f"— {name}")
        # A demo that was interrupted begins again.
        config = replace(config, backend=backend, device=device, restart=True, **chosen, **settings[name])
        figures = stage(config)
        summary[name] = {**figures, "seconds": time.monotonic() - started}
    summary = {"seconds": time.monotonic() - began, **summary}
    _report(summary, steps, size or "shipped", say)
    return summary


def _report(summary: dict[str, Any], steps: Sequence[Step], label: str, say: Callable[[str], None]) -> None:
    """Write runs/demo and say what changed. label: what the run's folders under weights/ are called."""
    folder = under_root("runs") / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    aligned = folders.weights(label, "rlhf")
    samples = json.loads((aligned / "evaluation" / "samples.json").read_text(encoding="utf-8"))
    runs = [(name, folders.weights(label, stage) / "run") for name, stage, *_ in steps if stage]
    page = demo_report(folder, runs, summary, samples)
    for row in [HEADINGS, *figures_rows(summary["evaluate"])]:
        say("{:22}{:>10}{:>10}{:>18}".format(*row))
    say("change: with its 95% interval, paired over the prompts; * beyond noise")
    p = summary["ppo"]
    say(
        f"PPO reward: {p['reward_first10']:.2f} ± {p['reward_first10_std']:.2f} in the first ten updates, "
        f"{p['reward_last10']:.2f} ± {p['reward_last10_std']:.2f} in the last ten; KL {p['kl_last']:.1f} nats"
    )
    if shown := next((sample for sample in samples if sample["prompt"] == evaluate.SHOWN), None):
        say(f"\n{shown['prompt']}\n\nbefore:\n{shown['before']}\n\nafter:\n{shown['after']}\n")
    minutes = summary["seconds"] / 60
    say(f"{minutes:.1f} minutes; report: {page}; chat with it: mlxrlhf chat --model {aligned}")
