"""Make weights/demo, the shipped model, from nothing: every command in order, then the folder and its model card.

    python weights/make_demo.py --work runs/make-demo         # hours on two cores

The commands run in WORK, whose data/ and weights/ they write; one whose result is there already is not repeated, so a
run that was stopped goes on. The card says what each stage's own run/config.json and run/summary.json say.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from mlxrlhf.config import EvaluateConfig, FinetuneConfig, PPOConfig, PretrainConfig, RewardConfig
from mlxrlhf.data import corpora
from mlxrlhf.files import atomic_folder, atomic_text
from mlxrlhf.models import checkpoint
from mlxrlhf.models.identity import trunk_digest
from mlxrlhf.report.page import figures_rows
from mlxrlhf.stages.evaluate import SHOWN

PREPARE = "prepare all --size micro --language-sources python-docs,registry"
#: training from random weights: PyTorch in bfloat16 is the fastest there is on a CPU
TRAIN = "--size micro --backend torch --dtype bfloat16"
#: from here on everything sees the weights as they are shipped
EXPORT = "export --to hf --dtype bfloat16 --model weights/micro/tools --out demo"
ALIGN = "--size micro --checkpoint demo"
#: what is there when a command is done, and the command
STEPS = (
    ("prepare.log", PREPARE),
    (
        "weights/micro/language/run/summary.json",
        f"pretrain {TRAIN} --steps-per-epoch 300 --batch-size 16 --sequence-length 256 --learning-rate 2e-3 "
        "--warmup-steps 20 --eval-every 100 --eval-batches 4",
    ),
    (
        "weights/micro/code/run/summary.json",
        f"finetune {TRAIN} --stage code --steps-per-epoch 1000 --batch-size 8 --sequence-length 160 "
        "--learning-rate 1.5e-3 --warmup-steps 50 --dialogue-share 0.9 --eval-every 350 --eval-batches 8",
    ),
    (
        "weights/micro/tools/run/summary.json",
        f"finetune {TRAIN} --stage tools --steps-per-epoch 200 --batch-size 8 --sequence-length 224 "
        "--learning-rate 6e-4 --warmup-steps 20 --dialogue-share 0.7 --eval-every 100 --eval-batches 4",
    ),
    ("demo/config.json", EXPORT),
    ("weights/micro/reward/run/summary.json", f"reward {ALIGN} --temp 0.7"),
    (
        "weights/micro/rlhf/run/summary.json",
        f"ppo {ALIGN} --steps-per-epoch 40 --ppo-epochs 2 --max-tokens 128 --temp 0.7 --gamma 1 --lam 1 --kl-coef 0.1 "
        "--lora-rank 8 --learning-rate 6e-4 --reward model:1,tests:2",
    ),
    ("weights/micro/rlhf/evaluation/summary.json", "evaluate --size micro --before demo --suite all --samples 2"),
)
STAGES = {
    "language": ("pretrain", PretrainConfig),
    "code": ("finetune", FinetuneConfig),
    "tools": ("finetune", FinetuneConfig),
    "reward": ("reward", RewardConfig),
    "rlhf": ("ppo", PPOConfig),
}


def run(work: Path, done: str, command: str) -> None:
    """Run one command in `work`, unless its result is there. What prepare says is kept: it counts the data."""
    if (work / done).exists():
        return
    print(f"$ mlxrlhf {command}", flush=True)
    log = command == PREPARE
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "mlxrlhf_cli.main", *command.split()],
        cwd=work,
        check=True,
        text=True,
        stdout=subprocess.PIPE if log else None,
    )
    if log:
        atomic_text(work / done, finished.stdout)


def round_last_bit(file: Path) -> None:
    """Round a bfloat16 checkpoint to seven significant bits instead of eight: git then packs it below 20 MB."""
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert all(entry["dtype"] == "BF16" for name, entry in header.items() if name != "__metadata__")
    bits = np.frombuffer(content, "<u2", offset=start)  # bytearray: writable in place
    bits += (bits & 1) * ((bits & 2) - 1)  # 01 down, 11 up: half of them each; a carry into the exponent is right
    file.write_bytes(content)


def command_of(name: str, kind: type, folder: Path) -> str:
    """The command that made a run, from the settings it recorded."""
    settings = json.loads((folder / "config.json").read_text())
    changed = [f for f in fields(kind) if f.name != "resume" and settings.get(f.name, f.default) != f.default]
    flags = [f"--{f.name.replace('_', '-')}" + f" {settings[f.name]}" * (f.type != "bool") for f in changed]
    return " ".join(["mlxrlhf", name, *flags])


def assemble(work: Path, out: Path) -> None:
    """The tools checkpoint, PPO's adapters in float16, the reward head and the card; nothing else."""
    weights = work / "weights" / "micro"
    described = json.loads((weights / "reward" / "reward.json").read_text())
    if described.get("lora_rank"):
        sys.exit("the reward model has a base of its own (--unfreeze-rank), which the shipped folder has no place for")
    shutil.rmtree(out, ignore_errors=True)
    with atomic_folder(out) as folder:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(work / "demo" / name, folder / name)
        checkpoint.copy_tokenizer(work / "demo", folder)
        (folder / "adapters").mkdir()
        adapters = checkpoint.load_arrays(weights / "rlhf" / "adapters" / "adapters.safetensors")
        checkpoint.save_arrays(
            folder / "adapters" / "adapters.safetensors",
            {name: array.astype(np.float16) for name, array in adapters.items()},
        )
        shutil.copyfile(
            weights / "rlhf" / "adapters" / "adapter_config.json", folder / "adapters" / "adapter_config.json"
        )
        (folder / "reward").mkdir()
        shutil.copyfile(weights / "reward" / "head.safetensors", folder / "reward" / "head.safetensors")
        # The head's base ships beside it, in a precision of its own: that of the folder above.
        described |= {"base": "..", "base_digest": trunk_digest(folder)}
        (folder / "reward" / "reward.json").write_text(json.dumps(described, indent=2) + "\n")
        (folder / "README.md").write_text(card(work))


