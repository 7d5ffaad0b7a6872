"""Ours against the libraries people would use instead: the same work, in turn, each run in a fresh process.

    make bench        or: .venv-bench/bin/python benchmarks/speed.py [--rounds 5] [--only ppo]

Writes speed.json, speed.svg and speed.md beside this file; what an earlier call measured and this one does not is kept.
A round is one run of the peer and one of each of our backends, right after each other; every round starts with another.
What counts is the ratio inside a round: the speed of a shared machine drifts, but less between neighbours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
NANO = dict(vocab_size=4_096, hidden_size=192, num_layers=4, num_heads=3, num_kv_heads=1, intermediate_size=512)
SMALL = dict(vocab_size=4_096, hidden_size=256, num_layers=6, num_heads=4, num_kv_heads=4, intermediate_size=688)
#: the shape of SmolLM2-135M; speed does not depend on what the weights are
SMOLLM2 = dict(vocab_size=49_152, hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1_536)
LORA = ("--batch", "8", "--prompt", "64", "--lora")
STEP = ("step", "--rows", "1", "--repeat", "2")
OURS, TRL, TRANSFORMERS, MLX_LM = "ours.py", "peers/trl_ppo.py", "peers/transformers_loop.py", "peers/mlx_lm_loop.py"


@dataclass(frozen=True)
class Comparison:
    """One piece of work: our backends that do it with `arguments`, and the peer's script with its own."""

    title: str
    unit: str
    shape: dict
    backends: tuple[str, ...]
    arguments: tuple[str, ...]
    peer: str
    script: str
    theirs: tuple[str, ...]


BOTH = ("torch", "mlx")
COMPARISONS = [
    Comparison("PPO, every weight, 5.8M", "episodes/s", SMALL, BOTH, ("ppo",), "TRL", TRL, ()),
    Comparison(
        "PPO, LoRA, 135M",
        "episodes/s",
        SMOLLM2,
        BOTH,
        ("ppo", *LORA, "--repeat", "1"),
        "TRL + PEFT",
        TRL,
        (*LORA, "--updates", "2"),
    ),
    Comparison(
        "Rollout, 5.8M",
        "tokens/s",
        SMALL,
        ("torch",),
        ("generate",),
        "transformers generate",
        TRANSFORMERS,
        ("generate",),
    ),
    Comparison("Rollout, 5.8M", "tokens/s", SMALL, BOTH, ("generate",), "mlx-lm BatchGenerator", MLX_LM, ("generate",)),
    Comparison(
        "Training step, 5.8M",
        "tokens/s",
        SMALL,
        ("torch",),
        ("step",),
        "transformers on torch",
        TRANSFORMERS,
        ("step",),
    ),
    Comparison("Training step, 5.8M", "tokens/s", SMALL, BOTH, ("step",), "mlx-lm", MLX_LM, ("step",)),
    Comparison(
        "Training step, 135M", "tokens/s", SMOLLM2, ("torch",), STEP, "transformers on torch", TRANSFORMERS, STEP
    ),
    Comparison("Training step, 135M", "tokens/s", SMOLLM2, BOTH, STEP, "mlx-lm", MLX_LM, STEP),
    Comparison(
        "Reward head, 2,000 pairs, 2.4M",
        "pairs/s",
        NANO,
        BOTH,
        ("reward", "--repeat", "0"),
        "the base in every epoch, transformers",
        TRANSFORMERS,
        ("reward", "--repeat", "0"),
    ),
    # Not a peer: what the other precision is worth here.
    *(
        Comparison(
            f"{title}, bfloat16",
            unit,
            shape,
            ("torch",),
            (*arguments, "--dtype", "bfloat16"),
            "ours in float32",
            OURS,
            (arguments[0], "torch", *arguments[1:]),
        )
        for title, unit, shape, arguments in (
            ("PPO, every weight, 5.8M", "episodes/s", SMALL, ("ppo",)),
            ("PPO, LoRA, 135M", "episodes/s", SMOLLM2, ("ppo", *LORA, "--repeat", "1")),
            ("Rollout, 5.8M", "tokens/s", SMALL, ("generate",)),
            ("Training step, 135M", "tokens/s", SMOLLM2, STEP),
        )
    ),
]


def make_checkpoint(shape: dict, folder: Path) -> None:
    """Random weights in the Hugging Face layout, which every side reads."""
    from mlxrlhf import backends
    from mlxrlhf.config import ModelConfig

    folder.mkdir()
    backends.load("torch", "cpu").Model(ModelConfig(**shape)).save(
        folder, pad_id=shape["vocab_size"] - 3, end_id=shape["vocab_size"] - 2
    )


