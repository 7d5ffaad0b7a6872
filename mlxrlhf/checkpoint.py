"""Checkpoints on disk: the Hugging Face Llama layout, atomic writes, and save points to resume from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json")
#: bytes of one file of a save point
SHARD = 2**28


# --- atomic writes -------------------------------------------------------------------------------------------------

def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    A folder already at `path` is replaced; sub-folders of the old one (save points, reports) are kept.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; choose another folder with --out") from None
    try:
        yield temporary
        for file in temporary.iterdir():
            _fsync(file)
        os.chmod(temporary, 0o755)
        if path.exists():
            for kept in path.iterdir():
                if not (temporary / kept.name).exists() and not kept.name.endswith(".safetensors"):
                    shutil.move(kept, temporary / kept.name)
            old = path.with_name(f".{path.name}-old-{os.getpid()}")
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    _fsync(temporary)
    os.replace(temporary, path)


# --- the Hugging Face Llama layout ---------------------------------------------------------------------------------

def write_config(folder: Path, config: ModelConfig, *, dtype: str, pad_id: int, end_id: int) -> None:
    """Write config.json for transformers and mlx-lm.

    Both `rope_theta` and `rope_parameters` are written: transformers 5 reads the second, mlx-lm the first only.
    """
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}
    content = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": dtype,
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim, "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta, "rope_parameters": rope,
        "tie_word_embeddings": config.tie_word_embeddings, "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias, "bos_token_id": None, "eos_token_id": end_id, "pad_token_id": pad_id,
    }
    if config.rope_scaling:
        content["rope_scaling"] = config.rope_scaling
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def read_config(folder: Path) -> ModelConfig:
    """Read a config.json: all of it for the Llama family, what our stages ask of a model for any other.

    Raises UserError when the folder is not a checkpoint or says too little.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a checkpoint: it has no config.json")
    try:
        c = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or train the checkpoint again") from None
    family = c.get("model_type")
    if family != "llama":
        c = {**c, **c.get("text_config", {})}  # a model that also sees images keeps its language part there
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if missing := [name for name in needed if name not in c]:
        raise UserError(f"{path} describes a {family!r} model and lacks {missing[0]}; only language models are read")
    rope = c.get("rope_parameters") or {}
    scaling = c.get("rope_scaling") or {k: v for k, v in rope.items() if k != "rope_theta"}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        scaling = None
    heads = c["num_attention_heads"]
    return ModelConfig(
        vocab_size=c["vocab_size"], hidden_size=c["hidden_size"], num_layers=c["num_hidden_layers"], num_heads=heads,
        num_kv_heads=c.get("num_key_value_heads") or heads, intermediate_size=c["intermediate_size"],
        head_dim=c.get("head_dim") or c["hidden_size"] // heads, max_positions=c.get("max_position_embeddings", 2048),
        rope_theta=rope.get("rope_theta") or c.get("rope_theta") or 10_000.0, rope_scaling=scaling,
        rms_norm_eps=c.get("rms_norm_eps", 1e-5), tie_word_embeddings=c.get("tie_word_embeddings", False),
        attention_bias=c.get("attention_bias", False), mlp_bias=c.get("mlp_bias", False), family=family)


def refuse_quantised(folder: Path) -> None:
    """Raises UserError for a checkpoint whose weights are packed: only mlx-lm runs those."""
    if "quantization" in json.loads((Path(folder) / "config.json").read_text()):
        raise UserError(f"{folder} is quantised: mlx_lm.generate and mlxrlhf serve run it; here, give the checkpoint "
                        "it was made from")


def mlx_lm_reads_rope(folder: Path, config: ModelConfig) -> bool:
    """Whether mlx-lm sees a checkpoint's rope settings: for the Llama family it reads the top of config.json only, and
    takes base 10,000 without scaling where transformers 5 wrote `rope_parameters` alone."""
    content = json.loads((Path(folder) / "config.json").read_text())
    return config.family != "llama" or (config.rope_theta == content.get("rope_theta", 10_000.0)
                                        and bool(config.rope_scaling) == bool(content.get("rope_scaling")))


