"""Where a stage finds what the stages before it wrote, and what it says when something is missing."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import checkpoint
from mlxrlhf.config import SIZES, ModelConfig
from mlxrlhf.data.tokenizer import Tokenizer
from mlxrlhf.errors import UserError

#: the command that writes each stage's folder
COMMANDS = {"language": "mlxrlhf pretrain", "code": "mlxrlhf finetune --stage code",
            "tools": "mlxrlhf finetune --stage tools", "reward": "mlxrlhf reward", "rlhf": "mlxrlhf ppo"}


def weights(size: str, stage: str) -> Path:
    """weights/SIZE/STAGE"""
    return Path("weights") / size / stage


def data(config) -> Path:
    """The prepared data of a size."""
    return Path(config.data_dir) / config.size


def need(path: Path, command: str) -> Path:
    """`path`, or a UserError naming the command that makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run: {command}")
    return path


def open_checkpoint(given: str, size: str, stage: str) -> tuple[Path, ModelConfig, Tokenizer]:
    """A checkpoint by its folder, or the one of `stage`; its shape must be that of `size` and fit its tokenizer."""
    folder = Path(given) if given else weights(size, stage)
    if not (folder / "config.json").is_file():
        remedy = "name a checkpoint folder" if given else f"run: {COMMANDS[stage]} --size {size}"
        raise UserError(f"{folder} holds no checkpoint; {remedy}")
    config = checkpoint.read_config(folder)
    expected = SIZES[size]
    for name in ("hidden_size", "num_layers", "num_heads"):
        if getattr(config, name) != getattr(expected, name):
            raise UserError(f"{folder} has {name} {getattr(config, name)}, but --size {size} has "
                            f"{getattr(expected, name)}; give the --size it was made with")
    tokenizer = Tokenizer(folder)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"{folder}: its tokenizer has {tokenizer.vocab_size:,} pieces and its model "
                        f"{config.vocab_size:,}; copy the tokenizer it was trained with")
    return folder, config, tokenizer


def same_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Prepared data must have been encoded with the checkpoint's tokenizer."""
    other = Tokenizer(folder / "tokenizer")
    if other.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{folder} was encoded with another tokenizer than {tokenizer.folder} has; run: "
                        "mlxrlhf prepare all, and train from pretrain on")


def save_checkpoint(model, folder: Path, tokenizer: Tokenizer) -> None:
    """Weights, config and tokenizer: a folder that stands on its own."""
    model.save(folder, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id)
    checkpoint.copy_tokenizer(tokenizer.folder, folder)