def blas() -> dict[str, str]:
    """mlx-lm gets the BLAS that mlxrlhf loads for itself on Linux."""
    if sys.platform != "linux":
        return {}
    from mlxrlhf.backends.mlx.blas import _renamed_copy

    return {"LD_PRELOAD": str(_renamed_copy())}


def run(arguments: list[str], extra: dict[str, str]) -> dict:
    """The JSON line that a Python script prints last, in a process of its own; extra: its environment beside ours."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **extra})
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(c: Comparison, folder: Path, rounds: int) -> list[dict]:
    """Medians and ratios of each of our backends against the peer."""
    commands = {
        backend: ([str(HERE / OURS), str(folder), c.arguments[0], backend, *c.arguments[1:]], {})
        for backend in c.backends
    }
    commands["peer"] = ([str(HERE / c.script), str(folder), *c.theirs], blas() if c.script == MLX_LM else {})
    sides = list(commands)
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for i in range(rounds):
        for side in sides[i % len(sides) :] + sides[: i % len(sides)]:
            runs[side].append(run(*commands[side]))

    def median(side: str, key: str) -> float:
        return round(float(np.median([r[key] for r in runs[side]])), 3)

    results = []
    for backend in c.backends:
        pairs = list(zip(runs[backend], runs["peer"]))
        ratios = [ours["rate"] / theirs["rate"] for ours, theirs in pairs]
        results.append(
            {
                "title": c.title,
                "backend": backend,
                "peer": c.peer,
                "unit": c.unit,
                "rounds": rounds,
                "ours": median(backend, "rate"),
                "theirs": median("peer", "rate"),
                "ratio": round(float(np.median(ratios)), 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
                "ours_rss_gb": median(backend, "peak_rss_gb"),
                "theirs_rss_gb": median("peer", "peak_rss_gb"),
                "rss_ratio": round(float(np.median([o["peak_rss_gb"] / t["peak_rss_gb"] for o, t in pairs])), 2),
                "of_floor": round(float(np.median([r["floor_rate"] / r["rate"] for r in runs[backend]])), 2),
            }
        )
    return results


def machine() -> dict:
    names = ("mlx", "mlx-lm", "torch", "transformers", "trl", "peft")
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    import torch

    return {
        "platform": platform.platform(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "load_average_at_start": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def table(results: list[dict]) -> str:
    lines = [
        "| work | ours on | ours | peer | theirs | ours / theirs (spread) | memory, ours / theirs | time/floor |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for r in results:
        spread = f"**{r['ratio']:.2f}** ({r['ratio_min']:.2f}-{r['ratio_max']:.2f})"
        memory = f"{r['ours_rss_gb']:.2f} / {r['theirs_rss_gb']:.2f} GB = {r['rss_ratio']:.2f}"
        lines.append(
            f"| {r['title']} | {r['backend']} | {r['ours']:,.4g} {r['unit']} | {r['peer']} | "
            f"{r['theirs']:,.4g} | {spread} | {memory} | {r['of_floor']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.5 * len(results) + 1.2), layout="constrained")
    labels = [f"{r['title']}\n{r['backend']} against {r['peer']}" for r in results]
    ratios = np.array([r["ratio"] for r in results])
    spread = [[r["ratio"] - r["ratio_min"] for r in results], [r["ratio_max"] - r["ratio"] for r in results]]
    axes.barh(
        labels,
        ratios,
        xerr=spread,
        color=["#3366cc" if r["backend"] == "torch" else "#dd8833" for r in results],
        error_kw={"ecolor": "#555555", "capsize": 3},
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("speed, ours / theirs (bar: median of pairs; line: smallest to largest)")
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a title or peer")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    a.out.mkdir(exist_ok=True)
    file, results = a.out / "speed.json", {}
    if file.is_file():
        results = {(r["title"], r["backend"], r["peer"]): r for r in json.loads(file.read_text())["results"]}
    chosen = [c for c in COMPARISONS if a.only.lower() in f"{c.title} {c.peer}".lower()]
    if not chosen:
        parser.error(f"--only {a.only}: no title or peer contains it")
    described = machine()
    with tempfile.TemporaryDirectory() as temporary:
        for c in chosen:
            folder = Path(temporary) / str(c.shape["hidden_size"])
            if not folder.is_dir():
                make_checkpoint(c.shape, folder)
            for result in measure(c, folder, a.rounds):
                results[result["title"], result["backend"], result["peer"]] = result
                print(json.dumps(result), flush=True)
            order = [(c.title, backend, c.peer) for c in COMPARISONS for backend in c.backends]
            found = [results[key] for key in order if key in results]
            file.write_text(json.dumps({"machine": described, "results": found}, indent=1) + "\n")
            (a.out / "speed.md").write_text(table(found))
            plot([r for r in found if r["peer"] != "ours in float32"], a.out / "speed.svg")
    print(table(found))


if __name__ == "__main__":
    main()
