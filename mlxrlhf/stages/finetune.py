"""Fine-tuning: code text with request-to-solution dialogues, then tool calling. Assistant turns are trained on."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf.agent import tools
from mlxrlhf.config import FinetuneConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.batches import Mixture, Rows, Stream, packed_rows
from mlxrlhf.data.dialogue import AnyTokenizer, encode_examples
from mlxrlhf.data.rows import load_dialogues
from mlxrlhf.data.tokenizer import PublishedTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.stages.pretrain import fit


def run(config: FinetuneConfig) -> dict:
    """Train on the stage before and write weights/SIZE/code or weights/SIZE/tools. Returns summary.json's figures."""
    before = {"code": "language", "tools": "code"}[config.stage]
    checkpoint = folders.open_checkpoint(config, before, config.checkpoint)
    tokenizer = checkpoint.tokenizer
    train_rows: Rows | Mixture
    val_rows: Rows | Mixture
    if config.data:
        rows = load_dialogues(Path(config.data))
        if len(rows) < 2:
            raise UserError(f"{config.data} has one row; one is needed to train on and one to validate with")
        held = max(1, len(rows) // 20)
        train_rows, val_rows = (_pack(part, tokenizer, config, config.data) for part in (rows[held:], rows[:held]))
    else:
        folder = folders.data(config)
        command = f"mlxrlhf prepare all {folders.flag(config)}"
        folders.need(folder / "tokenizer", command)
        folders.same_tokenizer(tokenizer, folder)
        train_rows, val_rows = (_mixture(folder, side, tokenizer, config, command) for side in ("train", "val"))
    return fit(config, config.stage, checkpoint, train_rows, val_rows)


def _mixture(folder: Path, side: str, tokenizer: AnyTokenizer, config: FinetuneConfig, command: str) -> Mixture:
    path = folders.need(folder / f"code_dialogues_{side}.jsonl", command)
    solutions = _pack(load_dialogues(path), tokenizer, config, str(path))
    if config.stage == "code":
        tokens = corpora.load_tokens(folder, "code", side, command)
        other: Rows | Stream = Stream(tokens, config.sequence_length, tokenizer.end_id)
    else:
        path = folders.need(folder / f"tools_{side}.jsonl", command)
        other = _pack(offering(load_dialogues(path), tokenizer), tokenizer, config, str(path))
    return Mixture(solutions, other, config.dialogue_share)


def offering(rows: list[dict], tokenizer: AnyTokenizer) -> list[dict]:
    """Our tool dialogues as the model is to see them in chat: a published model is told which tools there are."""
    if not isinstance(tokenizer, PublishedTokenizer):
        return rows
    return [{"tools": tools.schemas(), **row} for row in rows]


def _pack(rows: list[dict], tokenizer: AnyTokenizer, config: FinetuneConfig, name: str) -> Rows:
    examples = encode_examples(rows, tokenizer)
    packed, left_out = packed_rows(examples, config.sequence_length, tokenizer.pad_id)
    if left_out:
        print(
            f"{name}: {left_out:,} of {len(examples):,} examples are longer than --sequence-length "
            f"{config.sequence_length} and were left out"
        )
    if not len(packed):
        raise UserError(f"{name}: no example fits into --sequence-length {config.sequence_length}; raise it")
    return packed
