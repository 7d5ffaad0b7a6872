"""The reward model: a two-layer head on pooled hidden states, its training and its folder on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxrlhf.algorithms import evidence, losses
from mlxrlhf.algorithms.rollout import READ_TOGETHER, bucket
from mlxrlhf.config import RewardConfig
from mlxrlhf.data.batches import pick
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.models.adapters import load_model
from mlxrlhf.preferences.encoded import EncodedPair, pair_weights
from mlxrlhf.report.runlog import progress


def features(
    base,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    pad_id: int,
    batch_size: int = READ_TOGETHER,
    adapters: bool = False,
    title: str = "",
) -> np.ndarray:
    """Mean hidden state of the base over each sequence from its start on, (N, d) float32; adapters off by default.

    starts: index of each answer's first token, at least 1. Equal sequences are read once: many pairs share their chosen
    answer. The rest are taken in order of length, so that a batch is hardly padded.
    """
    numbers: dict[tuple, int] = {}
    index = [numbers.setdefault((start, *sequence), len(numbers)) for start, sequence in zip(starts, sequences)]
    distinct = [(start, ids) for start, *ids in numbers]
    order = np.argsort([len(ids) for _, ids in distinct], kind="stable")
    out = None
    with progress(title, len(order)) as advance:
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            batch = _padded([distinct[i][1] for i in rows], [distinct[i][0] for i in rows], pad_id)
            found = base.evaluate(batch, ("features",), adapters=adapters)["features"]
            out = np.empty((len(distinct), found.shape[1]), np.float32) if out is None else out
            out[rows] = found
            advance(len(rows))
    return out[index]


def _padded(sequences: Sequence[Sequence[int]], starts: Sequence[int], pad_id: int) -> dict[str, np.ndarray]:
    """Padding lies to the right of every real token, where a causal model cannot see it; mask counts the answers."""
    width = bucket(max(map(len, sequences)))
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    mask = np.zeros((len(sequences), width - 1), np.float32)
    for row, counted, sequence, start in zip(tokens, mask, sequences, starts):
        row[: len(sequence)] = sequence
        counted[start - 1 : len(sequence) - 1] = 1
    return {"tokens": tokens, "start": np.int32(1), "mask": mask}


def accuracy(head, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Per pair: 1 where the chosen answer scores higher, 0.5 on a tie; features (N, d) -> (N,)."""
    return evidence.wins(head.scores(chosen) - head.scores(rejected))


