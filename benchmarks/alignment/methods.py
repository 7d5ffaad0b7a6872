"""PPO, GRPO and DPO over seeds beside best-of-8 and fine-tuning on the chosen answers: one start, one judge.

    .venv-bench/bin/python benchmarks/alignment/methods.py --model smollm2 --out runs/methods

Prepares data and reward model where they are missing, trains every method with the settings below, evaluates each
against the start, and writes methods_MODEL.md, .json and .svg into OUT. What is there is not run again, so an
interrupted benchmark goes on. Every run is a command that you can type yourself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from command import mlxrlhf

from mlxrlhf.models import published
from mlxrlhf.report.runlog import read_metrics

LORA = ["--lora-rank", "16"]
SAMPLED = ["--temp", "0.7", "--max-tokens", "128"]
#: longer than in training, so that no answer of the start loses for want of room
JUDGED = ["--temp", "0.7", "--max-tokens", "256"]
#: 24 updates of 32 answers under the same KL limit, for PPO and GRPO
POLICY = [
    *LORA,
    *SAMPLED,
    "--steps-per-epoch",
    "24",
    "--ppo-epochs",
    "2",
    "--mini-batch-size",
    "16",
    "--learning-rate",
    "5e-4",
    "--kl-target",
    "15",
    "--save-every",
    "4",
]
PPO = [
    "ppo",
    *POLICY,
    "--batch-size",
    "16",
    "--responses-per-prompt",
    "2",
    "--kl-coef",
    "0.05",
    "--gamma",
    "1.0",
    "--lam",
    "1.0",
]
GRPO = ["grpo", *POLICY, "--batch-size", "8", "--responses-per-prompt", "4", "--kl-coef", "0.05"]
DPO = ["dpo", *LORA, "--learning-rate", "1e-4"]
SEEDED = {"DPO": DPO, "GRPO": GRPO, "PPO": PPO}
#: name: the command that trains it, without what all share; best-of trains nothing
METHODS = {
    "best-of-8": [],
    "fine-tuning on chosen": [
        "finetune",
        "--stage",
        "code",
        *LORA,
        "--data",
        "{chosen}",
        "--steps-per-epoch",
        "60",
        "--batch-size",
        "8",
        "--sequence-length",
        "256",
        "--learning-rate",
        "3e-4",
        "--warmup-steps",
        "10",
    ],
    **{
        f"{name}, seed {seed}": [*command, "--seed", str(seed)] for name, command in SEEDED.items() for seed in range(3)
    },
}
COLUMNS = (
    ("win rate, reward model", "win_rate", "{:.0%}"),
    ("win rate, verified", "verified_win_rate", "{:.0%}"),
    ("reward", "score", "{:.2f}"),
    ("passes tests", "passes_tests", "{:.0%}"),
    ("parses", "parses", "{:.0%}"),
    ("docstring", "docstring", "{:.0%}"),
    ("type hints", "type_hints", "{:.0%}"),
    ("KL, nats", "kl", "{:.1f}"),
    ("tokens", "length", "{:.0f}"),
)

CURVES = {"objective/scores": "Reward of the answers sampled", "objective/kl": "KL from the start, nats per answer"}


def chosen_answers(pairs: Path, out: Path) -> None:
    """The preferred answers of the training pairs, as fine-tuning reads them."""
    rows = [row for row in json.loads(pairs.read_text()) if row["split"] == "train"]
    unique = {(row["prompt"], row["chosen"]) for row in rows}
    out.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in sorted(unique)))


def folder_of(name: str, out: Path) -> Path:
    """Where a method's checkpoint and evaluation are."""
    return out / name.replace(", ", "-").replace(" ", "-").lower()


def measure(name: str, train: list[str], options, shared: list[str], backend: list[str], start: Path) -> None:
    """Train one method and evaluate it against the start; leaves OUT/NAME/evaluation and OUT/NAME/minutes.json."""
    folder = folder_of(name, options.out)
    if (folder / "evaluation" / "summary.json").is_file():
        return
    minutes, checkpoint, extra = 0.0, folder, []
    if train:
        filled = [part.format(chosen=options.out / "chosen.jsonl") for part in train]
        judge = []
        if train[0] in ("ppo", "grpo"):
            judge = ["--reward-model", str(options.out / "reward"), "--reward", options.reward]
        if not (folder / "config.json").is_file():
            minutes = mlxrlhf(*filled, *shared, *backend, *judge, "--out", str(folder), "--resume")
    else:
        checkpoint, extra = start, ["--best-of", "8"]
    mlxrlhf(
        "evaluate",
        *shared,
        *backend,
        *JUDGED,
        *extra,
        "--checkpoint",
        str(checkpoint),
        "--before",
        str(start),
        "--reward-model",
        str(options.out / "reward"),
        "--out",
        str(folder / "evaluation"),
        "--max-prompts",
        options.prompts,
    )
    (folder / "minutes.json").write_text(json.dumps(minutes))