def copy_config(source: Path, target: Path, *, dtype: str) -> None:
    """The config.json of a family that is not ours, as it is but for the precision."""
    content = json.loads((Path(source) / "config.json").read_text())
    content["torch_dtype"] = content["dtype"] = dtype
    (Path(target) / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def check_safetensors(folder: Path) -> None:
    """Raises UserError for a missing, truncated or corrupt safetensors file of a folder."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no model*.safetensors; the checkpoint is incomplete")
    for file in files:
        _safetensors_shapes(file)


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, in Hugging Face's names."""
    shapes = {"model.embed_tokens.weight": (c.vocab_size, c.hidden_size), "model.norm.weight": (c.hidden_size,)}
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, c.hidden_size)
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    for i in range(c.num_layers):
        block = f"model.layers.{i}."
        linears = {"self_attn.q_proj": (q, c.hidden_size, c.attention_bias),
                   "self_attn.k_proj": (kv, c.hidden_size, c.attention_bias),
                   "self_attn.v_proj": (kv, c.hidden_size, c.attention_bias),
                   "self_attn.o_proj": (c.hidden_size, q, c.attention_bias),
                   "mlp.gate_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
                   "mlp.up_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
                   "mlp.down_proj": (c.hidden_size, c.intermediate_size, c.mlp_bias)}
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
    refuse_quantised(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    else:
        files = [folder / "model.safetensors"]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(_safetensors_shapes(file))
    for name, shape in expected_shapes(config).items():
        if name not in shapes:
            raise UserError(f"{folder} lacks the tensor {name} that its config.json asks for; it is incomplete")
        if shapes[name] != shape:
            raise UserError(f"{folder}: {name} is {shapes[name]}, but its config.json asks for {shape}")
    return files


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with open(file, "rb") as stream:
            size = struct.unpack("<Q", stream.read(8))[0]
            if size > 100_000_000:
                raise ValueError("impossible header length")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size != 8 + size + end:
            raise ValueError(f"{file.stat().st_size} bytes where its header says {8 + size + end}")
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; the checkpoint is incomplete") from None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(f"{file} is corrupt ({error}); copy it again or train the checkpoint again") from None


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer and the chat template, so that a checkpoint stands on its own."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)


def save_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays as safetensors."""
    from safetensors.numpy import save

    Path(path).write_bytes(save({k: np.asarray(v, order="C") for k, v in arrays.items()}, metadata=metadata))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read them back. Raises UserError for a missing or corrupt file."""
    from safetensors.numpy import load

    _safetensors_shapes(Path(path))
    return load(Path(path).read_bytes())


def save_adapters(folder: Path, weights: dict[str, np.ndarray], *, scale: float, num_layers: int) -> None:
    """Write LoRA adapters as mlx-lm does, for `mlx_lm.generate --adapter-path`; names end in lora_a and lora_b."""
    folder.mkdir()
    save_arrays(folder / "adapters.safetensors", weights)
    rank = next(v.shape[1] for k, v in weights.items() if k.endswith("lora_a"))
    keys = sorted({".".join(name.split(".")[3:-1]) for name in weights})
    described = {"fine_tune_type": "lora", "num_layers": num_layers,
                 "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys}}
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")


# --- save points: what an interrupted run continues from -----------------------------------------------------------

class SavePoints:
    """The last two states of a run under `folder`/state, each complete or absent, each checked by its sha256."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "state"

    def save(self, step: int, arrays: Iterable[tuple[str, np.ndarray]], state: dict) -> None:
        """Write one state: `arrays` (weights, optimizer) and `state` (JSON: controller, best loss, configuration).

        Arrays are taken one by one and written in files of SHARD bytes, so that a save costs no more memory than that.
        """
        if not parallel.first():
            return
        from safetensors.numpy import save_file

        with atomic_folder(self.folder / f"step-{step:08d}") as folder:
            shard: dict[str, np.ndarray] = {}
            digests: dict[str, str] = {}

            def flush() -> None:
                name = f"arrays-{len(digests):05d}.safetensors"
                save_file(shard, folder / name)
                digests[name] = _digest(folder / name)
                shard.clear()

            for name, array in arrays:
                if shard and sum(a.nbytes for a in shard.values()) + array.nbytes > SHARD:
                    flush()
                shard[name] = np.asarray(array, order="C")
            flush()
            (folder / "state.json").write_text(json.dumps({"step": step, "sha256": digests, **state}))
        for old in self._steps()[:-2]:
            shutil.rmtree(old)

    def latest(self, say=print) -> tuple[Mapping[str, np.ndarray], dict] | None:
        """The newest undamaged state, or None. A damaged one is named through `say` and passed over."""
        for folder in reversed(self._steps()):
            try:
                state = json.loads((folder / "state.json").read_text())
                files = {folder / name: digest for name, digest in state["sha256"].items()}
                if any(_digest(file) != digest for file, digest in files.items()):
                    raise ValueError("checksum mismatch")
                return _Arrays(files), state
            except (OSError, ValueError, KeyError, AttributeError) as error:
                say(f"{folder} is damaged ({error}); going back to the save before it")
        return None

    def clear(self) -> None:
        """Forget every state: a new run starts."""
        if not parallel.first():
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())


class _Arrays(Mapping):
    """The arrays of safetensors files, each read when it is asked for."""

    def __init__(self, files: Iterable[Path]):
        from safetensors import safe_open

        opened = [safe_open(file, framework="numpy") for file in files]
        self._owners = {name: file for file in opened for name in file.keys()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._owners[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


def _digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
