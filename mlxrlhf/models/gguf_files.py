"""A Llama checkpoint as a GGUF file for llama.cpp: weights, tokenizer and chat template in one file.

llama.cpp interleaves the two halves of every head's query and key rows, keeps llama3's rope scaling as a tensor, and
has tokenizers of its own: the file says which (SentencePiece by scores, or byte-level BPE by merges and the name of a
pre-tokenizer), so that it gives the same ids.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import checkpoint

#: regular expression of Llama 3's pre-tokenizer, which tells it from the others of its kind
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def write_gguf(source: Path, file: Path, gguf_type: str) -> None:
    """Write the checkpoint in `source` to `file`, its matrices as gguf_type (f32, f16, bf16, q8_0).

    Raises UserError for another family than Llama, or a tokenizer or rope scaling that llama.cpp has no name for.
    """
    import gguf

    config = checkpoint.read_config(source)
    if config.family != "llama":
        raise UserError(
            f"{source} holds a {config.family} model; GGUF is written for the Llama family only: run "
            "llama.cpp's convert_hf_to_gguf.py on the folder"
        )
    kind = getattr(gguf.GGMLQuantizationType, gguf_type.upper())
    temporary = file.with_name(f".{file.name}-{os.getpid()}")
    writer = gguf.GGUFWriter(temporary, "llama", use_temp_file=True)
    _add_shape(writer, config)
    writer.add_name(source.resolve().name)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[gguf_type]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, source, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    try:
        for name, array in _tensors(source, config):
            stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
            if stored == gguf.GGMLQuantizationType.Q8_0 and array.shape[1] % 32:
                stored = gguf.GGMLQuantizationType.F16  # Q8_0 has blocks of 32 weights
            called = names.get_name(name, (".weight", ".bias"))
            if called is None:
                raise UserError(f"{source}: GGUF has no name for the tensor {name}")
            writer.add_tensor(called, gguf.quants.quantize(array, stored), raw_dtype=stored)
        factors = _rope_factors(config)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another --out") from None
    finally:
        temporary.unlink(missing_ok=True)


# --- weights -------------------------------------------------------------------------------------------------------


def _add_shape(writer, c: ModelConfig) -> None:
    import gguf

    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_positions)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_heads)
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    scaling = _rope_kind(c)
    if scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor((c.rope_scaling or {})["factor"])
    elif scaling not in (None, "llama3"):
        raise UserError(
            f"rope scaling {scaling!r} is not written to GGUF; run llama.cpp's convert_hf_to_gguf.py on the folder"
        )


def _rope_kind(c: ModelConfig) -> str | None:
    scaling = c.rope_scaling or {}
    return scaling.get("rope_type", scaling.get("type"))


def _rope_factors(c: ModelConfig) -> np.ndarray | None:
    """What llama3's scaling divides each frequency by, (head_dim / 2,) float32: llama.cpp reads it as a tensor."""
    s = c.rope_scaling
    if not s or _rope_kind(c) != "llama3":
        return None
    low, high, context = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * c.rope_theta ** (np.arange(0, c.head_dim, 2) / c.head_dim)
    # 0 keeps a frequency's slow part scaled by the factor, 1 leaves it alone; between them it is blended.
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / s["factor"] + smooth)).astype(np.float32)


