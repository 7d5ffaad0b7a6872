"""Where the constants of mlxrlhf/plan.py come from: peaks of random small models, fitted by non-negative least squares.

    python benchmarks/memory_fit.py mlx full float32 [--count 36]

Modes: full, lora, checkpointed (the backward pass of one batch), forward (evaluation). Every sample is a model of
random shape; what is fitted is the peak above what was held before, in elements: so many times d per token and layer,
and so on. Needs scipy.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys

import numpy as np


def sample(rng: np.random.Generator) -> dict:
    """A random shape: sizes large enough that a few hundred bytes do not matter."""
    heads = int(rng.choice([2, 4, 6, 8]))
    length = int(rng.choice([32, 64, 128, 192]))
    return {"vocab_size": int(rng.choice([64, 512, 2048, 4096])),
            "hidden_size": int(rng.choice([128, 192, 256, 384, 512])),
            "num_layers": int(rng.choice([2, 4, 6, 8, 10])), "num_heads": heads,
            "num_kv_heads": int(rng.choice([h for h in (1, 2, 4) if heads % h == 0])),
            "intermediate_size": int(rng.choice([256, 512, 768, 1024])),
            "rows": int(rng.choice([1024, 1536, 2048])) // length, "length": length}


def measure(backend_name: str, mode: str, dtype: str, shape: dict) -> int:
    """Peak bytes above what was held before."""
    from mlxrlhf import backends
    from mlxrlhf.algorithms import losses
    from mlxrlhf.config import ModelConfig

    shape = dict(shape)
    rows, length = shape.pop("rows"), shape.pop("length")
    config = ModelConfig(**shape)
    backend = backends.load(backend_name, "cpu")
    model = backend.Model(config, seed=0, dtype=dtype, lora_rank=8 * (mode == "lora"), value_head=mode == "forward",
                          gradient_checkpointing=mode == "checkpointed")
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length), dtype=np.int32)
    mask = np.ones((rows, length - 1), np.float32)
    batch = {"tokens": tokens, "start": np.int32(1), "mask": mask, "total": np.float32(mask.sum())}
    gc.collect()
    before = reset(backend_name)
    if mode == "forward":
        model.evaluate(batch, ("logp", "entropy", "value"))
        return peak(backend_name) - before
    gradient, metrics = model._gradient(losses.language_modelling, batch, ("logp",), 1.0)
    if backend_name == "mlx":
        import mlx.core as mx
        mx.eval(gradient, metrics)
    return peak(backend_name) - before


def reset(backend_name: str) -> int:
    """Start a new high-water mark; returns what is held now. Linux only for torch: the mark is the kernel's."""
    if backend_name == "mlx":
        import mlx.core as mx
        mx.synchronize()
        mx.reset_peak_memory()
        return mx.get_active_memory()
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    return peak(backend_name)


def peak(backend_name: str) -> int:
    if backend_name == "mlx":
        import mlx.core as mx
        return mx.get_peak_memory()
    with open("/proc/self/status") as stream:
        return 1024 * next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))


def features(s: dict) -> dict[str, int]:
    """Elements that each constant multiplies."""
    tokens, layers, q = s["rows"] * s["length"], s["num_layers"], s["num_heads"] * 64
    sizes = {"d": s["hidden_size"], "ff": s["intermediate_size"], "q": q, "kv": s["num_kv_heads"] * 64,
             "scores": s["num_heads"] * s["length"]}
    return {**{f"layer {k}": layers * tokens * v for k, v in sizes.items()},
            **{f"once {k}": tokens * v for k, v in sizes.items() if k != "kv"}, "once vocab": tokens * s["vocab_size"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=("mlx", "torch"))
    parser.add_argument("mode", choices=("full", "lora", "checkpointed", "forward"))
    parser.add_argument("dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--count", type=int, default=36)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        toy = {"vocab_size": 64, "hidden_size": 64, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1,
               "intermediate_size": 64, "rows": 2, "length": 16}
        measure(a.backend, a.mode, a.dtype, toy)  # what the library loads at its first step
        print(measure(a.backend, a.mode, a.dtype, json.loads(a.one)))
        return
    from scipy.optimize import nnls

    rng, shapes, peaks = np.random.default_rng(1), [], []
    for _ in range(a.count):
        shapes.append(sample(rng))
        if a.backend == "mlx":
            peaks.append(measure(a.backend, a.mode, a.dtype, shapes[-1]))
        else:  # torch's allocator keeps what it freed: each sample has a process of its own
            command = [sys.executable, __file__, a.backend, a.mode, a.dtype, "--one", json.dumps(shapes[-1])]
            done = subprocess.run(command, capture_output=True, text=True, check=True,
                                  env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "0"})
            peaks.append(int(done.stdout))
    bytes_each = {"float32": 4, "bfloat16": 2}[a.dtype]
    x = np.array([list(features(s).values()) for s in shapes], float)
    y = np.array(peaks, float) / bytes_each
    found, _ = nnls(x / y[:, None], np.ones(len(y)))
    error = x @ found / y - 1
    print(json.dumps({"backend": a.backend, "mode": a.mode, "dtype": a.dtype,
                      **{k: round(float(v), 2) for k, v in zip(features(shapes[0]), found)},
                      "rms_error": round(float(np.sqrt((error**2).mean())), 3),
                      "max_error": round(float(np.abs(error).max()), 3)}))


if __name__ == "__main__":
    main()
