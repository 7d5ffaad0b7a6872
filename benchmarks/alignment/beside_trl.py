"""Learning curves of our PPO beside TRL's: same start, reward model, prompts and settings, several seeds of each.

    python benchmarks/alignment/beside_trl.py --checkpoint weights/nano/tools --reward-model weights/nano/reward

It needs the environment of `make bench`. A pilot of one seed tries every one of --learning-rates on both sides, each
side then runs --seeds with the rate at which it did best itself, and both run at the other's rate too. Writes
OUT/curves.svg, table.md and figures.json; a run that OUT already holds with the same settings is not repeated.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from mlxrlhf import backends
from mlxrlhf.algorithms import rollout
from mlxrlhf.config import PPOConfig
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.rewards.model import RewardModel
from mlxrlhf.stages import sampling

PEER = Path(__file__).parent.parent / "peers" / "trl_learning.py"
SIDES = ("ours", "TRL")
#: largest difference between the two sides' scores of one answer: float32 in another order
SAME_SCORE = 1e-4
#: updates averaged before a curve is read: 64 answers are a noisy measurement
WINDOW = 5
#: the pilot's seed, which no measured run has
PILOT = 1_000
HELD_OUT = {"score": "score", "kl": "KL", "passes_tests": "passes tests", "parses": "parses", "length": "tokens"}
BY_DESIGN = """\
By design the two differ here: TRL trains a value model of its own (a whole network, at the policy's learning rate);
ours is a head on the policy's hidden states, through which no gradient flows, at a learning rate of its own. Both start
as the reward model (TRL's not with --trl-value-model fresh). TRL does not clip gradients; ours does, at global norm
{max_grad_norm:g}. Each side shuffles the prompts and samples for itself. Both take AdamW as ours is set (TRL's default
has other betas and another epsilon), a constant learning rate and no warm-up. Seconds depend on what else the machine
did: speed.py measures speed."""


def call(*command: str) -> None:
    """One command, shown; ends the benchmark when it fails."""
    print("$", *command[1:], flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"it failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def mlxrlhf(*arguments: str) -> None:
    call(sys.executable, "-P", "-m", "mlxrlhf_cli.main", *arguments)


class Bench:
    """What every run shares."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.prompts = options, options.out / "prompts.json"
        self.model = ["--model", options.model] if options.model else ["--size", options.size]
        self.model += ["--backend", options.backend, "--data-dir", str(options.data_dir)]
        o = self.options
        #: name of ours and of TRL's flag, and the value
        self.shared = [
            ("batch-size", "batch", o.batch),
            ("steps-per-epoch", "updates", o.updates),
            ("ppo-epochs", "epochs", o.ppo_epochs),
            ("max-tokens", "response", o.max_tokens),
            ("kl-coef", "kl-coef", o.kl_coef),
            ("temp", "temperature", o.temp),
            ("gamma", "gamma", o.gamma),
            ("lam", "lam", o.lam),
            ("clip", "clip", 0.2),
            ("value-clip", "value-clip", 0.2),
            ("vf-coef", "vf-coef", 0.1),
            ("missing-end-penalty", "missing-end-penalty", 1.0),
            ("lora-rank", "lora-rank", o.lora_rank),
            ("lora-scale", "lora-scale", 2.0),
        ]

    def same_reward(self) -> float:
        """Write the prompts, and return the largest difference between our and TRL's score of answers of the start."""
        o = self.options
        config = PPOConfig(size=o.size, model=o.model, checkpoint=str(o.checkpoint), data_dir=str(o.data_dir))
        source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
        encoded = sampling.encode_prompts(folders.load_prompts(config, ("train",)), tokenizer)
        backend = backends.load(o.backend, "cpu")
        start = backend.Model(model_config, folder=source)
        some = encoded[:: max(1, len(encoded) // 32)]
        responses = start.generate(
            some,
            uniforms=np.random.default_rng(0).random((len(some), o.max_tokens)),
            temperature=o.temp,
            max_tokens=o.max_tokens,
            stop_ids=tokenizer.ends,
            pad_id=tokenizer.pad_id,
        )
        judge = RewardModel.open(o.reward_model, tokenizer).scorer(backend, tokenizer, source)
        features = start.evaluate(rollout.arrange(some, responses, tokenizer.pad_id), ("features",))["features"]
        self.prompts.parent.mkdir(parents=True, exist_ok=True)
        self.prompts.write_text(json.dumps({"prompts": encoded, "answers": list(zip(some, responses))}))
        folder = o.out / "same_reward"
        call(
            sys.executable,
            str(PEER),
            str(o.checkpoint),
            str(o.reward_model),
            str(self.prompts),
            str(folder),
            "--updates",
            "0",
        )
        theirs = json.loads((folder / "scores.json").read_text())
        return float(np.abs(judge(some, responses, features) - theirs).max())

    def run(self, side: str, rate: float, seed: int) -> Path:
        """Train, unless that run is there; returns its folder."""
        o = self.options
        folder = o.out / f"{side.lower()}-{rate:g}-{seed}"
        settings = {name: value for name, _, value in self.shared} | {
            "checkpoint": str(o.checkpoint),
            "reward": str(o.reward_model),
            "minibatches": o.minibatches,
            **({"value": o.trl_value_model} if side == "TRL" else {"value": o.value_learning_rate}),
        }
        if (folder / "settings.json").is_file() and json.loads((folder / "settings.json").read_text()) == settings:
            return folder
        rates = ["--learning-rate", str(rate), "--seed", str(seed)]
        if side == "ours":
            mlxrlhf(
                "ppo",
                *self.model,
                "--checkpoint",
                str(o.checkpoint),
                "--reward-model",
                str(o.reward_model),
                "--out",
                str(folder),
                *rates,
                *(part for name, _, value in self.shared for part in (f"--{name}", str(value))),
                "--mini-batch-size",
                str(o.batch // o.minibatches),
                "--warmup-steps",
                "0",
                "--value-learning-rate",
                str(o.value_learning_rate),
                "--no-pass-rate",
                "--save-every",
                "1000000",
            )
        else:
            call(
                sys.executable,
                str(PEER),
                str(o.checkpoint),
                str(o.reward_model),
                str(self.prompts),
                str(folder),
                *rates,
                *(part for _, name, value in self.shared for part in (f"--{name}", str(value))),
                "--mini-batches",
                str(o.minibatches),
                "--value-model",
                o.trl_value_model,
            )
            # The weights are TRL's; shape and tokenizer have not changed.
            (folder / "config.json").write_text((o.checkpoint / "config.json").read_text())
            checkpoint.copy_tokenizer(o.checkpoint, folder)
        (folder / "settings.json").write_text(json.dumps(settings))
        return folder

    def curve(self, side: str, folder: Path) -> dict[str, list[float]]:
        """Per update: episodes so far, mean score before any penalty, KL to the start in nats per response."""
        file, score = (
            (folder / "run" / "metrics.jsonl", "objective/scores")
            if side == "ours"
            else (folder / "metrics.jsonl", "score")
        )
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {
            "episodes": [self.options.batch * (i + 1) for i in range(len(rows))],
            "score": [r[score] for r in rows],
            "kl": [r["objective/kl"] for r in rows],
            "objective": [r["objective/rlhf_reward"] for r in rows],
            "seconds": sum(r["time/seconds"] for r in rows) if side == "ours" else rows[-1]["seconds"],
        }

    def held_out(self, folder: Path) -> dict[str, float]:
        """The run's last policy on held-out requests, sampled, scored and compared with the start by our own code."""
        o, out = self.options, folder / "held_out"
        if (
            not (out / "summary.json").is_file()
            or (out / "summary.json").stat().st_mtime < (folder / "settings.json").stat().st_mtime
        ):
            mlxrlhf(
                "evaluate",
                *self.model,
                "--checkpoint",
                str(folder),
                "--before",
                str(o.checkpoint),
                "--reward-model",
                str(o.reward_model),
                "--temp",
                str(o.temp),
                "--max-tokens",
                str(o.max_tokens),
                "--samples",
                "2",
                "--out",
                str(out),
            )
        return json.loads((out / "summary.json").read_text())


def smooth(values: list[float]) -> np.ndarray:
    """Mean of each value and the WINDOW - 1 before it, fewer at the start."""
    return np.array([np.mean(values[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(values))])


def last_quarter(values: list[float]) -> float:
    return float(np.mean(values[-max(1, len(values) // 4) :]))


def at_kl(curve: dict, grid: np.ndarray) -> np.ndarray:
    """The score where the curve has each KL of `grid`, between smoothed updates."""
    kl, score = smooth(curve["kl"]), smooth(curve["score"])
    order = np.argsort(kl, kind="stable")
    return np.interp(grid, kl[order], score[order])


def spread(values) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(ours: list[dict], theirs: list[dict]) -> dict:
    """Scores at equal KL, at a quarter of the KL that every run reaches and on from there, and at equal episodes."""
    reached = min(smooth(curve["kl"]).max() for curve in ours + theirs)
    # Not from 0: there both are the same policy, and a difference is that of the first prompts drawn.
    levels, grid = reached * np.array([0.25, 0.5, 0.75, 1]), np.linspace(reached / 4, reached, 101)
    found = {"kl_levels": levels.tolist(), "rows": {}}
    for name, curves in zip(SIDES, (ours, theirs)):
        found["rows"][name] = {
            "at_kl_levels": np.mean([at_kl(c, levels) for c in curves], axis=0).tolist(),
            "mean_over_kl": [float(at_kl(c, grid).mean()) for c in curves],
            "mean_over_episodes": [float(np.mean(c["score"])) for c in curves],
            "score_last_quarter": [last_quarter(c["score"]) for c in curves],
            "kl_last_quarter": [last_quarter(c["kl"]) for c in curves],
            "objective_last_quarter": [last_quarter(c["objective"]) for c in curves],
            "seconds": [c["seconds"] for c in curves],
        }
    for key in ("mean_over_kl", "mean_over_episodes"):
        a, b = (np.array(found["rows"][name][key]) for name in SIDES)
        error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        found[f"ours_minus_theirs_{key}"] = {"difference": float(a.mean() - b.mean()), "standard_error": error}
    return found


def table(comparisons: list[dict]) -> str:
    lines = []
    for c in comparisons:
        difference, levels = c["ours_minus_theirs_mean_over_kl"], c["kl_levels"]
        lines += [
            f"Learning rate {c['rates'][0]:g} for ours, {c['rates'][1]:g} for TRL"
            + (" (each at its best)" if c["best"] else "")
            + ":",
            "",
            "| side | "
            + " | ".join(f"score at KL {level:.1f}" for level in levels)
            + " | score, mean over these KLs | score, last quarter | KL, last quarter | "
            "score - beta KL - penalty | seconds |",
            "|---" * (len(levels) + 6) + "|",
        ]
        for name, row in c["rows"].items():
            cells = [f"{x:.2f}" for x in row["at_kl_levels"]]
            cells += [
                spread(row[key])
                for key in ("mean_over_kl", "score_last_quarter", "kl_last_quarter", "objective_last_quarter")
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {np.mean(row['seconds']):.0f} |")
        lines += [
            "",
            f"Ours less TRL over equal KLs: {difference['difference']:+.2f}, standard error "
            f"{difference['standard_error']:.2f}. Held-out requests, last policies:",
            "",
            "| side | " + " | ".join(HELD_OUT.values()) + " |",
            "|---" * (len(HELD_OUT) + 1) + "|",
        ]
        lines.append("| start | " + " | ".join(f"{c['held_out']['start'][key]:.2f}" for key in HELD_OUT) + " |")
        lines += [
            f"| {name} | " + " | ".join(spread([run[key] for run in c["held_out"][name]]) for key in HELD_OUT) + " |"
            for name in SIDES
        ]
        lines.append("")
    return "\n".join(lines)


def pilot_table(pilot: dict) -> str:
    """The last quarter of every run of the pilot, or "" where there was none."""
    if not pilot:
        return ""
    lines = [
        "Pilot, one seed, last quarter:",
        "",
        "| side | learning rate | score | KL | score - beta KL - penalty |",
        "|---" * 5 + "|",
    ]
    for side, found in pilot.items():
        for rate, curve in found.items():
            cells = [f"{last_quarter(curve[key]):.2f}" for key in ("score", "kl", "objective")]
            lines.append(f"| {side} | {rate:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def plot(comparisons: list[dict], curves: dict, file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(comparisons), 2, figsize=(9, 3.6 * len(comparisons)), layout="constrained", squeeze=False
    )
    for row, c in zip(axes, comparisons):
        grid = np.linspace(0, c["kl_levels"][-1], 101)
        for name, rate, colour in zip(SIDES, c["rates"], ("#3366cc", "#dd8833")):
            runs = curves[name, rate]
            for curve in runs:
                row[0].plot(curve["episodes"], smooth(curve["score"]), color=colour, linewidth=0.8, alpha=0.5)
                row[1].plot(smooth(curve["kl"]), smooth(curve["score"]), color=colour, linewidth=0.8, alpha=0.5)
            row[0].plot(
                runs[0]["episodes"],
                np.mean([smooth(r["score"]) for r in runs], axis=0),
                color=colour,
                linewidth=2.2,
                label=f"{name}, learning rate {rate:g}",
            )
            row[1].plot(grid, np.mean([at_kl(r, grid) for r in runs], axis=0), color=colour, linewidth=2.2)
        row[0].set(
            xlabel="episodes",
            ylabel=f"reward model's score, mean of {WINDOW} updates",
            title="each at its best learning rate" if c["best"] else "both at one learning rate",
        )
        row[1].set(xlabel="KL to the start, nats per response", title="the same runs at equal KL")
        row[0].legend(loc="lower right")
    for suffix in (".svg", ".png"):
        figure.savefig(file.with_suffix(suffix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("weights/nano/tools"))
    parser.add_argument("--reward-model", type=Path, default=Path("weights/nano/reward"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--size", default="nano")
    parser.add_argument("--model", default="", help="the published model that --checkpoint comes from")
    parser.add_argument("--backend", default="torch", help="of ours; TRL runs on torch")
    parser.add_argument("--out", type=Path, default=Path("runs/beside_trl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rates", default="3e-5,1e-4,3e-4", help="of the pilot; one alone needs no pilot")
    parser.add_argument("--value-learning-rate", type=float, default=PPOConfig().value_learning_rate)
    parser.add_argument("--trl-value-model", default="reward", choices=("fresh", "reward"))
    for name, default in dict(updates=16, batch=64, minibatches=4, ppo_epochs=2, max_tokens=96, lora_rank=0).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    for name, default in dict(temp=0.7, kl_coef=0.1, gamma=1.0, lam=1.0).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one run says nothing of the spread")
    bench = Bench(options)
    difference = bench.same_reward()
    print(f"largest difference between our and TRL's score of one answer: {difference:.1e}")
    if not difference < SAME_SCORE:
        raise SystemExit("the two sides do not optimise the same reward")
    rates = [float(rate) for rate in options.learning_rates.split(",")]
    pilot = (
        {side: {rate: bench.curve(side, bench.run(side, rate, PILOT)) for rate in rates} for side in SIDES}
        if len(rates) > 1
        else {}
    )
    best = {
        side: max(rates, key=lambda rate: last_quarter(pilot[side][rate]["objective"])) if pilot else rates[0]
        for side in SIDES
    }
    print(f"best learning rates: {best}", flush=True)
    runs = {
        (side, rate): [bench.run(side, rate, seed) for seed in range(options.seeds)]
        for rate in sorted(set(best.values()))
        for side in SIDES
    }
    curves = {key: [bench.curve(key[0], folder) for folder in some] for key, some in runs.items()}
    held_out = {key: [bench.held_out(folder) for folder in some] for key, some in runs.items()}
    pairs = dict.fromkeys([(best["ours"], best["TRL"]), *((rate, rate) for rate in sorted(set(best.values())))])
    comparisons = []
    for number, (ours, theirs) in enumerate(pairs):
        sides = {"ours": held_out["ours", ours], "TRL": held_out["TRL", theirs]}
        comparisons.append(
            {
                "rates": (ours, theirs),
                "best": number == 0,
                **compare(curves["ours", ours], curves["TRL", theirs]),
                "held_out": {
                    "start": sides["ours"][0]["before"],
                    **{name: [run["after"] for run in some] for name, some in sides.items()},
                },
            }
        )
    versions = {name: importlib.metadata.version(name) for name in ("trl", "transformers", "torch", "mlxrlhf")}
    notes = BY_DESIGN.format(max_grad_norm=PPOConfig().max_grad_norm)
    settings = {
        key: str(value)
        for key, value in vars(options).items()
        if key not in ("out", "checkpoint", "data_dir", "reward_model")
    }
    figures = {
        "versions": versions,
        "settings": settings,
        "largest_score_difference": difference,
        "pilot": pilot,
        "comparisons": comparisons,
        "curves": {f"{side} {rate:g}": some for (side, rate), some in curves.items()},
    }
    text = f"{table(comparisons)}\n{pilot_table(pilot)}\n{notes}\n"
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (options.out / "table.md").write_text(text)
    plot(comparisons, curves, options.out / "curves.svg")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