def card(work: Path) -> str:
    """The model card, from what prepare said and what every run recorded."""
    weights = work / "weights" / "micro"
    folders = {stage: weights / stage / "run" for stage in STAGES}
    runs = {stage: json.loads((folder / "summary.json").read_text()) for stage, folder in folders.items()}
    settings = {stage: json.loads((folder / "config.json").read_text()) for stage, folder in folders.items()}
    figures = json.loads((weights / "rlhf" / "evaluation" / "summary.json").read_text())
    samples = json.loads((weights / "rlhf" / "evaluation" / "samples.json").read_text())
    evaluated = json.loads((weights / "rlhf" / "evaluation" / "config.json").read_text())
    shape, prepared = checkpoint.read_config(work / "demo"), (work / "prepare.log").read_text()
    commands = [f"mlxrlhf {PREPARE}"]
    for stage, (name, kind) in STAGES.items():
        commands += [f"mlxrlhf {EXPORT}"] * (stage == "reward") + [command_of(name, kind, folders[stage])]
    commands.append(command_of("evaluate", EvaluateConfig, weights / "rlhf" / "evaluation"))
    rows = ""
    for stage in ("language", "code", "tools"):
        s, tokens = (
            settings[stage],
            runs[stage]["steps"]
            * settings[stage]["batch_size"]
            * (settings[stage]["sequence_length"] * settings[stage]["gradient_accumulation_steps"]),
        )
        rows += (
            f"| {stage} | {runs[stage]['steps']:,} steps of {s['batch_size']} rows, {tokens / 1e6:.1f}M tokens | "
            f"validation loss {runs[stage]['val_loss']:.2f} | {runs[stage]['seconds'] / 60:.0f} |\n"
        )
    r, p = runs["reward"], runs["rlhf"]
    criteria = ", ".join(f"{name} {value:.0%}" for name, value in r["val_accuracy_by_criterion"].items())
    rows += (
        f"| reward | {r['pairs']:,} pairs | {r['val_accuracy']:.0%} of {r['val_pairs']:,} held-out pairs right "
        f"({criteria}); always the longer answer {r['length_baseline']:.0%}, counting tokens "
        f"{r['token_baseline']:.0%} | |\n"
        f"| ppo | {p['updates']:,} updates of {settings['rlhf']['batch_size']} answers | reward "
        f"{p['reward_first10']:.2f} ± {p['reward_first10_std']:.2f} in the first ten, {p['reward_last10']:.2f} ± "
        f"{p['reward_last10_std']:.2f} in the last ten; KL {p['kl_last']:.1f} nats an answer | "
        f"{p['seconds'] / 60:.0f} |\n"
    )
    compared = "".join(f"| {' | '.join(row)} |\n" for row in figures_rows(figures))
    shown = next(s for s in samples if s["prompt"] == SHOWN)
    licences = "".join(f"- {package.name} {package.version}: {package.licence}\n" for package in corpora.REGISTRY)
    data = "".join(
        f"    {line}\n"
        for line in prepared.splitlines()
        if line.split(":")[0] in ("tokenizer", "language", "code", "tools", "preferences")
    )
    warned = f"{r['warning'][0].upper()}{r['warning'][1:]}.\n\n" if r.get("warning") else ""
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [llama, mlx, rlhf, ppo]
---

# The demonstration model of mlxrlhf

{shape.parameters() / 1e6:.1f}M weights in bfloat16, trained from random numbers on one machine's CPU: text, code, tool
calls, a reward model, PPO. It shows that the whole way works; it is no assistant. It knows small Python functions like
those of its {r["pairs"]:,} preference pairs and little else, it is often wrong, and what it writes must not be run
outside a sandbox.

- `model.safetensors`: the model before PPO (a Llama checkpoint for transformers and mlx-lm)
- `adapters/`: what PPO changed, LoRA in mlx-lm's form
- `reward/`: the reward head on the same frozen model

`mlxrlhf chat` talks to it with its adapters on, and so does

    mlx_lm.generate --model weights/demo --adapter-path weights/demo/adapters --prompt "{SHOWN}"

## How it was made

| stage | training | figure | minutes |
|---|---|---|---|
{rows}
{warned}## Before and after PPO

{evaluated["samples"]} sampled answers to each held-out request; "score" and "win rate" are the reward model's own
opinion.

| | before | after |
|---|---|---|
{compared}
{SHOWN}, before:

    {indented(shown["before"])}

after:

    {indented(shown["after"])}

## Data

{data}
Prose and code come with Python (PSF licence); requests, solutions, tool dialogues and preference pairs are made by
mlxrlhf, every result and label by running them. The other prose, as far as it fitted:

{licences}
## The commands

    {indented(chr(10).join(commands))}
"""


def indented(text: str) -> str:
    return text.strip().replace("\n", "\n    ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/make-demo"), help="folder to train in")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo", help="folder to write")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for done, command in STEPS:
        run(arguments.work, done, command)
        if command == EXPORT:
            round_last_bit(arguments.work / "demo" / "model.safetensors")
    assemble(arguments.work, arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"wrote {arguments.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
