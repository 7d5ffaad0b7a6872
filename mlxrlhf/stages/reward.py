"""The reward model: a two-layer head on the features of a frozen base (Ziegler et al. 2019; Stiennon et al. 2020).

The features are the mean hidden state over the answer. A frozen base that was never trained to summarise keeps little
in its last token: at nano, on pairs of six held-out tasks, accuracy was 53 to 63% from the last token and 78 to 80%
from the mean.

The base never changes, so it runs once over the pairs; every epoch after that trains the head on cached features.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlxrlhf import backends, checkpoint
from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.config import RewardConfig, to_json
from mlxrlhf.data import preferences, tasks
from mlxrlhf.data.batches import pick
from mlxrlhf.data.dialogue import encode_answer, render_prompt
from mlxrlhf.errors import UserError
from mlxrlhf.runlog import RunLog
from mlxrlhf.stages import folders, training

#: prompts sampled in one batch
SAMPLED_TOGETHER = 64


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of prompt and answer, the end token included, and what the preference was about."""

    chosen: list[int]
    rejected: list[int]
    criterion: str
    start: int = 1  # where the answers begin


def features(base, sequences: Sequence[Sequence[int]], starts: Sequence[int], pad_id: int,
             batch_size: int = 32) -> np.ndarray:
    """Mean hidden state of the frozen base over each sequence from its start on, (N, d) float32; adapters are off.

    starts: index of each answer's first token, at least 1. Sequences are taken in order of length, so that a batch is
    hardly padded.
    """
    order = np.argsort([len(s) for s in sequences], kind="stable")
    out = None
    for at in range(0, len(order), batch_size):
        rows = order[at:at + batch_size]
        width = bucket(max(len(sequences[i]) for i in rows))
        tokens = np.full((len(rows), width), pad_id, np.int32)
        mask = np.zeros((len(rows), width - 1), np.float32)
        for row, counted, i in zip(tokens, mask, rows):
            row[:len(sequences[i])] = sequences[i]
            counted[starts[i] - 1:len(sequences[i]) - 1] = 1
        # Padding lies to the right of every real token, where a causal model cannot see it.
        batch = {"tokens": tokens, "start": np.int32(1), "mask": mask}
        found = base.evaluate(batch, ("features",), adapters=False)["features"]
        out = np.empty((len(sequences), found.shape[1]), np.float32) if out is None else out
        out[rows] = found
    return out


