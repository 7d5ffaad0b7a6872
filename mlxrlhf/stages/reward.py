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

from mlxrlhf import backends, checkpoint, parallel, plan, report
from mlxrlhf.algorithms import evidence, losses
from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.config import RewardConfig, to_json
from mlxrlhf.data import preferences, tasks
from mlxrlhf.data.batches import pick
from mlxrlhf.data.dialogue import decode_answer, encode_answer, render_prompt
from mlxrlhf.data.preference_files import load_pairs
from mlxrlhf.errors import UserError
from mlxrlhf.runlog import RunLog, progress
from mlxrlhf.stages import folders, sampling, training


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of prompt and answer, the end token included, and what the preference was about."""

    chosen: list[int]
    rejected: list[int]
    criterion: str
    start: int = 1  # where the answers begin
    weight: float = 1.0


def features(base, sequences: Sequence[Sequence[int]], starts: Sequence[int], pad_id: int,
             batch_size: int = sampling.READ_TOGETHER, adapters: bool = False, title: str = "") -> np.ndarray:
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
            rows = order[at:at + batch_size]
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
        row[:len(sequence)] = sequence
        counted[start - 1:len(sequence) - 1] = 1
    return {"tokens": tokens, "start": np.int32(1), "mask": mask}


def accuracy(head, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Per pair: 1 where the chosen answer scores higher, 0.5 on a tie; features (N, d) -> (N,)."""
    return evidence.wins(head.scores(chosen) - head.scores(rejected))