def _tensors(source: Path, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its Hugging Face name, float32, query and key rows in llama.cpp's order."""
    from gguf import GGMLQuantizationType, quants
    from gguf.utility import SafetensorsLocal

    stored = {}
    for file in checkpoint.weight_files(source, config):
        stored.update(SafetensorsLocal(file).tensors)
    for name in checkpoint.expected_shapes(config):
        tensor = stored[name]
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise UserError(f"{source}: {name} is {tensor.dtype}; export an unquantised checkpoint")
        array = quants.dequantize(tensor.mmap_bytes(), getattr(GGMLQuantizationType, tensor.dtype))
        array = np.ascontiguousarray(array, np.float32).reshape(tensor.shape)
        checkpoint.check_finite(source, name, bool(np.isfinite(array).all()))
        part = name.split(".")[-2]
        if part in ("q_proj", "k_proj"):
            array = permute(array, config.num_heads if part == "q_proj" else config.num_kv_heads)
        yield name, array


def permute(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows (or a bias) of q_proj or k_proj from transformers' order, halves apart, to llama.cpp's, interleaved."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


# --- tokenizer -----------------------------------------------------------------------------------------------------


def _add_tokenizer(writer, source: Path, vocab_size: int) -> None:
    """The tokenizer as transformers reads it, and the chat template."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise UserError(
            f"{source}: a {model['type']} tokenizer is not written to GGUF; run llama.cpp's "
            "convert_hf_to_gguf.py on the folder"
        )
    # Published models may round their embedding up: rows that no token uses.
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types: list[int] = [TokenType.UNUSED] * vocab_size
    for token, i in model["vocab"].items():
        tokens[i], types[i] = token, TokenType.NORMAL
    if model.get("byte_fallback"):
        writer.add_token_scores(_add_sentencepiece(writer, source, content, tokens, types))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(source, content["pre_tokenizer"]))
        writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    for token in content["added_tokens"]:
        tokens[token["id"]] = token["content"]
        if types[token["id"]] != TokenType.UNKNOWN:
            types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name in ("bos", "eos", "unk", "pad"):
        i = getattr(tokenizer, f"{name}_token_id")
        if i is not None:
            getattr(writer, f"add_{name}_token_id")(i)
    plain, whole = (tokenizer.encode("a", add_special_tokens=add) for add in (False, True))
    writer.add_add_bos_token(whole[:1] != plain[:1])
    writer.add_add_eos_token(whole[-1:] != plain[-1:])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def _add_sentencepiece(writer, source: Path, content: dict, tokens: list[str], types: list[int]) -> list[float]:
    """Name the tokenizer, fill in the types of its pieces, and return their scores, which order the merges."""
    import sentencepiece
    from gguf import TokenType

    file = source / "tokenizer.model"
    if not file.is_file():
        raise UserError(
            f"{source} has no tokenizer.model, whose scores a GGUF file needs; copy it from where the "
            "checkpoint came from"
        )
    pieces = sentencepiece.SentencePieceProcessor(str(file))
    scores = [-1000.0] * len(tokens)
    for i in range(pieces.get_piece_size()):
        scores[i] = pieces.get_score(i)
        for asked, kind in (
            (pieces.is_unknown, TokenType.UNKNOWN),
            (pieces.is_control, TokenType.CONTROL),
            (pieces.is_byte, TokenType.BYTE),
        ):
            if asked(i):
                types[i] = kind
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # tokenizer.json decides: transformers and mlx-lm read that one.
    described = json.dumps([content["normalizer"], content["pre_tokenizer"]])
    writer.add_add_space_prefix(any(f'"{word}"' in described for word in ("Prepend", "always", "first")))
    return scores


def _pre_tokenizer(source: Path, described: dict | None) -> str:
    """llama.cpp's name for a byte-level pre-tokenizer."""
    steps = described.get("pretokenizers", [described]) if described else []
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == _LLAMA3:
        return "llama-bpe"
    raise UserError(
        f"{source}: its pre-tokenizer ({', '.join(kinds) or 'none'}) is not one that is written to GGUF "
        "here; run llama.cpp's convert_hf_to_gguf.py on the folder"
    )


_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def convert_gguf(file: Path, target: Path) -> None:
    """Write the Llama checkpoint of a GGUF file as a Hugging Face folder: float32 weights, tokenizer, chat template.

    Raises UserError for another family and for a damaged file.
    """
    try:
        config, weights, meta = _read_gguf(file)
    except UserError:
        raise
    except Exception as error:  # the gguf package raises whatever a damaged byte leads to
        raise UserError(f"{file} is no whole GGUF file of a Llama ({error or type(error).__name__})") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        checkpoint.save_arrays(folder / "model.safetensors", weights, metadata={"format": "pt"})
        checkpoint.write_config(
            folder,
            config,
            dtype="float32",
            pad_id=meta["tokenizer.ggml.padding_token_id"],
            end_id=meta["tokenizer.ggml.eos_token_id"],
        )
        _write_tokenizer(meta, folder)


def _read_gguf(file: Path) -> tuple[ModelConfig, dict[str, np.ndarray], dict[str, Any]]:
    """The shape, the weights by Hugging Face's names, and the metadata of a GGUF file."""
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
        vocab_size=len(weights["model.embed_tokens.weight"]),
        hidden_size=width,
        num_layers=meta["llama.block_count"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=meta["llama.feed_forward_length"],
        head_dim=width // heads,
        max_positions=meta["llama.context_length"],
        rope_theta=float(meta["llama.rope.freq_base"]),
        rms_norm_eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
        tie_word_embeddings="lm_head.weight" not in weights,
    )
    return config, weights, meta


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
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "added_tokens": [
            {"id": i, "content": t, **flags} for i, (t, kind) in enumerate(zip(tokens, kinds)) if kind == 3
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]},
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    named = {
        name: tokens[meta[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
        if f"tokenizer.ggml.{key}_token_id" in meta
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        **named,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(meta["tokenizer.chat_template"])
