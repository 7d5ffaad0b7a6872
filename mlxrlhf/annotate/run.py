"""The command: put items into the file, then serve them, print agreement, or write training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlxrlhf import web
from mlxrlhf.annotate import agreement, export, items, server
from mlxrlhf.annotate.store import Store
from mlxrlhf.config import AnnotateConfig
from mlxrlhf.errors import UserError
from mlxrlhf.tasks.task import load_tasks
from mlxrlhf.workspace import under_root


def run(config: AnnotateConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; or, with --stats or --export, read the file and leave."""
    path = under_root(config.db)
    if config.stats or config.export:
        if not path.is_file():
            raise UserError(
                f"{path} does not exist; collect votes with mlxrlhf annotate, or name another file with --db"
            )
        store = Store.read(path)
        if config.stats:
            labels = {i: (row["label_a"], row["label_b"]) for i, row in store.items().items()}
            for line in agreement.describe(agreement.figures(store.votes(), labels)):
                say(line)
        if config.export:
            export.write(store, Path(config.export), config.format, say)
        store.close()
        return
    if config.data and config.prompts:
        raise UserError("give --data (pairs to judge) or --prompts (to sample answers to), not both")
    if (config.model or config.model_b) and not config.prompts:
        raise UserError("sampling needs --prompts FILE (and --model-b for a second model)")
    # The port first: a model should not answer a thousand prompts in vain.
    listening = web.listen(config.host, config.port)
    store = Store(path, seed=config.seed, overlap=config.overlap, repeats=config.repeats)
    new = _add(config, store, say)
    say(f"annotate: {len(store.items()):,} items ({new:,} new) and {len(store.votes()):,} votes in {path}")
    server.serve(store, listening, config, say)
    say(f"annotate: stopped; {len(store.votes()):,} votes in {path}")
    store.close()


def _add(config: AnnotateConfig, store: Store, say: Callable[[str], None]) -> int:
    """Items of --data or --prompts; without either, the prepared pairs where the file is still empty."""
    if config.prompts:
        return items.sample(config, store, load_tasks(), say)
    if config.data:
        return store.add(items.from_file(config.data, load_tasks()))
    if store.items():
        return 0
    prepared = under_root(config.data_dir) / config.size / "rlhf_preferences.json"
    if not prepared.is_file():
        raise UserError(
            f"there is nothing to judge: {prepared} does not exist; run mlxrlhf prepare preferences "
            f"--size {config.size}, or give --data or --prompts"
        )
    return store.add(items.from_file(str(prepared), load_tasks()))
