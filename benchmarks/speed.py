"""Ours against the libraries people would use instead: the same work, in turn, each run in a fresh process.

    make bench        or: .venv-bench/bin/python benchmarks/speed.py [--pairs 5] [--only ppo]

Writes speed.json, speed.svg and speed.md beside this file. A pair is one run of ours and one of the peer, right after
each other; the order alternates. What counts is the ratio inside a pair: the speed of a shared machine drifts, but less
between two neighbours.
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
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SMALL = dict(vocab_size=4_096, hidden_size=256, num_layers=6, num_heads=4, num_kv_heads=4, intermediate_size=688)
#: the shape of SmolLM2-135M; speed does not depend on what the weights are
SMOLLM2 = dict(vocab_size=49_152, hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, intermediate_size=1_536)
LORA = ["--batch", "8", "--prompt", "64", "--lora"]
TRL, TRANSFORMERS, MLX_LM = "trl_ppo.py", "transformers_loop.py", "mlx_lm_loop.py"
#: title, shape, backend and arguments of ours, script and arguments of the peer's, its name, unit
COMPARISONS = [
    ("PPO, every weight, 5.8M", SMALL, "torch", ["ppo"], TRL, [], "TRL", "episodes/s"),
    ("PPO, every weight, 5.8M", SMALL, "mlx", ["ppo"], TRL, [], "TRL", "episodes/s"),
    ("PPO, LoRA, 135M", SMOLLM2, "torch", ["ppo", *LORA, "--repeat", "1"], TRL, [*LORA, "--updates", "2"], "TRL + PEFT",
     "episodes/s"),
    ("PPO, LoRA, 135M", SMOLLM2, "mlx", ["ppo", *LORA, "--repeat", "1"], TRL, [*LORA, "--updates", "2"], "TRL + PEFT",
     "episodes/s"),
    ("Rollout, 5.8M", SMALL, "torch", ["generate"], TRANSFORMERS, ["generate"], "transformers generate", "tokens/s"),
    ("Rollout, 5.8M", SMALL, "torch", ["generate"], MLX_LM, ["generate"], "mlx-lm BatchGenerator", "tokens/s"),
    ("Rollout, 5.8M", SMALL, "mlx", ["generate"], MLX_LM, ["generate"], "mlx-lm BatchGenerator", "tokens/s"),
    ("Training step, 5.8M", SMALL, "torch", ["step"], TRANSFORMERS, ["step"], "transformers on torch", "tokens/s"),
    ("Training step, 5.8M", SMALL, "torch", ["step"], MLX_LM, ["step"], "mlx-lm", "tokens/s"),
    ("Training step, 5.8M", SMALL, "mlx", ["step"], MLX_LM, ["step"], "mlx-lm", "tokens/s"),
]


def make_checkpoint(shape: dict, folder: Path) -> None:
    """Random weights in the Hugging Face layout, which every side reads."""
    from mlxrlhf import backends
    from mlxrlhf.config import ModelConfig

    folder.mkdir()
    backends.load("torch", "cpu").Model(ModelConfig(**shape)).save(folder, pad_id=shape["vocab_size"] - 3,
                                                                  end_id=shape["vocab_size"] - 2)


def blas() -> dict[str, str]:
    """mlx-lm gets the BLAS that mlxrlhf loads for itself on Linux."""
    if sys.platform != "linux":
        return {}
    from mlxrlhf.backends.mlx.blas import _renamed_copy

    return {"LD_PRELOAD": str(_renamed_copy())}


def run(arguments: list[str], extra: dict[str, str]) -> dict:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **extra})
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(title, shape, backend, ours, script, theirs, peer, unit, folder: Path, pairs: int) -> dict:
    sides: dict[str, list[dict]] = {"ours": [], "peer": []}
    for i in range(pairs):
        for side in ("ours", "peer") if i % 2 == 0 else ("peer", "ours"):
            if side == "ours":
                what, *rest = ours
                sides[side].append(run([str(HERE / "ours.py"), str(folder), what, backend, *rest], {}))
            else:
                extra = blas() if script == MLX_LM else {}
                sides[side].append(run([str(HERE / "peers" / script), str(folder), *theirs], extra))
    ratios = [a["rate"] / b["rate"] for a, b in zip(sides["ours"], sides["peer"])]
    memory = [a["peak_rss_gb"] / b["peak_rss_gb"] for a, b in zip(sides["ours"], sides["peer"])]

    def median(side: str, key: str) -> float:
        return round(float(np.median([r[key] for r in sides[side]])), 3)

    return {"title": title, "backend": backend, "peer": peer, "unit": unit, "pairs": pairs,
            "ours": median("ours", "rate"), "theirs": median("peer", "rate"),
            "ratio": round(float(np.median(ratios)), 2), "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2), "ours_rss_gb": median("ours", "peak_rss_gb"),
            "theirs_rss_gb": median("peer", "peak_rss_gb"), "rss_ratio": round(float(np.median(memory)), 2)}


def machine() -> dict:
    names = ("mlx", "mlx-lm", "torch", "transformers", "trl", "peft")
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"platform": platform.platform(), "processor": model or platform.processor(), "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average_at_start": [round(x, 2) for x in os.getloadavg()],
            "versions": {name: importlib.metadata.version(name) for name in names}}


def table(results: list[dict]) -> str:
    lines = ["| work | ours on | ours | peer | theirs | ours / theirs (spread) | memory, ours / theirs |",
             "|---|---|---:|---|---:|---:|---:|"]
    for r in results:
        spread = f"**{r['ratio']:.2f}** ({r['ratio_min']:.2f}-{r['ratio_max']:.2f})"
        memory = f"{r['ours_rss_gb']:.2f} / {r['theirs_rss_gb']:.2f} GB = {r['rss_ratio']:.2f}"
        lines.append(f"| {r['title']} | {r['backend']} | {r['ours']:,.4g} {r['unit']} | {r['peer']} | "
                     f"{r['theirs']:,.4g} | {spread} | {memory} |")
    return "\n".join(lines) + "\n"


def plot(results: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.5 * len(results) + 1.2), layout="constrained")
    labels = [f"{r['title']}\n{r['backend']} against {r['peer']}" for r in results]
    ratios = np.array([r["ratio"] for r in results])
    spread = [[r["ratio"] - r["ratio_min"] for r in results], [r["ratio_max"] - r["ratio"] for r in results]]
    axes.barh(labels, ratios, xerr=spread, color=["#3366cc" if r["backend"] == "torch" else "#dd8833" for r in results],
              error_kw={"ecolor": "#555555", "capsize": 3})
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("speed, ours / theirs (bar: median of pairs; line: smallest to largest)")
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a title, backend or peer")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    described, results = machine(), []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {}
        for comparison in COMPARISONS:
            title, shape, backend, *_, peer, _ = comparison
            if a.only.lower() not in f"{title} {backend} {peer}".lower():
                continue
            name = str(shape["hidden_size"])
            if name not in folders:
                folders[name] = Path(temporary) / name
                make_checkpoint(shape, folders[name])
            results.append(compare(*comparison, folders[name], a.pairs))
            print(json.dumps(results[-1]), flush=True)
    (a.out / "speed.json").write_text(json.dumps({"machine": described, "results": results}, indent=1) + "\n")
    (a.out / "speed.md").write_text(table(results))
    plot(results, a.out / "speed.svg")
    print(table(results))


if __name__ == "__main__":
    main()
