"""Fine-tuning: code text with request-to-solution dialogues, then tool calling. Assistant turns are trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlxrlhf.agent import tools
from mlxrlhf.config import FinetuneConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.batches import Mixture, PackedRows, Packer, Source, Stream
from mlxrlhf.data.dialogue import AnyTokenizer, encode_examples
from mlxrlhf.data.rows import Report, dialogues
from mlxrlhf.data.tokenizer import PublishedTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.stages.pretrain import fit

#: of the rows of --data, one in so many is held out
HELD_OUT = 20
#: token ids and which of them are trained on
Example = tuple[list[int], list[int]]


def run(config: FinetuneConfig) -> dict:
    """Train on the stage before and write weights/SIZE/code or weights/SIZE/tools. Returns summary.json's figures."""
    before = {"code": "language", "tools": "code"}[config.stage]
    checkpoint = folders.open_checkpoint(config, before, config.checkpoint)
    tokenizer = checkpoint.tokenizer
    train_rows: Source
    val_rows: Source
    if config.data:
        train_rows, val_rows = _own(config, tokenizer)
    else:
        folder = folders.data(config)
        command = f"mlxrlhf prepare all {folders.flag(config)}"
        folders.need(folder / "tokenizer", command)
        folders.same_tokenizer(tokenizer, folder)
        train_rows, val_rows = (_mixture(folder, side, tokenizer, config, command) for side in ("train", "val"))
    return fit(config, config.stage, checkpoint, train_rows, val_rows)


def _mixture(folder: Path, side: str, tokenizer: AnyTokenizer, config: FinetuneConfig, command: str) -> Mixture:
    path = folders.need(folder / f"code_dialogues_{side}.jsonl", command)
    solutions = _pack(path, tokenizer, config)
    if config.stage == "code":
        tokens = corpora.load_tokens(folder, "code", side, command)
        other: Source = Stream(tokens, config.sequence_length, tokenizer.end_id)
    else:
        path = folders.need(folder / f"tools_{side}.jsonl", command)
        # Our tool dialogues as the model is to see them in chat: a published model is told which tools there are.
        offered = tools.schemas() if isinstance(tokenizer, PublishedTokenizer) else []
        other = _pack(path, tokenizer, config, offered)
    return Mixture(solutions, other, config.dialogue_share)


def _own(config: FinetuneConfig, tokenizer: AnyTokenizer) -> tuple[PackedRows, PackedRows]:
    """The rows of --data, packed: to train on, and every HELD_OUTth to validate with."""
    train, held_out = (Packer(config.sequence_length, tokenizer.pad_id) for _ in range(2))
    encoded = _examples(config.data, tokenizer, config)
    for number, examples in enumerate(encoded):
        for ids, mask in examples:
            (train if number % HELD_OUT else held_out).add(ids, mask)
    if not len(train):
        raise UserError(
            f"{config.data} has one row that fits into --sequence-length {config.sequence_length}; one is needed to "
            "train on and one to validate with"
        )
    return train.rows(), held_out.rows()


def _pack(
    path: Path, tokenizer: AnyTokenizer, config: FinetuneConfig, offered: Sequence[dict[str, Any]] = ()
) -> PackedRows:
    """The rows of a file of prepared data, packed. offered: schemas of tools, for rows that hold none."""
    packer = Packer(config.sequence_length, tokenizer.pad_id)
    for examples in _examples(path, tokenizer, config, offered):
        for ids, mask in examples:
            packer.add(ids, mask)
    return packer.rows()


def _examples(
    source: str | Path, tokenizer: AnyTokenizer, config: FinetuneConfig, offered: Sequence[dict[str, Any]] = ()
) -> Iterator[list[Example]]:
    """(ids, mask) of each row of a source, those that fit into --sequence-length; says what was read and left out.

    Raises UserError for a malformed row, one that the model's template refuses, and when no row fits.
    """
    report, read, fitting, shown = Report(), 0, 0, time.monotonic()
    columns = (config.prompt_field, config.answer_field) if source == config.data else ("", "")
    for place, row in dialogues(source, report, *columns):
        read += 1
        examples = encode_examples([{"tools": offered, **row}], tokenizer)
        short = [(ids, mask) for ids, mask in examples if len(ids) <= config.sequence_length]
        if len(short) < len(examples):
            report.leave_out(f"longer than --sequence-length {config.sequence_length}", place)
        if short:
            fitting += 1
            yield short
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{source}: {read:,} rows so far")
    if report.left_out or source == config.data:
        print(f"{source}: {report}")
    if not fitting:
        raise UserError(
            f"{source}: no row to learn from fits into --sequence-length {config.sequence_length} ({report}); raise it"
        )
