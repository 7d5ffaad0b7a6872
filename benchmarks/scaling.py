"""How the time of a step grows with batch, length and parameters: measured on both backends, with fitted exponents.

    .venv-bench/bin/python benchmarks/scaling.py [--backends torch,mlx] [--repeat 3]

A step is one full fine-tuning step, forward, backward and AdamW, in float32 on the CPU. One quantity grows, the others
stay: 4 rows of 128 tokens, size nano. Every size runs in a fresh process. Writes scaling.json and scaling.svg beside
this file. Exponents are least-squares slopes of log time against log quantity: 1 is linear.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
from speed import make_checkpoint, run

from mlxrlhf import plan
from mlxrlhf.config import SIZES

HERE = Path(__file__).parent
ROWS, LENGTH = 4, 128
#: what grows: its name, unit and values
GROWING = {
    "batch": ("rows", (1, 2, 4, 8, 16, 32)),
    "length": ("tokens to a row", (32, 64, 128, 256, 512, 1_024)),
    "parameters": ("weights", ("nano", "micro", "small", "tiny")),
}
SHAPES = {
    **SIZES,
    "small": dataclasses.replace(
        SIZES["micro"], vocab_size=16_384, hidden_size=512, num_heads=8, num_kv_heads=2, intermediate_size=1_664
    ),
}


def step(backend: str, shape: str, rows: int, length: int, repeat: int, folder: Path) -> dict:
    """Median seconds of a step (ours.py), with the operations it takes."""
    c = SHAPES[shape]
    if not (folder / shape).is_dir():
        make_checkpoint(dataclasses.asdict(c), folder / shape)
    found = run(
        [
            str(HERE / "ours.py"),
            str(folder / shape),
            "step",
            backend,
            "--rows",
            str(rows),
            "--length",
            str(length),
            "--repeat",
            str(repeat),
        ],
        {},
    )
    passes, _ = plan.operations(plan.Job(c, "float32", train=plan.Batch(rows, length, length - 1)))
    return {"seconds": rows * (length - 1) / found["rate"], "operations": passes, "weights": c.parameters()}


def exponent(x: list[float], y: list[float]) -> float:
    """Least-squares slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot(found: dict, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axis, (name, (unit, _)) in zip(axes, GROWING.items()):
        for backend, colour in (("torch", "#3366cc"), ("mlx", "#dd8833")):
            if backend not in found:
                continue
            f = found[backend][name]
            axis.loglog(
                f["x"],
                f["seconds"],
                "o-",
                color=colour,
                markersize=4,
                label=f"{backend}: exponent {f['exponent']:.2f}, last half {f['exponent_end']:.2f}",
            )
        axis.set_xlabel(unit, fontsize=8)
        axis.set_title(f"Time per step against {name}", fontsize=9)
        axis.legend(fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds", fontsize=8)
    figure.savefig(file)


def measure(backends: list[str], repeat: int, folder: Path) -> dict:
    """Times, operations and exponents by backend and by what grows."""
    found: dict[str, dict] = {}
    for backend in backends:
        for name, (_, values) in GROWING.items():
            rows = []
            for value in values:
                settings = {
                    "batch": ("nano", value, LENGTH),
                    "length": ("nano", ROWS, value),
                    "parameters": (value, ROWS, LENGTH),
                }[name]
                rows.append(step(backend, *settings, repeat, folder))
                print(backend, name, value, f"{rows[-1]['seconds']:.3f} s", flush=True)
            x = [r["weights"] for r in rows] if name == "parameters" else list(values)
            taken, half = [r["seconds"] for r in rows], len(rows) // 2
            found.setdefault(backend, {})[name] = {
                "x": x,
                "seconds": taken,
                "operations": [r["operations"] for r in rows],
                "exponent": exponent(x, taken),
                "exponent_end": exponent(x[half:], taken[half:]),
                "exponent_of_operations": exponent(x, [r["operations"] for r in rows]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="torch,mlx")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(a.backends.split(","), a.repeat, Path(temporary))
    (a.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, a.out / "scaling.svg")


if __name__ == "__main__":
    main()
