"""Pretraining: next-token prediction on plain text, from random weights or a published model."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import backends, parallel, plan
from mlxrlhf.config import SIZES, PretrainConfig, TrainConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.batches import Mixture, Rows, Stream
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import Tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.report.page import run_report
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.settings import to_json
from mlxrlhf.stages.run import resume_from, train


def run(config: PretrainConfig) -> dict:
    """Train and write weights/SIZE/language. Returns the figures of summary.json."""
    folder = folders.data(config)
    rows = []
    for side in ("train", "val"):
        tokens = corpora.load_tokens(folder, "language", side, f"mlxrlhf prepare all {folders.flag(config)}")
        rows.append((tokens, side))
    if config.checkpoint or config.model:
        source, model_config, tokenizer = folders.open_checkpoint(config, "language", config.checkpoint)
        folders.same_tokenizer(tokenizer, folder)
    else:
        source, model_config, tokenizer = None, SIZES[config.size], Tokenizer(folder / "tokenizer")
    train_rows, val_rows = (Stream(tokens, config.sequence_length, tokenizer.end_id) for tokens, _ in rows)
    return fit(config, "language", source, model_config, tokenizer, train_rows, val_rows)


def fit(
    config: TrainConfig,
    stage: str,
    source: Path | None,
    model_config,
    tokenizer: AnyTokenizer,
    train_rows: Rows | Stream | Mixture,
    val_rows: Rows | Stream | Mixture,
) -> dict:
    """What pretraining and fine-tuning share once the rows are there: model, log, save points, loop."""
    if config.sequence_length > model_config.max_positions:
        raise UserError(
            f"--sequence-length {config.sequence_length} exceeds the model's context of {model_config.max_positions}"
        )
    if not (len(train_rows) and len(val_rows)):
        raise UserError(f"there is less text than one row of --sequence-length {config.sequence_length}; add sources")
    backend = backends.load(config.backend, config.device)
    plan.check(config, model_config, backend)
    out = folders.output(config, stage)
    points = SavePoints(out)
    found = resume_from(points, config, print)
    model = backend.Model(
        model_config,
        folder=source,
        seed=config.seed,
        dtype=config.dtype,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        lora_rank=config.lora_rank,
        lora_scale=config.lora_scale,
        optimizer_dtype=config.optimizer_dtype,
    )
    total = config.num_epochs * config.steps_per_epoch
    start = found[1]["step"] if found else 0
    with RunLog(out / "run", stage, total, to_json(config), start=start, memory=backend.peak_memory) as log:
        figures = train(
            model,
            train_rows,
            val_rows,
            config,
            log,
            out,
            lambda path: folders.save_checkpoint(model, path, tokenizer),
            points,
            found,
        )
        log.summary(figures)
        if parallel.first():
            run_report(log.folder, log.title)
    return figures