def by_criterion(correct: np.ndarray, pairs: Sequence[EncodedPair]) -> dict[str, float]:
    """Mean accuracy for each criterion."""
    groups = defaultdict(list)
    for value, pair in zip(correct, pairs):
        groups[pair.criterion].append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def train_head(head, chosen: np.ndarray, rejected: np.ndarray, config: RewardConfig, *, start: int = 0,
               weights: np.ndarray | None = None, on_step=lambda step, metrics: None) -> None:
    """`num_epochs` passes of the chosen loss over cached features (N, d), from optimizer step `start`.

    weights (N,), 1 on average: how much each pair counts; None counts all alike.
    """
    size = min(config.batch_size, len(chosen))
    total = config.num_epochs * -(-len(chosen) // size)
    for step in range(start, total):
        rows = pick(len(chosen), size, config.seed, step)
        rate = config.learning_rate * (1 - step / total)
        on_step(step + 1, {**head.step(config.loss, config.margin, chosen[rows], rejected[rows], rate,
                                       None if weights is None else weights[rows]), "lr": rate})


def longest(pairs: Sequence[EncodedPair]) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest answer."""
    return max(p.start for p in pairs), max(max(len(p.chosen), len(p.rejected)) - p.start for p in pairs)


def pair_weights(pairs: Sequence[EncodedPair]) -> np.ndarray:
    """How much each pair counts, (N,) float32, 1 on average."""
    weights = np.array([p.weight for p in pairs], np.float32)
    return weights / weights.mean()


def unfreeze_steps(config: RewardConfig, pairs: int) -> int:
    """Optimizer steps with the base unfrozen."""
    return config.unfreeze_epochs * -(-pairs // min(config.unfreeze_batch_size, pairs))


def unfreeze(model, pairs: Sequence[EncodedPair], config: RewardConfig, pad_id: int, *, start: int = 0,
             on_step=lambda step, metrics: None) -> None:
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
            numbers = rows[at:at + config.micro_batch_size]
            part = [pairs[i] for i in numbers]
            batch = _padded([side for p in part for side in (p.chosen, p.rejected)],
                            [p.start for p in part for _ in range(2)], pad_id)
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


# --- the stage -----------------------------------------------------------------------------------------------------

def run(config: RewardConfig) -> dict:
    """Train the head on the tools checkpoint and write weights/SIZE/reward. Returns the figures of summary.json."""
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    train_pairs, val_pairs, length_baseline = encoded_pairs(config, tokenizer, model_config.max_positions)
    backend = backends.load(config.backend, config.device)
    parallel.alone(backend, "mlxrlhf reward")
    plan.check(config, model_config, backend, *longest(train_pairs + val_pairs))
    out = folders.output(config, "reward")
    points = checkpoint.SavePoints(out)
    found = training.resume_from(points, config, print)
    base = backend.Model(model_config, folder=source, dtype=config.dtype, seed=config.seed,
                         lora_rank=config.unfreeze_rank, value_head=bool(config.unfreeze_rank),
                         max_grad_norm=config.max_grad_norm)
    own_train, own_val = sampled_pairs(base, config, tokenizer) if config.samples and not config.data else ([], [])
    train_pairs = train_pairs + own_train

    def both(pairs: Sequence[EncodedPair], adapters: bool = False) -> list[np.ndarray]:
        """Features of the chosen and of the rejected answers."""
        return np.split(features(base, [p.chosen for p in pairs] + [p.rejected for p in pairs],
                                 [p.start for p in pairs] * 2, tokenizer.pad_id, adapters=adapters,
                                 title="reward: the base reads"), 2)

    head = backend.Head(model_config.hidden_size, seed=config.seed, weight_decay=config.weight_decay,
                        max_grad_norm=config.max_grad_norm)
    steps_per_epoch = -(-len(train_pairs) // min(config.batch_size, len(train_pairs)))
    head_steps = config.num_epochs * steps_per_epoch
    total = head_steps + (unfreeze_steps(config, len(train_pairs)) if config.unfreeze_rank else 0)
    start, state = 0, {"config": to_json(config)}
    if found:
        start, state = found[1]["step"], {**state, "frozen_val_accuracy": found[1].get("frozen_val_accuracy")}
        (head if start <= head_steps else base).load_state(found[0])
    train_features, val_features = both(train_pairs), both(val_pairs)

    with RunLog(out / "run", "reward", total, to_json(config), start=start, memory=backend.peak_memory) as log, \
            training.Interrupt() as interrupt:
        def on_step(step: int, metrics: dict, trained) -> None:
            log.log(step, metrics)
            if step % config.save_every == 0 or step in (head_steps, total) or interrupt.asked:
                points.save(step, trained.state().items(), state)
            if interrupt.asked and step < total:
                raise training.Interrupted(f"stopped at step {step} of {total}; the same command with --resume "
                                           "continues")

        def on_head_step(step: int, metrics: dict) -> None:
            if step % steps_per_epoch == 0:
                metrics["val_accuracy"] = float(accuracy(head, *val_features).mean())
            on_step(step, metrics, head)

        train_head(head, *train_features, config, weights=pair_weights(train_pairs), start=min(start, head_steps),
                   on_step=on_head_step)
        figures = {}
        if config.unfreeze_rank:
            if start <= head_steps:
                state["frozen_val_accuracy"] = float(accuracy(head, *val_features).mean())
                base.load_state({**base.state(), **_renamed(head.state(), "weights/", "weights/value_head.")})
            unfreeze(base, train_pairs, config, tokenizer.pad_id, start=max(0, start - head_steps),
                     on_step=lambda step, metrics: on_step(head_steps + step, metrics, base))
            head.load_state(_renamed(base.state(), "weights/value_head.", "weights/"))
            train_features, val_features = both(train_pairs, True), both(val_pairs, True)
            figures["frozen_val_accuracy"] = state["frozen_val_accuracy"]
        correct = accuracy(head, *val_features)
        # PPO starts from the base's own answers: their scores are the zero it measures from.
        typical = train_features[1][-len(own_train):] if own_train else np.concatenate(train_features)
        normaliser = Normaliser.fit(head.scores(typical))
        figures |= {"train_accuracy": float(accuracy(head, *train_features).mean()),
                    "val_accuracy": float(correct.mean()),
                    "val_accuracy_by_criterion": by_criterion(correct, val_pairs),
                    "length_baseline": length_baseline, "pairs": len(train_pairs), "val_pairs": len(val_pairs),
                    "score_mean": normaliser.mean, "score_std": normaliser.std}
        if own_val:
            figures["val_accuracy_own_samples"] = float(accuracy(head, *both(own_val, bool(config.unfreeze_rank)))
                                                        .mean())
            figures["own_pairs"] = len(own_train)
            figures["token_baseline_own_samples"] = float(counting_tokens(train_pairs, own_val).mean())
        figures |= evidence_figures(head, val_features, train_pairs, val_pairs)
        warned = warning(figures)
        if warned:
            print(f"reward: {warned}")
            figures["warning"] = warned
        log.summary(figures)
    report.reward_report(out / "run", figures)
    with checkpoint.atomic_folder(out) as folder:
        checkpoint.save_arrays(folder / "head.safetensors", {k: v for k, v in head.state().items()
                                                             if k.startswith("weights/")})
        description = {"base": str(source), "tokenizer": tokenizer.fingerprint, "hidden_size": model_config.hidden_size,
                       "normaliser": asdict(normaliser), "val_accuracy": figures["val_accuracy"],
                       "lora_rank": config.unfreeze_rank}
        if config.unfreeze_rank:
            folders.save_adapters(base, folder)
        (folder / "reward.json").write_text(json.dumps(description, indent=2) + "\n")
    return figures


def evidence_figures(head, val_features: Sequence[np.ndarray], train_pairs: Sequence[EncodedPair],
                     val_pairs: Sequence[EncodedPair]) -> dict:
    """Calibration, dependence on length and the counting baseline, all on the held-out pairs."""
    scores = [head.scores(some) for some in val_features]  # of chosen and rejected answers
    bins = evidence.calibration(scores[0] - scores[1])
    lengths = [[len(getattr(p, kind)) - p.start for p in val_pairs] for kind in ("chosen", "rejected")]
    counting = counting_tokens(train_pairs, val_pairs)
    return {"calibration_error": evidence.expected_calibration_error(bins),
            "score_length_correlation": evidence.correlation(np.concatenate(scores), np.concatenate(lengths)),
            "token_baseline": float(counting.mean()),
            "token_baseline_by_criterion": by_criterion(counting, val_pairs), "calibration": [asdict(b) for b in bins]}


def counting_tokens(train_pairs: Sequence[EncodedPair], held_out: Sequence[EncodedPair]) -> np.ndarray:
    """Per held-out pair: 1 where a judge that only counts tokens is right, 0.5 on a tie; (pairs,)."""
    answers = [[(p.chosen[p.start:], p.rejected[p.start:]) for p in pairs] for pairs in (train_pairs, held_out)]
    return evidence.wins(evidence.token_margins(*answers))


def warning(figures: dict) -> str:
    """A sentence where counting words or characters comes within ten points of the reward model, or ""."""
    # Against a judge of length that may prefer either: it needs no training to find out which.
    length = max(figures["length_baseline"], 1 - figures["length_baseline"])
    name, best = max((("length alone", length), ("counting tokens", figures["token_baseline"])), key=lambda b: b[1])
    if figures["val_accuracy"] >= best + 0.10:
        return ""
    return (f"on held-out pairs the reward model is right in {figures['val_accuracy']:.0%}, {name} in {best:.0%}; "
            "without ten points between them nothing shows that it has learned more than that: use more varied pairs, "
            "a larger base or --unfreeze-rank")


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
    base = folders.load_model(backend, source, str(folder / "adapters"), dtype=dtype)

    def score(prompts, responses, shared):
        sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        return normalise(head.scores(features(base, sequences, list(map(len, prompts)), tokenizer.pad_id,
                                              adapters=True)))

    return score


def critic_start(folder: Path, tokenizer, weight: float = 1.0) -> dict[str, np.ndarray] | None:
    """`value_start` of a model: a value head that begins as `weight` times this reward model's normalised score.

    So begin the value functions of Stiennon et al. (2020) and Ouyang et al. (2022). None where the reward model has a
    base of its own, whose states the policy does not have.
    """
    description = read_description(folder, tokenizer)
    if description.get("lora_rank"):
        return None
    arrays = {k: v for k, v in checkpoint.load_arrays(Path(folder) / "head.safetensors").items()
              if k.startswith("weights/")}
    scale, mean = weight / description["normaliser"]["std"], description["normaliser"]["mean"]
    arrays["weights/out.bias"] = (arrays["weights/out.bias"] - mean) * scale
    arrays["weights/out.weight"] = arrays["weights/out.weight"] * scale
    return arrays


def _head(folder: Path, description: dict, backend) -> tuple:
    head = backend.Head(description["hidden_size"])
    head.load_state(checkpoint.load_arrays(folder / "head.safetensors"))
    return head, Normaliser(**description["normaliser"])


def _renamed(arrays: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new + name.removeprefix(old): array for name, array in arrays.items() if name.startswith(old)}


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


def encoded_pairs(config, tokenizer, context: int) -> tuple[list[EncodedPair], list[EncodedPair], float]:
    """Training pairs, held-out pairs, and how often the longer answer is the chosen one among the latter.

    config: a RewardConfig or DPOConfig. Pairs longer than `context` tokens are left out aloud.
    """
    if config.data:
        sides = preferences.split_by_prompt(load_pairs(config.data), config.seed)
        if not sides[0]:
            raise UserError(f"{config.data} has pairs for one prompt only; one prompt is needed to train on and one to "
                            "validate with")
    else:
        folder = folders.data(config)
        path = folders.need(folder / "rlhf_preferences.json", f"mlxrlhf prepare preferences {folders.flag(config)}")
        folders.same_tokenizer(tokenizer, folder)
        rows = json.loads(path.read_text(encoding="utf-8"))
        sides = tuple([preferences.Pair(**{k: v for k, v in row.items() if k != "split"})
                       for row in rows if row["split"] == side] for side in ("train", "val"))

    train_pairs, val_pairs = (_that_fit([_encode(p, tokenizer) for p in side], context) for side in sides)
    return train_pairs, val_pairs, preferences.length_baseline(sides[1])


def _that_fit(pairs: Sequence[EncodedPair], context: int) -> list[EncodedPair]:
    """The pairs within the model's context; says how many are not. Raises UserError when none is."""
    lengths = [max(len(p.chosen), len(p.rejected)) for p in pairs]
    fitting = [p for p, length in zip(pairs, lengths) if length <= context]
    if not fitting:
        raise UserError(f"every pair has more tokens than the model's context of {context:,}, the shortest "
                        f"{min(lengths):,}; take shorter pairs or another model")
    if len(fitting) < len(pairs):
        print(f"left out {len(pairs) - len(fitting):,} of {len(pairs):,} pairs, longer than the model's "
              f"context of {context:,} tokens")
    return fitting


def _encode(pair: preferences.Pair, tokenizer) -> EncodedPair:
    prompt = render_prompt(pair.messages, tokenizer)
    return EncodedPair(prompt + encode_answer(pair.chosen, tokenizer), prompt + encode_answer(pair.rejected, tokenizer),
                       pair.criterion, len(prompt), pair.weight)


def sampled_pairs(base, config: RewardConfig, tokenizer) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Training and held-out pairs whose rejected answer is the base's own, by running what it samples."""
    bank = tasks.load_tasks()
    rng = np.random.default_rng(config.seed)
    sides = []
    for held_out in (False, True):
        requests = [(task, phrasing) for task in bank if task.held_out == held_out
                    for phrasing in task.train_phrasings for _ in range(config.samples)]
        prompts = [render_prompt([{"role": "user", "content": phrasing}], tokenizer) for _, phrasing in requests]
        answers = [decode_answer(r, tokenizer)
                   for r in sampling.responses(base, prompts, config, tokenizer, rng, "reward: sampling")]
        pairs = preferences.from_samples(requests, answers, config.seed, unsafe=config.unsafe_exec)
        print(f"reward: {len(pairs):,} pairs from {len(answers):,} answers of the base "
              f"({'held-out' if held_out else 'training'} tasks)")
        sides.append([_encode(p, tokenizer) for p in pairs])
    return sides[0], sides[1]
