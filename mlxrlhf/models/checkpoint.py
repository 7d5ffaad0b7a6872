"""Checkpoints on disk: the Hugging Face Llama layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.settings import Fields, read_json, shown

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "template_args.json",
    "generation_config.json",
)


# --- the Hugging Face Llama layout ---------------------------------------------------------------------------------


def write_config(folder: Path, config: ModelConfig, *, dtype: str, pad_id: int, end_id: int) -> None:
    """Write config.json for transformers and mlx-lm.

    Both `rope_theta` and `rope_parameters` are written: transformers 5 reads the second, mlx-lm the first only.
    """
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}
    content = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
    }
    if config.rope_scaling:
        content["rope_scaling"] = config.rope_scaling
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def read_config(folder: Path, quantize: int = 0) -> ModelConfig:
    """Read a config.json: all of it for the Llama family, what our stages ask of a model for any other.

    quantize: the bits that its weights shall be packed into, 0 for what they are. Raises UserError when the folder is
    not a checkpoint, config.json is broken or says too little, or it is packed otherwise.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a checkpoint: it has no config.json")
    c = Fields(path, read_json(path, "restore it or train the checkpoint again"), "only language models are read")
    family = c.text("model_type")
    if family != "llama":
        # A model that also sees images keeps its language part there.
        c = Fields(path, {**c.content, **c.object("text_config")}, "only language models are read")
    rope = c.object("rope_parameters")
    scaling: dict[str, Any] | None = c.object("rope_scaling") or {k: v for k, v in rope.items() if k != "rope_theta"}
    if scaling is not None and scaling.get("rope_type", scaling.get("type", "default")) == "default":
        scaling = None
    elif scaling and family == "llama":
        _check_scaling(path, scaling)
    width, heads = c.size("hidden_size"), c.size("num_attention_heads")
    rope_theta = Fields(path, rope).positive("rope_theta", c.positive("rope_theta", 10_000.0))
    bits, group_size = _packing(path, c.content)
    if quantize and bits not in (0, quantize):
        raise UserError(f"{folder} is in {bits} bits already; leave --quantize {quantize} out")
    return ModelConfig(
        vocab_size=c.size("vocab_size"),
        hidden_size=width,
        num_layers=c.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=c.size("num_key_value_heads", heads),
        intermediate_size=c.size("intermediate_size"),
        head_dim=c.size("head_dim", max(1, width // heads)),
        max_positions=c.size("max_position_embeddings", 2048),
        rope_theta=rope_theta,
        rope_scaling=scaling,
        rms_norm_eps=c.positive("rms_norm_eps", 1e-5),
        tie_word_embeddings=c.truth("tie_word_embeddings"),
        attention_bias=c.truth("attention_bias"),
        mlp_bias=c.truth("mlp_bias"),
        family=family,
        bits=bits or quantize,
        group_size=group_size,
    )


def _packing(path: Path, content: Mapping[str, Any]) -> tuple[int, int]:
    """Bits and group size of weights that MLX packed (`quantization` of a config.json); 0 bits where they are not."""
    packed = content.get("quantization")
    if packed is None:
        return 0, 64  # those of --quantize
    fields = Fields(path, packed if isinstance(packed, dict) else {}, "give the checkpoint that it was made from")
    return fields.size("bits"), fields.size("group_size", 64)


def is_packed(folder: Path) -> bool:
    """Whether a checkpoint's weights are packed on disk, as mlx-community's are."""
    return "quantization" in read_json(Path(folder) / "config.json")


#: the numbers that each kind of rope scaling is made of
_SCALING = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def _check_scaling(path: Path, scaling: dict[str, Any]) -> None:
    """Raises UserError where the rope scaling of a Llama lacks a number it is made of."""
    for name in _SCALING.get(str(scaling.get("rope_type", scaling.get("type"))), ()):
        Fields(path, scaling).positive(name)


def saved_dtype(config: ModelConfig, dtype: str) -> str:
    """The precision that a checkpoint is written in: that of the trunk; of a packed one, which is unpacked for it,
    bfloat16, in which packed models were published and which keeps more than their bits hold."""
    return "bfloat16" if config.bits else dtype


#: bits that MLX packs weights into, and how many of them share a scale
PACKED_BITS, GROUP_SIZES = (2, 3, 4, 5, 6, 8), (32, 64, 128)
#: of those, the bits that `unpacked` reads: codes that fit a 32-bit word evenly
UNPACKED_BITS = (2, 4, 8)


def unpacked(weight: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """The float32 weights (out, in) that MLX packed with its affine quantisation: scale * code + bias in each group.

    weight (out, in * bits / 32) uint32, codes from the lowest bits up; scales and biases (out, groups) float32.
    Raises UserError for other bits than `UNPACKED_BITS`.
    """
    if bits not in UNPACKED_BITS:
        raise UserError(f"weights in {bits} bits are read by --backend mlx only")
    codes = weight[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & np.uint32(2**bits - 1)
    grouped = codes.reshape(*scales.shape, -1).astype(np.float32)
    return (grouped * scales[..., None] + biases[..., None]).reshape(len(weight), -1)


def packings(folder: Path, config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Bits and group size of what is packed in a checkpoint that `weight_files` checked, by the layer's name."""
    if not is_packed(folder):
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(Path(folder)):
        shapes.update(safetensors_shapes(file))
    by_tensor = {name: _packing_of(name, whole, shapes) for name, whole in expected_shapes(config).items()}
    return {name.removesuffix(".weight"): packing for name, packing in by_tensor.items() if packing}


def _packing_of(name: str, whole: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Bits and group size of a tensor that was packed from the shape `whole`; None where it was not packed."""
    scales, biases = (shapes.get(f"{name.removesuffix('.weight')}.{part}") for part in ("scales", "biases"))
    if scales is None:
        return None
    rows, width, packed = whole[0], whole[-1], shapes[name]
    if len(packed) == len(scales) == 2 and scales == biases and packed[0] == scales[0] == rows and scales[1]:
        bits, group_size = packed[1] * 32 / width, width / scales[1]
        if bits in PACKED_BITS and group_size in GROUP_SIZES:
            return int(bits), int(group_size)
    raise UserError(
        f"{name} is packed as {packed} with scales {scales}, which is no affine packing of {whole}; give the "
        "checkpoint that it was made from"
    )


def mlx_lm_settings(folder: Path) -> dict[str, Any]:
    """What mlx-lm has to be told of a checkpoint beside its config.json.

    Of rotary embeddings most of its families read the top of config.json alone, and silently take defaults of their
    own; transformers 5 writes `rope_parameters` (one for each kind of layer, where they differ) and nothing at the top.
    """
    content = read_json(Path(folder) / "config.json")
    told = _rope_at_the_top(content)
    text = content.get("text_config")  # the language part of a model that also sees images
    if isinstance(text, dict) and (rope := _rope_at_the_top(text)):
        told["text_config"] = {**text, **rope}
    return told


def _rope_at_the_top(content: Mapping[str, Any]) -> dict[str, Any]:
    """The rope settings of a config.json under the names that mlx-lm reads."""
    told: dict[str, Any] = {}
    rope = content.get("rope_parameters")
    rope = dict(rope) if isinstance(rope, dict) else {}
    if rope and all(isinstance(value, dict) for value in rope.values()):  # by kind of layer: Gemma 3, OLMo 3
        if "rope_theta" in rope.get("sliding_attention", {}):
            told["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope.get("full_attention", {}))
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            told[name] = rope.pop(name)
    scaling = rope or content.get("rope_scaling")
    if isinstance(scaling, dict):
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            told["rope_scaling"] = _scaling_for_mlx_lm(kind, scaling, content)
            if "original_max_position_embeddings" in scaling:  # Phi 3 looks for it here
                told["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return told


def _scaling_for_mlx_lm(kind: str, scaling: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """A rope scaling with the names and without the defaults of transformers, which differ from mlx-lm's."""
    told = {**scaling, "type": kind, "rope_type": kind}
    if kind == "yarn":
        told.setdefault("original_max_position_embeddings", content.get("max_position_embeddings", 2048))
        attention = told.pop("attention_factor", None)
        if attention is not None and told.get("factor", 1) > 1:
            # mlx-lm has no such setting, and computes it as 1 + 0.1 mscale log(factor).
            told["mscale"], told["mscale_all_dim"] = (attention - 1) / (0.1 * math.log(told["factor"])), 0
    return {name: value for name, value in told.items() if value is not None}


@contextlib.contextmanager
def for_mlx_lm(folder: Path) -> Iterator[Path]:
    """The checkpoint as mlx-lm reads it rightly where it takes a folder and nothing beside it.

    That is the folder itself or, where config.json says more than mlx-lm reads, a temporary one of links to its files
    with a config.json that says it.
    """
    folder = Path(folder)
    content = read_json(folder / "config.json")
    told = mlx_lm_settings(folder)
    if all(content.get(name) == value for name, value in told.items()):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mlxrlhf-") as temporary:
        other = Path(temporary) / (folder.resolve().name or "model")
        other.mkdir()
        for path in folder.iterdir():
            if path.name != "config.json":
                (other / path.name).symlink_to(path.resolve())
        (other / "config.json").write_text(json.dumps({**content, **told}, indent=2) + "\n")
        yield other


def copy_config(source: Path, target: Path, *, dtype: str) -> None:
    """The config.json of a family that is not ours, as it is but for the precision and what mlx-lm would not see."""
    content = read_json(Path(source) / "config.json") | mlx_lm_settings(source)
    content["torch_dtype"] = content["dtype"] = dtype
    for name in ("quantization", "quantization_config"):  # what is written is never packed
        content.pop(name, None)
    (Path(target) / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def check_safetensors(folder: Path) -> None:
    """Raises UserError for a missing, truncated or corrupt safetensors file of a folder."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no model*.safetensors; the checkpoint is incomplete")
    for file in files:
        safetensors_shapes(file)


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, in Hugging Face's names."""
    shapes = {"model.embed_tokens.weight": (c.vocab_size, c.hidden_size), "model.norm.weight": (c.hidden_size,)}
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, c.hidden_size)
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    for i in range(c.num_layers):
        block = f"model.layers.{i}."
        linears = {
            "self_attn.q_proj": (q, c.hidden_size, c.attention_bias),
            "self_attn.k_proj": (kv, c.hidden_size, c.attention_bias),
            "self_attn.v_proj": (kv, c.hidden_size, c.attention_bias),
            "self_attn.o_proj": (c.hidden_size, q, c.attention_bias),
            "mlp.gate_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
            "mlp.up_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
            "mlp.down_proj": (c.hidden_size, c.intermediate_size, c.mlp_bias),
        }
        for name, (out, into, bias) in linears.items():
            shapes[f"{block}{name}.weight"] = (out, into)
            if bias:
                shapes[f"{block}{name}.bias"] = (out,)
        shapes[f"{block}input_layernorm.weight"] = (c.hidden_size,)
        shapes[f"{block}post_attention_layernorm.weight"] = (c.hidden_size,)
    return shapes


def weight_files(folder: Path, config: ModelConfig) -> list[Path]:
    """The safetensors files of a checkpoint, checked before any library opens them.

    Raises UserError for a missing, truncated or corrupt file, and for tensors that do not fit config.json.
    """
    folder = Path(folder)
    files = _files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(safetensors_shapes(file))
    expected = expected_shapes(config)
    blocks = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
    if beyond := sorted(int(n) for n in blocks if n.isdecimal() and int(n) >= config.num_layers):
        raise UserError(
            f"{folder} holds {beyond[-1] + 1} layers, but its config.json asks for {config.num_layers}; restore the "
            "config.json of these weights"
        )
    for name, shape in expected.items():
        if name not in shapes:
            raise UserError(f"{folder} lacks the tensor {name} that its config.json asks for; it is incomplete")
        if not _packing_of(name, shape, shapes) and shapes[name] != shape:
            raise UserError(f"{folder}: {name} is {shapes[name]}, but its config.json asks for {shape}")
    return files


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint of the Llama family."""
    index = folder / "model.safetensors.index.json"
    return _indexed(index) if index.is_file() else [folder / "model.safetensors"]


def check_finite(file: Path, name: str, finite: bool) -> None:
    """Raises UserError where a tensor holds NaN or infinity: whatever such a model says or learns is noise."""
    if not finite:
        raise UserError(
            f"{file}: {name} holds numbers that are not finite; copy the checkpoint again, or train it with a lower "
            "--learning-rate"
        )


def _indexed(index: Path) -> list[Path]:
    """The files that model.safetensors.index.json names, all beside it."""
    names = read_json(index, "copy the checkpoint again").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()):
        raise UserError(f"{index} has no weight_map from tensors to files; copy the checkpoint again")
    if strange := [name for name in names.values() if Path(name).name != name]:
        raise UserError(f"{index} names {shown(strange[0])}, which lies outside its folder; copy the checkpoint again")
    return sorted({index.parent / name for name in names.values()})


#: bytes of one element, by the names of the safetensors format
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


def safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, once the header is known to describe the whole file and nothing else."""
    try:
        with open(file, "rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > 100_000_000:
                raise ValueError("impossible header length")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        end = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = entry["data_offsets"]
            if begin != end or any(not isinstance(n, int) or n < 0 for n in entry["shape"]):
                raise ValueError(f"the place of {name[:80]} is wrong")
            if math.prod(entry["shape"]) * _BYTES.get(entry["dtype"], 1) != stop - begin:
                raise ValueError(f"the length of {name[:80]} is wrong")
            end = stop
        if file.stat().st_size != 8 + size + end:
            raise ValueError(f"{file.stat().st_size} bytes where its header says {8 + size + end}")
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; the checkpoint is incomplete") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise UserError(f"{file} is corrupt ({error}); copy it again or train the checkpoint again") from None


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer and the chat template, so that a checkpoint stands on its own."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)


def save_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays as safetensors."""
    write_safetensors(Path(path), arrays, metadata)


#: NumPy's types in the words of safetensors, in the order in which it stores them; ml_dtypes adds bfloat16 to NumPy
SAFETENSORS_TYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> str:
    """Write named arrays as safetensors, one after the other, and return the sha256 of the file.

    The file is the one that safetensors' own save writes. That raises an exception of its own, this OSError.
    """
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # Wide types first, so that every array is aligned.
    order = list(SAFETENSORS_TYPES)
    names = sorted(ordered, key=lambda name: (order.index(ordered[name].dtype.name), name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in names:
        array = ordered[name]
        start, end = end, end + array.nbytes
        kind = SAFETENSORS_TYPES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as stream:

        def put(part: bytes | memoryview) -> None:
            stream.write(part)
            digest.update(part)

        put(struct.pack("<Q", len(text)))
        put(text)
        for name in names:
            put(ordered[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read them back. Raises UserError for a missing or corrupt file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    safetensors_shapes(Path(path))
    try:
        return load(Path(path).read_bytes())
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a type of number that NumPy lacks
        raise UserError(f"{path} is corrupt ({error}); copy it again") from None