def results(out: Path, written: Path) -> dict[str, dict]:
    """Figures of every method that has been measured: before, after, minutes, curves of what was sampled in training.

    What `written`, an earlier methods_MODEL.json, has of methods whose folders are gone stays, so that one machine need
    not train them all.
    """
    earlier = json.loads(written.read_text()) if written.is_file() else {}
    found = {}
    for name in METHODS:
        folder = folder_of(name, out)
        if (folder / "evaluation" / "summary.json").is_file():
            found[name] = json.loads((folder / "evaluation" / "summary.json").read_text())
            found[name]["minutes"] = json.loads((folder / "minutes.json").read_text())
            if METHODS[name][:1] in (["ppo"], ["grpo"]):
                rows = read_metrics(folder / "run" / "metrics.jsonl")
                found[name]["curves"] = {key: [row[key] for row in rows] for key in CURVES}
        elif name in earlier:
            found[name] = earlier[name]
    return found


def table(found: dict[str, dict]) -> str:
    """One line per method and seed; several seeds as mean ± standard deviation too."""
    lines = ["| | " + " | ".join(title for title, *_ in COLUMNS) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    start = next(iter(found.values()))["before"]
    lines.append("| start | " + " | ".join(form.format(start[key]) for _, key, form in COLUMNS) + " |")
    for name, figures in found.items():
        lines.append(f"| {name} | " + " | ".join(form.format(figures["after"][key]) for _, key, form in COLUMNS) + " |")
    for method in SEEDED:
        seeds = [figures["after"] for name, figures in found.items() if name.startswith(f"{method},")]
        if len(seeds) > 1:
            cells = [
                f"{form.format(np.mean(v))} ± {form.format(np.std(v, ddof=1))}"
                for form, v in ((form, [s[key] for s in seeds]) for _, key, form in COLUMNS)
            ]
            lines.append(f"| **{method}, {len(seeds)} seeds** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, dict], file: Path) -> None:
    """Rewards and pass rates while PPO and GRPO learn, and both win rates of every method against its KL."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axis, (key, title) in zip(axes[:2], CURVES.items(), strict=True):
        for method, thin, thick in (("PPO", "#8aa7e0", "#1d4fbf"), ("GRPO", "#8fc79a", "#1f7a35")):
            curves = [figures["curves"][key] for name, figures in found.items() if name.startswith(f"{method},")]
            for curve in curves:
                axis.plot(range(1, len(curve) + 1), curve, color=thin, linewidth=0.9)
            if curves:
                length = min(map(len, curves))
                axis.plot(
                    range(1, length + 1),
                    np.mean([c[:length] for c in curves], axis=0),
                    color=thick,
                    linewidth=2,
                    label=method,
                )
        axis.legend(fontsize=7, frameon=False, loc="lower right")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("update (thin: a seed; thick: their mean)", fontsize=8)
    named: set[str] = set()
    marks = {"best-of-8": "s", "fine-tuning on chosen": "^", "DPO": "D", "GRPO": "v", "PPO": "o"}
    for name, figures in found.items():
        after, kind = figures["after"], name.partition(",")[0]
        for key, colour in (("win_rate", "#1d4fbf"), ("verified_win_rate", "#d9822b")):
            error = np.sqrt(after[key] * (1 - after[key]) / after["answers"])
            axes[2].errorbar(
                after["kl"], after[key], error, fmt=marks[kind], color=colour, markersize=6, elinewidth=0.7
            )
        if kind not in named:
            left = after["kl"] > max(f["after"]["kl"] for f in found.values()) / 2  # of its mark, inside the frame
            axes[2].annotate(
                kind,
                (after["kl"], after["win_rate"]),
                fontsize=7,
                textcoords="offset points",
                xytext=(-6 if left else 6, -3),
                ha="right" if left else "left",
            )
            named.add(kind)
    axes[2].margins(x=0.25)
    axes[2].axhline(0.5, color="#777777", linewidth=0.8, linestyle="--")
    axes[2].set_title("Held-out win rate against the start", fontsize=9)
    axes[2].set_xlabel("KL from the start, nats per answer\n(blue: by the reward model; orange: verified)", fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=8)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", default="1000")
    parser.add_argument("--prompts", default="0", help="held-out requests to judge on; 0 takes all")
    parser.add_argument("--reward", default="model", help="what PPO and GRPO are paid for, as --reward of mlxrlhf ppo")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default="", help="methods whose name contains this; all others are only reported")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    data = options.out / "data"
    shared = ["--model", options.model, "--data-dir", str(data)]
    backend = ["--backend", options.backend, "--dtype", options.dtype]
    start = published.fetch(options.model)
    if not (data / published.label(options.model) / "rlhf_preferences.json").is_file():
        mlxrlhf("prepare", "all", *shared, "--pairs", options.pairs)
    if not (options.out / "reward" / "reward.json").is_file():
        mlxrlhf("reward", *shared, *backend, *SAMPLED, "--samples", "3", "--out", str(options.out / "reward"))
    chosen_answers(data / published.label(options.model) / "rlhf_preferences.json", options.out / "chosen.jsonl")
    for name, train in METHODS.items():
        if options.only.lower() in name.lower():
            measure(name, train, options, shared, backend, start)
    file = options.out / f"methods_{published.label(options.model)}.json"
    found = results(options.out, file)
    if not found:
        parser.error(f"--only {options.only}: no method has that in its name, and none is measured yet")
    file.write_text(json.dumps(found, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(found))
    plot(found, file.with_suffix(".svg"))
    print(table(found))


if __name__ == "__main__":
    main()
