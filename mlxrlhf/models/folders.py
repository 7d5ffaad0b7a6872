"""Where a stage finds what the stages before it wrote, and what it says when something is missing."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlxrlhf.config import SIZES, STAGES, ModelConfig
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import PublishedTokenizer, open_tokenizer, stored_args
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, published
from mlxrlhf.models.adapters import save_adapters
from mlxrlhf.settings import parse_json, read_json
from mlxrlhf.workspace import under_root

#: the command that writes each stage's folder
COMMANDS = {
    "language": "mlxrlhf pretrain",
    "code": "mlxrlhf finetune --stage code",
    "tools": "mlxrlhf finetune --stage tools",
    "reward": "mlxrlhf reward",
    "rlhf": "mlxrlhf ppo",
}


def label(config) -> str:
    """What a run's folders are called: its size, or the published model's name."""
    return published.label(config.model) if config.model else config.size


def flag(config) -> str:
    """The flag that chose `label`, for messages."""
    return f"--model {config.model}" if config.model else f"--size {config.size}"


def weights(name: str, stage: str) -> Path:
    """weights/NAME/STAGE; NAME is a size or a published model's label."""
    return under_root("weights") / name / stage


def output(config, stage: str) -> Path:
    """Where a stage writes: --out, or its folder under weights/."""
    return Path(config.out) if config.out else weights(label(config), stage)


def reward_model(config) -> Path:
    """--reward-model, or the reward stage's folder."""
    return Path(config.reward_model) if config.reward_model else weights(label(config), "reward")


def data(config) -> Path:
    """The prepared data of a size or a published model."""
    return under_root(config.data_dir) / label(config)


def need(path: Path, command: str) -> Path:
    """`path`, or a UserError naming the command that makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run: {command}")
    return path


class Checkpoint(NamedTuple):
    """A checkpoint to start from: its folder, the model's shape, and its tokenizer."""

    folder: Path
    shape: ModelConfig
    tokenizer: AnyTokenizer


class RandomWeights(NamedTuple):
    """What stands in a checkpoint's place where training starts from nothing."""

    shape: ModelConfig
    tokenizer: AnyTokenizer
    folder: None = None


class Found(NamedTuple):
    """A model to talk to: what the user calls it, its folder, and the folder of the adapters to put on it, or ""."""

    name: str
    folder: Path
    adapter: str


def find_model(model: str, *, size: str = "", adapter: str = "") -> Found:
    """The model that was asked for; else the one that was trained last, of `size` if given; else the shipped one.

    What was taken without being asked for is said on stderr.
    """
    if model:
        return Found(model, published.fetch(model), adapter)
    if folder := last_trained(size):
        print(f"taking {folder}, which was trained last; --model FOLDER takes another", file=sys.stderr)
        return Found(str(folder), folder, adapter)
    if size:
        raise UserError(
            f"there is no trained model under weights/{size}; run: mlxrlhf pretrain --size {size}, or "
            "leave --size out for the shipped model"
        )
    folder = published.shipped()
    millions = checkpoint.read_config(folder).parameters() / 1e6
    print(
        f"nothing is trained under weights/ yet: this is the shipped model, a small demonstration ({millions:.0f}M "
        "weights, often wrong)",
        file=sys.stderr,
    )
    return Found("shipped-rlhf", folder, adapter or str(folder / "adapters"))


def last_trained(name: str = "") -> Path | None:
    """The checkpoint under weights/NAME/ that was written last, of any name where none is given.

    A name is a size or a published model's label: what the demo and runs with --model wrote counts too. Of two written
    at the same time (a copied folder, a checkout) the later stage is taken.
    """

    def age(folder: Path) -> tuple[int, int]:
        stage = folder.name
        return (folder / "config.json").stat().st_mtime_ns, STAGES.index(stage) if stage in STAGES else len(STAGES)

    folders = [
        folder
        for folder in under_root("weights").glob(f"{glob.escape(name) or '*'}/*")
        if (folder / "config.json").is_file()
        # Not what is being written, nor what was set aside.
        and not any(
            name.startswith(".") or re.search(r"\.old-\d+$", name) for name in (folder.parent.name, folder.name)
        )
    ]
    return max(folders, key=age, default=None)