def accuracy(head, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Per pair: 1 where the chosen answer scores higher, 0.5 on a tie; features (N, d) -> (N,)."""
    difference = head.scores(chosen) - head.scores(rejected)
    return (np.sign(difference) + 1) / 2


def by_criterion(correct: np.ndarray, pairs: Sequence[EncodedPair]) -> dict[str, float]:
    """Mean accuracy for each criterion."""
    groups = defaultdict(list)
    for value, pair in zip(correct, pairs):
        groups[pair.criterion].append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def train_head(head, chosen: np.ndarray, rejected: np.ndarray, config: RewardConfig, *, start: int = 0,
               on_step=lambda step, metrics: None) -> None:
    """`num_epochs` passes of the chosen loss over cached features (N, d), from optimizer step `start`."""
    size = min(config.batch_size, len(chosen))
    total = config.num_epochs * -(-len(chosen) // size)
    for step in range(start, total):
        rows = pick(len(chosen), size, config.seed, step)
        rate = config.learning_rate * (1 - step / total)
        on_step(step + 1, {**head.step(config.loss, config.margin, chosen[rows], rejected[rows], rate), "lr": rate})


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


# --- the stage -----------------------------------------------------------------------------------------------------

def run(config: RewardConfig) -> dict:
    """Train the head on the tools checkpoint and write weights/SIZE/reward. Returns the figures of summary.json."""
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    train_pairs, val_pairs, length_baseline = _pairs(config, tokenizer)
    too_long = max(len(p.chosen) for p in train_pairs + val_pairs)
    if too_long > model_config.max_positions:
        raise UserError(f"a pair has {too_long:,} tokens, more than the model's context of "
                        f"{model_config.max_positions:,}; shorten it")
    backend = backends.load(config.backend, config.device)
    out = folders.output(config, "reward")
    points = checkpoint.SavePoints(out)
    found = training.resume_from(points, config, print)
    base = backend.Model(model_config, folder=source, dtype=config.dtype)
    own_train, own_val = sampled_pairs(base, config, tokenizer) if config.samples and not config.data else ([], [])
    train_pairs = train_pairs + own_train

    def both(pairs: Sequence[EncodedPair]) -> list[np.ndarray]:
        return [features(base, [getattr(p, kind) for p in pairs], [p.start for p in pairs], tokenizer.pad_id)
                for kind in ("chosen", "rejected")]

    train_features, val_features = both(train_pairs), both(val_pairs)
    head = backend.Head(model_config.hidden_size, seed=config.seed, weight_decay=config.weight_decay,
                        max_grad_norm=config.max_grad_norm)
    start = 0
    if found:
        head.load_state(found[0])
        start = found[1]["step"]
    steps_per_epoch = -(-len(train_pairs) // min(config.batch_size, len(train_pairs)))
    total = config.num_epochs * steps_per_epoch

    with RunLog(out / "run", "reward", total, to_json(config), start=start, memory=backend.peak_memory) as log, \
            training.Interrupt() as interrupt:
        def on_step(step: int, metrics: dict) -> None:
            if step % steps_per_epoch == 0:
                metrics["val_accuracy"] = float(accuracy(head, *val_features).mean())
            log.log(step, metrics)
            if step % config.save_every == 0 or step == total or interrupt.asked:
                points.save(step, head.state(), {"config": to_json(config)})
            if interrupt.asked and step < total:
                raise training.Interrupted(f"stopped at step {step} of {total}; the same command with --resume "
                                           "continues")

        train_head(head, *train_features, config, start=start, on_step=on_step)
        correct = accuracy(head, *val_features)
        # PPO starts from the base's own answers: their scores are the zero it measures from.
        typical = train_features[1][-len(own_train):] if own_train else np.concatenate(train_features)
        normaliser = Normaliser.fit(head.scores(typical))
        figures = {"train_accuracy": float(accuracy(head, *train_features).mean()),
                   "val_accuracy": float(correct.mean()), "val_accuracy_by_criterion": by_criterion(correct, val_pairs),
                   "length_baseline": length_baseline, "pairs": len(train_pairs), "val_pairs": len(val_pairs),
                   "score_mean": normaliser.mean, "score_std": normaliser.std}
        if own_val:
            figures["val_accuracy_own_samples"] = float(accuracy(head, *both(own_val)).mean())
            figures["own_pairs"] = len(own_train)
        log.summary(figures)
    with checkpoint.atomic_folder(out) as folder:
        checkpoint.save_arrays(folder / "head.safetensors", {k: v for k, v in head.state().items()
                                                             if k.startswith("weights/")})
        description = {"base": str(source), "tokenizer": tokenizer.fingerprint, "hidden_size": model_config.hidden_size,
                       "normaliser": asdict(normaliser), "val_accuracy": figures["val_accuracy"]}
        (folder / "reward.json").write_text(json.dumps(description, indent=2) + "\n")
    return figures


def load(folder: Path, backend, tokenizer) -> tuple:
    """(head, normaliser) of a reward folder. Raises UserError when it is missing or was made for another tokenizer."""
    folder = Path(folder)
    try:
        description = json.loads((folder / "reward.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no reward model; run: mlxrlhf reward") from None
    except ValueError as error:
        raise UserError(f"{folder / 'reward.json'} is not valid JSON ({error}); run mlxrlhf reward again") from None
    if description["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{folder} was trained with another tokenizer than {tokenizer.folder} has; run: mlxrlhf reward")
    head = backend.Head(description["hidden_size"])
    head.load_state(checkpoint.load_arrays(folder / "head.safetensors"))
    return head, Normaliser(**description["normaliser"])


def _pairs(config: RewardConfig, tokenizer) -> tuple[list[EncodedPair], list[EncodedPair], float]:
    """Training pairs, held-out pairs, and how often the longer answer is the chosen one among the latter."""
    if config.data:
        pairs = preferences.load_pairs(Path(config.data))
        held = max(1, len(pairs) // 10)
        sides = pairs[held:], pairs[:held]
        if not sides[0]:
            raise UserError(f"{config.data} has one pair; one is needed to train on and one to validate with")
    else:
        folder = folders.data(config)
        path = folders.need(folder / "rlhf_preferences.json", f"mlxrlhf prepare preferences {folders.flag(config)}")
        folders.same_tokenizer(tokenizer, folder)
        rows = json.loads(path.read_text(encoding="utf-8"))
        sides = tuple([preferences.Pair(**{k: v for k, v in row.items() if k != "split"})
                       for row in rows if row["split"] == side] for side in ("train", "val"))

    train_pairs, val_pairs = ([_encode(p, tokenizer) for p in side] for side in sides)
    return train_pairs, val_pairs, preferences.length_baseline(sides[1])


def _encode(pair: preferences.Pair, tokenizer) -> EncodedPair:
    prompt = render_prompt(preferences.messages(pair), tokenizer)
    return EncodedPair(prompt + encode_answer(pair.chosen, tokenizer), prompt + encode_answer(pair.rejected, tokenizer),
                       pair.criterion, len(prompt))


def sampled_pairs(base, config: RewardConfig, tokenizer) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Training and held-out pairs whose rejected answer is the base's own, by running what it samples."""
    bank = tasks.load_tasks()
    rng = np.random.default_rng(config.seed)
    sides = []
    for held_out in (False, True):
        requests = [(task, phrasing) for task in bank if task.held_out == held_out
                    for phrasing in task.train_phrasings for _ in range(config.samples)]
        prompts = [render_prompt([{"role": "user", "content": phrasing}], tokenizer) for _, phrasing in requests]
        answers = []
        for at in range(0, len(prompts), SAMPLED_TOGETHER):
            some = prompts[at:at + SAMPLED_TOGETHER]
            responses = base.generate(some, uniforms=rng.random((len(some), config.max_tokens)),
                                      temperature=config.temp,
                                      max_tokens=config.max_tokens, stop_ids=[tokenizer.end_id],
                                      pad_id=tokenizer.pad_id)
            answers += [tokenizer.decode(r[:-1] if r[-1] == tokenizer.end_id else r) for r in responses]
        pairs = preferences.from_samples(requests, answers, config.seed, unsafe=config.unsafe_exec)
        print(f"reward: {len(pairs):,} pairs from {len(answers):,} answers of the base "
              f"({'held-out' if held_out else 'training'} tasks)")
        sides.append([_encode(p, tokenizer) for p in pairs])
    return sides[0], sides[1]
