"""Quantised folders by mlx-lm's own converter, and what they cost."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
from mlx_lm.utils import dequantize_model, load_model

from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.models.checkpoint import safetensors_shapes


def convert(source: Path, target: Path, *, bits: int, group_size: int, dtype: str) -> list[str]:
    """Quantise a checkpoint into the existing folder `target`. Returns the matrices that stay as they were.

    Raises UserError for one that mlx-lm cannot convert.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), checkpoint.for_mlx_lm(source) as readable:
            mlx_lm.convert(
                str(readable),
                str(target / "mlx"),
                quantize=True,
                q_bits=bits,
                q_group_size=group_size,
                dtype=dtype,
                trust_remote_code=False,
            )
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"mlx-lm cannot quantise {source} ({str(error).splitlines()[0]}); try --group-size 32, or --to hf"
        ) from None
    for file in (target / "mlx").iterdir():
        file.rename(target / file.name)
    shutil.rmtree(target / "mlx")
    return _left_as_it_was(source, target, group_size)


def _left_as_it_was(source: Path, target: Path, group_size: int) -> list[str]:
    """Matrices that mlx-lm passed over: their rows are no multiple of a group. Raises UserError where that is all."""
    names = {name for file in target.glob("model*.safetensors") for name in safetensors_shapes(file)}
    matrices = [
        name
        for file in source.glob("model*.safetensors")
        for name, shape in safetensors_shapes(file).items()
        if len(shape) == 2 and name in names
    ]
    left = [name for name in matrices if f"{name.removesuffix('.weight')}.scales" not in names]
    if len(left) == len(matrices):
        raise UserError(
            f"groups of {group_size} divide no matrix of {source}, so nothing would be quantised; take "
            "--group-size 32, or --to hf"
        )
    return left


def cost(whole: Path, quantised: Path, rows: np.ndarray) -> dict[str, float]:
    """Perplexity before and after on rows (N, T) of ids, and the mean KL(before || after) per token, in nats."""
    models = [_load(folder) for folder in (whole, quantised)]
    sums = np.zeros(3)
    for row in rows:
        tokens = mx.array(row[None])
        before, after = (nn.log_softmax(model(tokens[:, :-1])[0].astype(mx.float32), axis=-1) for model in models)
        targets = tokens[0, 1:, None]
        kl = (mx.exp(before) * (before - after)).sum(axis=-1)
        logps = [mx.take_along_axis(logps, targets, axis=-1).sum() for logps in (before, after)]
        sums += np.array([*map(float, logps), float(kl.sum())])
    means = sums / (rows.shape[0] * (rows.shape[1] - 1))
    return {
        "perplexity_before": float(np.exp(-means[0])),
        "perplexity_after": float(np.exp(-means[1])),
        "kl_nats_per_token": float(means[2]),
    }


def _load(folder: Path) -> nn.Module:
    """The model as mlx_lm.generate loads it. On the CPU its weights are unpacked to float32 first, the same numbers:
    MLX multiplies packed and bfloat16 matrices slowly there."""
    model, _ = load_model(folder, model_config=checkpoint.mlx_lm_settings(folder), trust_remote_code=False)
    if mx.default_device() == mx.Device(mx.cpu):
        model.set_dtype(mx.float32)  # first: the weights would be rounded to the precision of their scales
        model = dequantize_model(model)
    return model
