"""A checkpoint for other programs: GGUF for llama.cpp, quantised folders for mlx-lm, a plain Hugging Face folder.

Adapters are merged first. A quantised folder comes with what the quantisation cost, on text held out of training.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlxrlhf import backends
from mlxrlhf.config import ExportConfig, FuseConfig
from mlxrlhf.data import corpora
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.models.gguf_files import write_gguf
from mlxrlhf.stages import fuse

#: tokens that are measured on at once
WINDOW = 512


def run(config: ExportConfig, say: Callable[[str], None] = print) -> dict:
    """Write --out and return its figures: the size and, for a quantisation, its cost. Raises UserError."""
    if not config.out:
        raise UserError("export needs --out: a folder to write or, for --to gguf, a file")
    out = Path(config.out)
    if config.to == "gguf" and out.is_dir():
        raise UserError(f"{out} is a folder; give --out a file name, such as {out / 'model.gguf'}")
    if config.to != "gguf" and (out.is_file() or out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; give --out a new folder")
    _, source, adapter = folders.find_model(config.model, size=config.size, adapter=config.adapter)
    # The data that a model of weights/SIZE/STAGE was trained on is under SIZE.
    config = replace(config, adapter=adapter, size=config.size or source.parent.name)
    shape = checkpoint.read_config(source)
    checkpoint.refuse_quantised(source)
    figures: dict = {}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=_room(out)) as room:
        whole = Path(room) / source.resolve().name
        if config.to == "gguf":
            write_gguf(_plain(config, source, whole) if config.adapter else source, out, config.gguf_type)
        elif config.to == "hf":
            _plain(config, source, out, "float32" if config.dtype == "auto" else config.dtype)
        elif config.adapter or not checkpoint.mlx_lm_reads_rope(source, shape):
            figures = _quantise(config, _plain(config, source, whole), out, say)
        else:
            figures = _quantise(config, source, out, say)
    files = [out] if out.is_file() else [p for p in out.iterdir() if p.is_file()]
    return {"wrote": str(out), "megabytes": round(sum(p.stat().st_size for p in files) / 1e6, 1), **figures}


def _room(out: Path) -> Path:
    """The folder beside --out, made where there is none: temporary files belong on the same disk."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.parent
    except OSError as error:
        raise UserError(f"cannot write to {out.parent}: {error.strerror}; choose another --out") from None


def _plain(config: ExportConfig, source: Path, out: Path, dtype: str = "float32") -> Path:
    """A whole checkpoint in `dtype`, adapters merged and left behind."""
    if config.adapter:
        fuse.run(
            FuseConfig(
                model=str(source),
                adapter=config.adapter,
                out=str(out),
                backend=config.backend,
                device=config.device,
                dtype=dtype,
            )
        )
        shutil.rmtree(out / "adapters")
        return out
    backend = backends.load(config.backend, config.device)
    tokenizer = open_tokenizer(source)
    model = backend.Model(checkpoint.read_config(source), folder=source, dtype=dtype)
    with atomic_folder(out) as folder:
        folders.save_checkpoint(model, folder, tokenizer)
    return out


def _quantise(config: ExportConfig, whole: Path, out: Path, say: Callable[[str], None]) -> dict:
    backends.load("mlx", config.device if config.backend != "torch" else "")
    from mlxrlhf.backends.mlx import quantize

    bits = int(config.to.removeprefix("mlx-").removesuffix("bit"))
    name, rows = held_out(config, open_tokenizer(whole)) if config.eval_tokens else ("", None)
    with atomic_folder(out) as folder:
        quantize.convert(
            whole,
            folder,
            bits=bits,
            group_size=config.group_size,
            dtype="bfloat16" if config.dtype == "auto" else config.dtype,
        )
        checkpoint.copy_tokenizer(whole, folder)
    if rows is None:
        return {}
    say(f"measuring on {rows.size:,} tokens of {name}")
    return quantize.cost(whole, out, rows)


def held_out(config: ExportConfig, tokenizer: AnyTokenizer) -> tuple[str, np.ndarray]:
    """Text that was not trained on: what it is, and (rows, WINDOW) ids of at most --eval-tokens tokens."""
    window = max(2, min(WINDOW, config.eval_tokens))
    count = config.eval_tokens // window
    if config.text:
        name, parts = config.text, [tokenizer.encode(_read(Path(config.text)))]
    elif folders.data(config).is_dir() and _prepared(config, tokenizer):
        name, parts = str(folders.data(config)), _prepared(config, tokenizer)
    else:
        name, parts = "Python's documentation", [[]]
        for _, text in corpora.python_docs():
            if corpora.is_validation(text) and len(text) > 1_000:
                parts[0] += [*tokenizer.start_ids, *tokenizer.encode(text), tokenizer.end_id]
            if len(parts[0]) >= count * window:
                break
    # Equal shares of prose and code where there are both.
    rows = [
        np.asarray(part[: len(part) // window * window], np.int32).reshape(-1, window)[: -(-count // len(parts))]
        for part in parts
    ]
    rows = np.concatenate(rows)[:count]
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
