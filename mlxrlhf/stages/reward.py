"""The reward model: a two-layer head on the features of a frozen base (Ziegler et al. 2019; Stiennon et al. 2020).

The features are the mean hidden state over the answer. A frozen base that was never trained to summarise keeps little
in its last token: at nano, on pairs of six held-out tasks, accuracy was 53 to 63% from the last token and 78 to 80%
from the mean.

The base never changes, so it runs once over the pairs; every epoch after that trains the head on cached features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from mlxrlhf import backends, parallel, plan
from mlxrlhf.algorithms import evidence
from mlxrlhf.config import RewardConfig
from mlxrlhf.data import dialogue
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import checkpoint, folders
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.preferences.encoded import EncodedPair, _encode, by_criterion, encoded_pairs, longest, pair_weights
from mlxrlhf.preferences.pairs import from_samples
from mlxrlhf.report.page import reward_report
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.rewards.model import Normaliser, accuracy, features, train_head, unfreeze, unfreeze_steps
from mlxrlhf.settings import to_json
from mlxrlhf.stages import sampling
from mlxrlhf.stages.run import Interrupt, Interrupted, resume_from
from mlxrlhf.tasks.task import load_tasks

# --- the stage -----------------------------------------------------------------------------------------------------


def run(config: RewardConfig) -> dict:
    """Train the head on the tools checkpoint and write weights/SIZE/reward. Returns the figures of summary.json."""
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    train_pairs, val_pairs, length_baseline = encoded_pairs(config, tokenizer, model_config.max_positions)
    backend = backends.load(config.backend, config.device)
    parallel.alone(backend, "mlxrlhf reward")
    plan.check(config, model_config, backend, *longest(train_pairs + val_pairs))
    out = folders.output(config, "reward")
    points = SavePoints(out)
    found = resume_from(points, config, print)
    base = backend.Model(
        model_config,
        folder=source,
        dtype=config.dtype,
        seed=config.seed,
        lora_rank=config.unfreeze_rank,
        value_head=bool(config.unfreeze_rank),
        max_grad_norm=config.max_grad_norm,
    )
    own_train, own_val = sampled_pairs(base, config, tokenizer) if config.samples and not config.data else ([], [])
    train_pairs = train_pairs + own_train

    def both(pairs: Sequence[EncodedPair], adapters: bool = False) -> list[np.ndarray]:
        """Features of the chosen and of the rejected answers."""
        return np.split(
            features(
                base,
                [p.chosen for p in pairs] + [p.rejected for p in pairs],
                [p.start for p in pairs] * 2,
                tokenizer.pad_id,
                adapters=adapters,
                title="reward: the base reads",
            ),
            2,
        )

    head = backend.Head(
        model_config.hidden_size, seed=config.seed, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm
    )
    steps_per_epoch = -(-len(train_pairs) // min(config.batch_size, len(train_pairs)))
    head_steps = config.num_epochs * steps_per_epoch
    total = head_steps + (unfreeze_steps(config, len(train_pairs)) if config.unfreeze_rank else 0)
    start, state = 0, {"config": to_json(config)}
    if found:
        start, state = found[1]["step"], {**state, "frozen_val_accuracy": found[1].get("frozen_val_accuracy")}
        (head if start <= head_steps else base).load_state(found[0])
    train_features, val_features = both(train_pairs), both(val_pairs)

    with (
        RunLog(out / "run", "reward", total, to_json(config), start=start, memory=backend.peak_memory) as log,
        Interrupt() as interrupt,
    ):

        def on_step(step: int, metrics: dict, trained) -> None:
            log.log(step, metrics)
            if step % config.save_every == 0 or step in (head_steps, total) or interrupt.asked:
                points.save(step, trained.state().items(), state)
            if interrupt.asked and step < total:
                raise Interrupted(f"stopped at step {step} of {total}; the same command with --resume continues")

        def on_head_step(step: int, metrics: dict) -> None:
            if step % steps_per_epoch == 0:
                metrics["val_accuracy"] = float(accuracy(head, *val_features).mean())
            on_step(step, metrics, head)

        train_head(
            head,
            *train_features,
            config,
            weights=pair_weights(train_pairs),
            start=min(start, head_steps),
            on_step=on_head_step,
        )
        figures = {}
        if config.unfreeze_rank:
            if start <= head_steps:
                state["frozen_val_accuracy"] = float(accuracy(head, *val_features).mean())
                base.load_state({**base.state(), **_renamed(head.state(), "weights/", "weights/value_head.")})
            unfreeze(
                base,
                train_pairs,
                config,
                tokenizer.pad_id,
                start=max(0, start - head_steps),
                on_step=lambda step, metrics: on_step(head_steps + step, metrics, base),
            )
            head.load_state(_renamed(base.state(), "weights/value_head.", "weights/"))
            train_features, val_features = both(train_pairs, True), both(val_pairs, True)
            figures["frozen_val_accuracy"] = state["frozen_val_accuracy"]
        correct = accuracy(head, *val_features)
        # PPO starts from the base's own answers: their scores are the zero it measures from.
        typical = train_features[1][-len(own_train) :] if own_train else np.concatenate(train_features)
        normaliser = Normaliser.fit(head.scores(typical))
        figures |= {
            "train_accuracy": float(accuracy(head, *train_features).mean()),
            "val_accuracy": float(correct.mean()),
            "val_accuracy_by_criterion": by_criterion(correct, val_pairs),
            "length_baseline": length_baseline,
            "pairs": len(train_pairs),
            "val_pairs": len(val_pairs),
            "score_mean": normaliser.mean,
            "score_std": normaliser.std,
        }
        if own_val:
            figures["val_accuracy_own_samples"] = float(
                accuracy(head, *both(own_val, bool(config.unfreeze_rank))).mean()
            )
            figures["own_pairs"] = len(own_train)
            figures["token_baseline_own_samples"] = float(counting_tokens(train_pairs, own_val).mean())
        figures |= evidence_figures(head, val_features, train_pairs, val_pairs)
        warned = warning(figures)
        if warned:
            print(f"reward: {warned}")
            figures["warning"] = warned
        log.summary(figures)
    reward_report(out / "run", figures)
    with atomic_folder(out) as folder:
        checkpoint.save_arrays(
            folder / "head.safetensors", {k: v for k, v in head.state().items() if k.startswith("weights/")}
        )
        description = {
            "base": str(source),
            "tokenizer": tokenizer.fingerprint,
            "hidden_size": model_config.hidden_size,
            "normaliser": asdict(normaliser),
            "val_accuracy": figures["val_accuracy"],
            "lora_rank": config.unfreeze_rank,
        }
        if config.unfreeze_rank:
            folders.save_adapters(base, folder)
        (folder / "reward.json").write_text(json.dumps(description, indent=2) + "\n")
    return figures


def evidence_figures(
    head, val_features: Sequence[np.ndarray], train_pairs: Sequence[EncodedPair], val_pairs: Sequence[EncodedPair]
) -> dict:
    """Calibration, dependence on length and the counting baseline, all on the held-out pairs."""
    scores = [head.scores(some) for some in val_features]  # of chosen and rejected answers
    bins = evidence.calibration(scores[0] - scores[1])
    lengths = [[len(getattr(p, kind)) - p.start for p in val_pairs] for kind in ("chosen", "rejected")]
    counting = counting_tokens(train_pairs, val_pairs)
    return {
        "calibration_error": evidence.expected_calibration_error(bins),
        "score_length_correlation": evidence.correlation(np.concatenate(scores), np.concatenate(lengths)),
        "token_baseline": float(counting.mean()),
        "token_baseline_by_criterion": by_criterion(counting, val_pairs),
        "calibration": [asdict(b) for b in bins],
    }


def counting_tokens(train_pairs: Sequence[EncodedPair], held_out: Sequence[EncodedPair]) -> np.ndarray:
    """Per held-out pair: 1 where a judge that only counts tokens is right, 0.5 on a tie; (pairs,)."""
    answers = [[(p.chosen[p.start :], p.rejected[p.start :]) for p in pairs] for pairs in (train_pairs, held_out)]
    return evidence.wins(evidence.token_margins(*answers))


def warning(figures: dict) -> str:
    """A sentence where counting words or characters comes within ten points of the reward model, or ""."""
    # Against a judge of length that may prefer either: it needs no training to find out which.
    length = max(figures["length_baseline"], 1 - figures["length_baseline"])
    name, best = max((("length alone", length), ("counting tokens", figures["token_baseline"])), key=lambda b: b[1])
    if figures["val_accuracy"] >= best + 0.10:
        return ""
    return (
        f"on held-out pairs the reward model is right in {figures['val_accuracy']:.0%}, {name} in {best:.0%}; "
        "without ten points between them nothing shows that it has learned more than that: use more varied pairs, "
        "a larger base or --unfreeze-rank"
    )


def _renamed(arrays: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new + name.removeprefix(old): array for name, array in arrays.items() if name.startswith(old)}


def sampled_pairs(base, config: RewardConfig, tokenizer) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Training and held-out pairs whose rejected answer is the base's own, by running what it samples."""
    bank = load_tasks()
    rng = np.random.default_rng(config.seed)
    sides = []
    for held_out in (False, True):
        requests = [
            (task, phrasing)
            for task in bank
            if task.held_out == held_out
            for phrasing in task.train_phrasings
            for _ in range(config.samples)
        ]
        prompts = [dialogue.prompt([{"role": "user", "content": phrasing}], tokenizer) for _, phrasing in requests]
        answers = [
            dialogue.text(r, tokenizer)
            for r in sampling.responses(base, prompts, config, tokenizer, rng, "reward: sampling")
        ]
        pairs = from_samples(requests, answers, config.seed, unsafe=config.unsafe_exec)
        print(
            f"reward: {len(pairs):,} pairs from {len(answers):,} answers of the base "
            f"({'held-out' if held_out else 'training'} tasks)"
        )
        sides.append([_encode(p, tokenizer) for p in pairs])
    return sides[0], sides[1]