def train_head(
    head,
    chosen: np.ndarray,
    rejected: np.ndarray,
    config: RewardConfig,
    *,
    start: int = 0,
    weights: np.ndarray | None = None,
    on_step=lambda step, metrics: None,
) -> None:
    """`num_epochs` passes of the chosen loss over cached features (N, d), from optimizer step `start`.

    weights (N,), 1 on average: how much each pair counts; None counts all alike.
    """
    size = min(config.batch_size, len(chosen))
    total = config.num_epochs * -(-len(chosen) // size)
    for step in range(start, total):
        rows = pick(len(chosen), size, config.seed, step)
        rate = config.learning_rate * (1 - step / total)
        on_step(
            step + 1,
            {
                **head.step(
                    config.loss,
                    config.margin,
                    chosen[rows],
                    rejected[rows],
                    rate,
                    None if weights is None else weights[rows],
                ),
                "lr": rate,
            },
        )


def unfreeze_steps(config: RewardConfig, pairs: int) -> int:
    """Optimizer steps with the base unfrozen."""
    return config.unfreeze_epochs * -(-pairs // min(config.unfreeze_batch_size, pairs))


def unfreeze(
    model,
    pairs: Sequence[EncodedPair],
    config: RewardConfig,
    pad_id: int,
    *,
    start: int = 0,
    on_step=lambda step, metrics: None,
) -> None:
    """`unfreeze_epochs` passes of the chosen loss over adapters and head together, from optimizer step `start`."""
    objective = losses.pair_objective(config.loss, config.margin)
    size = min(config.unfreeze_batch_size, len(pairs))
    total = unfreeze_steps(config, len(pairs))
    weights = pair_weights(pairs)
    for step in range(start, total):
        rows = pick(len(pairs), size, config.seed + 1, step)
        rows = sorted(rows, key=lambda i: max(len(pairs[i].chosen), len(pairs[i].rejected)))
        batches = []
        for at in range(0, size, config.micro_batch_size):
            numbers = rows[at : at + config.micro_batch_size]
            part = [pairs[i] for i in numbers]
            batch = _padded(
                [side for p in part for side in (p.chosen, p.rejected)],
                [p.start for p in part for _ in range(2)],
                pad_id,
            )
            batches.append({**batch, "total": np.float32(size), "weight": weights[numbers]})
        rate = config.unfreeze_learning_rate * (1 - step / total)
        on_step(step + 1, {**model.step(objective, batches, want=("score",), learning_rate=rate), "lr": rate})


@dataclass(frozen=True)
class Normaliser:
    """Mean and deviation of scores over reference answers: a ranking loss leaves both arbitrary."""

    mean: float
    std: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> Normaliser:
        return cls(float(scores.mean()), float(max(scores.std(), 1e-6)))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return ((scores - self.mean) / self.std).astype(np.float32)


def scorer(folder: Path, backend, tokenizer, *, dtype: str = "float32"):
    """(prompts, responses, features (B, d) of the shared trunk) -> (B,) normalised scores.

    A reward model with a base of its own runs it over prompts and responses; any other scores the shared features.
    """
    folder = Path(folder)
    description = read_description(folder, tokenizer)
    head, normalise = _head(folder, description, backend)
    if not description.get("lora_rank"):
        return lambda prompts, responses, shared: normalise(head.scores(shared))
    source = Path(description["base"])
    if not (source / "config.json").is_file():
        raise UserError(f"{folder} scores with the checkpoint {source}, which is not there; run mlxrlhf reward again")
    base = load_model(backend, source, str(folder / "adapters"), dtype=dtype)

    def score(prompts, responses, shared):
        sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        return normalise(
            head.scores(features(base, sequences, list(map(len, prompts)), tokenizer.pad_id, adapters=True))
        )

    return score


def critic_start(folder: Path, tokenizer, weight: float = 1.0) -> dict[str, np.ndarray] | None:
    """`value_start` of a model: a value head that begins as `weight` times this reward model's normalised score.

    So begin the value functions of Stiennon et al. (2020) and Ouyang et al. (2022). None where the reward model has a
    base of its own, whose states the policy does not have.
    """
    description = read_description(folder, tokenizer)
    if description.get("lora_rank"):
        return None
    arrays = {
        k: v for k, v in checkpoint.load_arrays(Path(folder) / "head.safetensors").items() if k.startswith("weights/")
    }
    scale, mean = weight / description["normaliser"]["std"], description["normaliser"]["mean"]
    arrays["weights/out.bias"] = (arrays["weights/out.bias"] - mean) * scale
    arrays["weights/out.weight"] = arrays["weights/out.weight"] * scale
    return arrays


def _head(folder: Path, description: dict, backend) -> tuple:
    head = backend.Head(description["hidden_size"])
    head.load_state(checkpoint.load_arrays(folder / "head.safetensors"))
    return head, Normaliser(**description["normaliser"])


def read_description(folder: Path, tokenizer) -> dict:
    """reward.json: base, normaliser, held-out accuracy. Raises UserError where it is missing, broken, or of another
    tokenizer."""
    folder = Path(folder)
    try:
        description = json.loads((folder / "reward.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no reward model; run: mlxrlhf reward") from None
    except ValueError as error:
        raise UserError(f"{folder / 'reward.json'} is not valid JSON ({error}); run mlxrlhf reward again") from None
    if description["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{folder} was trained with another tokenizer than {tokenizer.folder} has; run: mlxrlhf reward")
    return description
