"""Hinge against Bradley-Terry, a frozen base against an unfrozen one: the reward model on the same preference pairs.

    python benchmarks/alignment/reward_model.py --model smollm2 --pairs 300 --out runs/reward_model

It prepares the data where it is missing, trains four reward models with `mlxrlhf reward`, and writes OUT/table.md,
OUT/figures.json and OUT/report.html with the calibration plots. Every run is a command that you can type yourself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from mlxrlhf import published, report

VARIANTS = {"hinge, frozen": ["--loss", "margin"],
            "Bradley-Terry, frozen": ["--loss", "bradley-terry"],
            "hinge, LoRA": ["--loss", "margin", "--unfreeze-rank", "{rank}"],
            "Bradley-Terry, LoRA": ["--loss", "bradley-terry", "--unfreeze-rank", "{rank}"]}
COLUMNS = (("accuracy", "val_accuracy", "{:.1%}"), ("correctness", "correctness", "{:.1%}"),
           ("calibration error", "calibration_error", "{:.3f}"),
           ("score/length r", "score_length_correlation", "{:+.2f}"), ("longer answer", "length_baseline", "{:.1%}"),
           ("token counts", "token_baseline", "{:.1%}"),
           ("token counts on correctness", "counting_correctness", "{:.1%}"), ("seconds", "seconds", "{:.0f}"))


def mlxrlhf(*arguments: str) -> None:
    """One command, its output on this screen; ends the benchmark when it fails."""
    print("$ mlxrlhf", " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "mlxrlhf_cli.main", *arguments], check=True)


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
    found = {}
    for name, flags in VARIANTS.items():
        folder = options.out / name.replace(", ", "-").lower()
        began = time.monotonic()
        mlxrlhf("reward", *shared, "--backend", options.backend, "--dtype", options.dtype, "--samples", "0",
                "--out", str(folder), *(flag.format(rank=options.rank) for flag in flags))
        figures = json.loads((folder / "run" / "summary.json").read_text())
        correctness = {title: figures[key].get("correctness", float("nan"))
                       for title, key in (("correctness", "val_accuracy_by_criterion"),
                                          ("counting_correctness", "token_baseline_by_criterion"))}
        found[name] = {**figures, **correctness, "seconds": time.monotonic() - began}
    lines = ["| reward model | " + " | ".join(title for title, *_ in COLUMNS) + " |",
             "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(form.format(figures[key]) for _, key, form in COLUMNS) + " |"
              for name, figures in found.items()]
    table = "\n".join(lines)
    (options.out / "table.md").write_text(table + "\n")
    (options.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
    report.page(options.out / "report.html", "Reward models", "<h1>Reward models</h1>" + "".join(
        f"<h2>{name}</h2>{report.reward_section(figures)}" for name, figures in found.items()))
    first = next(iter(found.values()))
    print(f"\n{first['pairs']:,} training and {first['val_pairs']:,} held-out pairs\n\n{table}")


if __name__ == "__main__":
    main()