def open_checkpoint(config, stage: str, given: str = "") -> Checkpoint:
    """A checkpoint: the one given by its folder, or that of `stage`, or the published model where training starts.

    Its tokenizer must fit, and a checkpoint of ours must have the shape of its size.
    """
    folder = Path(given) if given else weights(label(config), stage)
    if not given and config.model and stage != "rlhf":
        # A published model may skip stages: the latest one there is, or the model itself.
        earlier = STAGES[: STAGES.index(stage) + 1][::-1]
        there = [f for f in (weights(label(config), s) for s in earlier) if (f / "config.json").is_file()]
        folder = there[0] if there else published.fetch(config.model)
    if not (folder / "config.json").is_file():
        remedy = "name a checkpoint folder" if given else f"run: {COMMANDS[stage]} {flag(config)}"
        raise UserError(f"{folder} holds no checkpoint; {remedy}")
    shape = checkpoint.read_config(folder, config.quantize)
    if not config.model:
        expected = SIZES[config.size]
        for name in ("hidden_size", "num_layers", "num_heads"):
            if getattr(shape, name) != getattr(expected, name):
                raise UserError(
                    f"{folder} has {name} {getattr(shape, name)}, but --size {config.size} has "
                    f"{getattr(expected, name)}; give the --size it was made with, or --model {folder}"
                )
    tokenizer = tokenizer_for(config, folder)
    # Published models round their embedding up, or have tokens that it has no row for: those may not be used.
    if tokenizer.vocab_size != shape.vocab_size and not isinstance(tokenizer, PublishedTokenizer):
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} pieces and its model "
            f"{shape.vocab_size:,}; copy the tokenizer it was trained with"
        )
    return Checkpoint(folder, shape, tokenizer)


_EXAMPLE = '{"enable_thinking": true}'


def tokenizer_for(config, folder: Path, adapter: str = "") -> AnyTokenizer:
    """A checkpoint's tokenizer, its template's arguments those of --template-args before those it was trained with.

    config: a TemplateConfig. adapter: the folder of adapters put on it, which were trained with arguments of their own.
    """
    given = parse_json(config.template_args, "--template-args") if config.template_args else {}
    if not isinstance(given, dict):
        raise UserError(
            f'--template-args is {config.template_args}; give a JSON object such as {{"enable_thinking": true}}'
        )
    stored = stored_args(Path(adapter)) if adapter else {}
    return open_tokenizer(folder, {**stored, **given}, config.chat_template)


def same_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> None:
    """Prepared data must have been encoded with the checkpoint's tokenizer."""
    other = open_tokenizer(folder / "tokenizer")
    if other.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"{folder} was encoded with another tokenizer than {tokenizer.folder} has; run: "
            "mlxrlhf prepare all, and train from pretrain on"
        )


def save_checkpoint(model, folder: Path, tokenizer: AnyTokenizer) -> None:
    """Weights, config and tokenizer: a folder that stands on its own. Adapters are merged, and kept beside it too."""
    model.save(folder, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id)
    checkpoint.copy_tokenizer(tokenizer.folder, folder)
    tokenizer.save_turns(folder)
    if model.config.bits:
        size = sum(path.stat().st_size for path in folder.glob("model*.safetensors")) / 1e9
        print(f"weights in {model.config.bits} bits are written whole, in bfloat16: {size:.2f} GB")
    if model.adapters:
        save_adapters(model, folder)
        tokenizer.save_args(folder / "adapters")


def load_prompts(config, groups: Sequence[str]) -> list[dict]:
    """Requests {task, prompt, group} of the prepared data."""
    command = f"mlxrlhf prepare all {flag(config)}"
    path = need(data(config) / "prompts.json", command)
    content = read_json(path, f"run again: {command}")
    prompts = []
    for group in groups:
        rows = content.get(group)
        if not isinstance(rows, list) or not all(
            isinstance(r, dict) and isinstance(r.get("prompt"), str) for r in rows
        ):
            raise UserError(f"{path} has no list of prompts named {group}; run again: {command}")
        prompts += [{**row, "group": group} for row in rows]
    return prompts
