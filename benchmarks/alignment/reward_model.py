"""Hinge against Bradley-Terry, a frozen base against an unfrozen one: the reward model on the same preference pairs.

    python benchmarks/alignment/reward_model.py --model smollm2 --pairs 300 --out runs/reward_model

It prepares the data where it is missing, trains four reward models with `mlxrlhf reward`, and writes
OUT/reward_model.md, .json, .svg and .html: a table, accuracy by criterion, and how often an answer was preferred that
was given a chance of 10, 20, ... per cent. What is in the .json is not run again. Every run is a command that you can
type yourself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from command import mlxrlhf

from mlxrlhf.models import published
from mlxrlhf.report import page, reward_section

VARIANTS = {
    "hinge, frozen": ["--loss", "margin"],
    "Bradley-Terry, frozen": ["--loss", "bradley-terry"],
    "hinge, LoRA": ["--loss", "margin", "--unfreeze-rank", "{rank}"],
    "Bradley-Terry, LoRA": ["--loss", "bradley-terry", "--unfreeze-rank", "{rank}"],
}
COLUMNS = (
    ("accuracy", "val_accuracy", "{:.1%}"),
    ("correctness", "correctness", "{:.1%}"),
    ("calibration error", "calibration_error", "{:.3f}"),
    ("score/length r", "score_length_correlation", "{:+.2f}"),
    ("longer answer", "length_baseline", "{:.1%}"),
    ("token counts", "token_baseline", "{:.1%}"),
    ("token counts on correctness", "counting_correctness", "{:.1%}"),
    ("seconds", "seconds", "{:.0f}"),
)


def plot(found: dict[str, dict], file: Path) -> None:
    """Calibration of every variant, and its accuracy by criterion beside counting tokens."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(1, 1.7))
    colours = dict(zip(found, ("#8aa7e0", "#1d4fbf", "#eebb88", "#c05f10")))
    for name, figures in found.items():
        bins = [b for b in figures["calibration"] if b["count"]]
        axes[0].plot(
            [b["predicted"] for b in bins],
            [b["observed"] for b in bins],
            "o-",
            color=colours[name],
            markersize=4,
            label=f"{name}: error {figures['calibration_error']:.2f}",
        )
    axes[0].plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle="--")
    axes[0].set_xlabel("chance given to one answer of a pair, by the score", fontsize=8)
    axes[0].set_ylabel("how often it was the chosen one", fontsize=8)
    axes[0].set_title("Calibration on held-out pairs", fontsize=9)
    axes[0].legend(fontsize=7)
    first = next(iter(found.values()))
    names = ["all", *first["val_accuracy_by_criterion"]]
    bars = {name: [f["val_accuracy"], *f["val_accuracy_by_criterion"].values()] for name, f in found.items()}
    bars["counting tokens"] = [first["token_baseline"], *first["token_baseline_by_criterion"].values()]
    for i, (name, heights) in enumerate(bars.items()):
        axes[1].bar(
            np.arange(len(names)) + 0.16 * (i - 2), heights, 0.15, label=name, color=colours.get(name, "#bbbbbb")
        )
    axes[1].axhline(0.5, color="#777777", linewidth=0.8, linestyle="--")
    axes[1].set_xticks(range(len(names)), names)
    axes[1].set_ylim(0, 1.28)
    axes[1].set_title("Accuracy by criterion", fontsize=9)
    axes[1].legend(fontsize=7, ncols=3, loc="upper center")
    for axis in axes:
        axis.tick_params(labelsize=8)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--sources", default="tasks")
    parser.add_argument("--rank", default="8")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/reward_model"))
    options = parser.parse_args()
    data = options.out / "data"
    shared = ["--model", options.model, "--data-dir", str(data), "--seed", options.seed]
    if not (data / published.label(options.model) / "rlhf_preferences.json").is_file():
        mlxrlhf("prepare", "tokenizer", *shared)
        mlxrlhf("prepare", "preferences", *shared, "--pairs", str(options.pairs), "--sources", options.sources)
    file = options.out / "reward_model.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for name, flags in VARIANTS.items():
        if name in found:
            continue
        folder = options.out / name.replace(", ", "-").lower()
        minutes = mlxrlhf(
            "reward",
            *shared,
            "--backend",
            options.backend,
            "--dtype",
            options.dtype,
            "--samples",
            "0",
            "--out",
            str(folder),
            *(flag.format(rank=options.rank) for flag in flags),
        )
        figures = json.loads((folder / "run" / "summary.json").read_text())
        correctness = {
            title: figures[key].get("correctness", float("nan"))
            for title, key in (
                ("correctness", "val_accuracy_by_criterion"),
                ("counting_correctness", "token_baseline_by_criterion"),
            )
        }
        found[name] = {**figures, **correctness, "seconds": 60 * minutes}
        file.write_text(json.dumps(found, indent=1) + "\n")
    lines = ["| reward model | " + " | ".join(title for title, *_ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(form.format(figures[key]) for _, key, form in COLUMNS) + " |"
        for name, figures in found.items()
    ]
    table = "\n".join(lines)
    (options.out / "reward_model.md").write_text(table + "\n")
    plot(found, options.out / "reward_model.svg")
    page(
        options.out / "reward_model.html",
        "Reward models",
        "<h1>Reward models</h1>"
        + "".join(f"<h2>{name}</h2>{reward_section(figures)}" for name, figures in found.items()),
    )
    first = next(iter(found.values()))
    print(f"\n{first['pairs']:,} training and {first['val_pairs']:,} held-out pairs\n\n{table}")


if __name__ == "__main__":
    main()
