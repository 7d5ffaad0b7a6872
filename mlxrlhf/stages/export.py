"""A checkpoint for other programs: GGUF for llama.cpp, quantised folders for mlx-lm, a plain Hugging Face folder.

Adapters are merged first. A quantised folder comes with what the quantisation cost, on text held out of training.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import backends, files
from mlxrlhf.config import ExportConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.models.adapters import load_model
from mlxrlhf.models.gguf_files import write_gguf
from mlxrlhf.models.outputs import OutputFolder

#: tokens that are measured on at once
WINDOW = 512


def run(config: ExportConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write --out and return its figures: the size and, for a quantisation, its cost. Raises UserError."""
    if not config.out:
        raise UserError("export needs --out: a folder to write or, for --to gguf, a file")
    out = Path(config.out)
    if config.to == "gguf" and out.is_dir():
        raise UserError(f"{out} is a folder; give --out a file name, such as {out / 'model.gguf'}")
    _, source, adapter = folders.find_model(config.model, size=config.size, adapter=config.adapter)
    # The data that a model of weights/SIZE/STAGE was trained on is under SIZE.
    config = replace(config, adapter=adapter, size=config.size or source.parent.name)
    figures: dict[str, Any] = {}
    if config.to == "gguf":
        with new_file(out) as room:
            whole = _plain(config, source, room / source.resolve().name) if _needs_writing(config, source) else source
            write_gguf(whole, room / out.name, config.gguf_type)
            os.replace(room / out.name, out)
    else:
        with OutputFolder(out, stage="export", need_bytes=_need(config, source), sources=(source,)) as taken:
            with taken.replace() as folder:
                figures = _fill(config, source, folder, say)
    written = [out] if out.is_file() else [p for p in out.iterdir() if p.is_file()]
    return {"wrote": str(out), "megabytes": round(sum(p.stat().st_size for p in written) / 1e6, 1), **figures}


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """A scratch folder to write the file --out in. Raises UserError where it is there already or cannot be written."""
    made: list[Path] = []
    try:
        if os.path.lexists(out):
            raise UserError(f"{out} is there already; give --out a new name")
        made = files.make_folder(out.parent)
        with files.locked(out), files.scratch(out) as room:
            yield room
    except BaseException as error:
        files.remove_empty(made)
        if files.is_file_system_error(error):
            raise UserError(f"cannot write {out}: {files.reason(error)}; choose another --out") from None
        raise


def _need(config: ExportConfig, source: Path) -> int:
    """Bytes that are written at most, the merged checkpoint that a quantisation starts from included."""
    weights = checkpoint.read_config(source).parameters()
    return 4 * weights if config.to == "hf" else 6 * weights


def _fill(config: ExportConfig, source: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write a plain or a quantised checkpoint into an empty folder; returns the figures."""
    if config.to == "hf":
        _plain(config, source, folder, "float32" if config.dtype == "auto" else config.dtype)
        return {}
    if not _needs_writing(config, source):
        return _quantise(config, source, folder, say)
    whole = _plain(config, source, folder / "whole")
    figures = _quantise(config, whole, folder, say)
    shutil.rmtree(whole)
    return figures


def _needs_writing(config: ExportConfig, source: Path) -> bool:
    """Whether a whole checkpoint has to be written first: to merge adapters, or to unpack weights."""
    return bool(config.adapter) or checkpoint.is_packed(source)


def _plain(config: ExportConfig, source: Path, folder: Path, dtype: str = "float32") -> Path:
    """Write a whole checkpoint in `dtype`, adapters merged and left behind, into an empty folder."""
    folder.mkdir(exist_ok=True)
    model = load_model(backends.load(config.backend, config.device), source, config.adapter, dtype=dtype)
    folders.save_checkpoint(model, folder, open_tokenizer(source))
    if (folder / "adapters").is_dir():
        shutil.rmtree(folder / "adapters")
    return folder


def _quantise(config: ExportConfig, whole: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    backends.load("mlx", config.device if config.backend != "torch" else "")
    from mlxrlhf.backends.mlx import quantize

    bits = int(config.to.removeprefix("mlx-").removesuffix("bit"))
    name, rows = held_out(config, open_tokenizer(whole)) if config.eval_tokens else ("", None)
    left = quantize.convert(
        whole,
        folder,
        bits=bits,
        group_size=config.group_size,
        dtype="bfloat16" if config.dtype == "auto" else config.dtype,
    )
    if left:
        say(
            f"{len(left)} matrices are not quantised ({left[0]}, ...): groups of {config.group_size} do not "
            "divide their rows; --group-size 32 may"
        )
    checkpoint.copy_tokenizer(whole, folder)
    if rows is None:
        return {}
    say(f"measuring on {rows.size:,} tokens of {name}")
    return quantize.cost(whole, folder, rows)


def held_out(config: ExportConfig, tokenizer: AnyTokenizer) -> tuple[str, np.ndarray]:
    """Text that was not trained on: what it is, and (rows, WINDOW) ids of at most --eval-tokens tokens."""
    window = max(2, min(WINDOW, config.eval_tokens))
    count = config.eval_tokens // window
    if config.text:
        name, parts = config.text, [np.array(tokenizer.encode(_read(Path(config.text))), np.int32)]
    elif folders.data(config).is_dir() and _prepared(config, tokenizer):
        name, parts = str(folders.data(config)), _prepared(config, tokenizer)
    else:
        ids: list[int] = []
        for _, text in corpora.python_docs():
            if corpora.is_validation(text) and len(text) > 1_000:
                ids += [*tokenizer.start_ids, *tokenizer.encode(text), tokenizer.end_id]
            if len(ids) >= count * window:
                break
        name, parts = "Python's documentation", [np.array(ids, np.int32)]
    # Equal shares of prose and code where there are both.
    share = math.ceil(count / len(parts))
    cut = [np.asarray(part[: len(part) // window * window], np.int32).reshape(-1, window)[:share] for part in parts]
    rows = np.concatenate(cut)[:count]
    if not len(rows):
        raise UserError(f"{name} has fewer than {window} tokens to measure on; give a longer --text, or --eval-tokens")
    return name, rows


def _prepared(config: ExportConfig, tokenizer: AnyTokenizer) -> list[np.ndarray]:
    """The prepared data's held-out tokens, where they are those of this tokenizer."""
    folder = folders.data(config)
    if not (folder / "tokenizer").is_dir() or open_tokenizer(folder / "tokenizer").fingerprint != tokenizer.fingerprint:
        return []
    command = f"mlxrlhf prepare all {folders.flag(config)}"
    return [
        corpora.load_tokens(folder, stem, "val", command)
        for stem in ("language", "code")
        if (folder / f"{stem}_val.npy").is_file()
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text {path} cannot be read ({error}); give a UTF-8 text file") from None
