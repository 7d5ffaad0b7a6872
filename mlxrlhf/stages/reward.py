"""The reward model: a two-layer head on the features of a frozen base (Ziegler et al. 2019; Stiennon et al. 2020).

The base never changes, so it runs once over the pairs; every epoch after that trains the head on cached features. With
--unfreeze-rank the base then learns too, by adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import evidence
from mlxrlhf.backends.protocol import Head, Model
from mlxrlhf.config import RewardConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.models import folders
from mlxrlhf.preferences.encoded import (
    EncodedPair,
    EncodedPairs,
    by_criterion,
    encode_pair,
    encoded_pairs,
    longest,
    pair_weights,
)
from mlxrlhf.preferences.pairs import Pair, from_samples
from mlxrlhf.report.page import reward_report
from mlxrlhf.rewards.head import accuracy, features, head_step, head_steps, unfrozen_step, unfrozen_steps
from mlxrlhf.rewards.model import Normaliser, write_reward_model
from mlxrlhf.stages import sampling
from mlxrlhf.stages.run import Run, Training
from mlxrlhf.tasks.task import load_tasks

#: points of accuracy by which a reward model must beat what merely counts, or it is said
MARGIN_OVER_COUNTING = 0.10


def run(config: RewardConfig) -> dict[str, Any]:
    """Train the head on the tools checkpoint and write weights/SIZE/reward. Returns the figures of summary.json."""
    checkpoint = folders.open_checkpoint(config, "tools", config.checkpoint)
    pairs = encoded_pairs(config, checkpoint.tokenizer, checkpoint.shape.max_positions)
    prompt, answer = longest(pairs.train + pairs.held_out)
    with Run(config, "reward", checkpoint, uses={"set of pairs": pairs}, prompt=prompt, answer=answer) as run:
        base = run.model(lora_rank=config.unfreeze_rank, value_head=config.unfreeze_rank > 0)
        own = own_answers(base, config, run.tokenizer) if config.samples and not config.data else OwnAnswers()
        head = run.backend.Head(
            checkpoint.shape.hidden_size,
            seed=config.seed,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )
        return run.train(RewardTraining(config, base, head, pairs, own, run.tokenizer, run.source))


class OwnAnswers:
    """What the base itself answers to training requests, and pairs of its answers with better ones.

    answers: (ids of prompt and answer, index of the answer's first token), all of them.
    """

    def __init__(
        self,
        answers: Sequence[tuple[list[int], int]] = (),
        train: Sequence[EncodedPair] = (),
        held_out: Sequence[EncodedPair] = (),
    ):
        self.answers, self.train, self.held_out = list(answers), list(train), list(held_out)


class RewardTraining(Training):
    """The head on cached features for `num_epochs`; then, with --unfreeze-rank, adapters and head together.

    source: folder of the base's checkpoint.
    """

    title = "reward"

    def __init__(
        self,
        config: RewardConfig,
        base: Model,
        head: Head,
        pairs: EncodedPairs,
        own: OwnAnswers,
        tokenizer: AnyTokenizer,
        source: Path,
    ):
        self.config, self.model, self.head, self.own = config, base, head, own
        self.pad_id, self.tokenizer, self.source = tokenizer.pad_id, tokenizer, source
        self.train_pairs, self.held_out = pairs.train + own.train, pairs.held_out
        self.length_baseline = pairs.length_baseline
        self.weights = pair_weights(self.train_pairs)
        self.head_steps = head_steps(config, len(self.train_pairs))
        self.total, self.milestones = self.head_steps, (self.head_steps,)
        if config.unfreeze_rank:
            self.total += unfrozen_steps(config, len(self.train_pairs))
        self.frozen_accuracy: float | None = None
        self.train_features, self.held_out_features = self._features(self.train_pairs), self._features(self.held_out)

    def _features(self, pairs: Sequence[EncodedPair], adapters: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Features of the chosen and of the rejected answers."""
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        starts = [pair.start for pair in pairs] * 2
        title = "reward: the base reads"
        pooled = features(self.model, sequences, starts, self.pad_id, adapters=adapters, title=title)
        return pooled[: len(pairs)], pooled[len(pairs) :]

    def step(self, number: int) -> tuple[dict[str, float], int]:
        if number >= self.head_steps:
            return self._unfrozen_step(number - self.head_steps), 0
        metrics = head_step(self.head, *self.train_features, self.weights, self.config, number)
        epoch = self.head_steps // self.config.num_epochs
        if (number + 1) % epoch == 0:
            metrics["val_accuracy"] = float(accuracy(self.head, *self.held_out_features).mean())
        return metrics, 0

    def _unfrozen_step(self, number: int) -> dict[str, float]:
        if number == 0:
            self.frozen_accuracy = float(accuracy(self.head, *self.held_out_features).mean())
            trained = _renamed(self.head.state(), "weights/", "weights/value_head.")
            self.model.load_state({**self.model.state(), **trained})
        return unfrozen_step(self.model, self.train_pairs, self.weights, self.config, self.pad_id, number)

    # --- what continues it: the head's own state, then the base's -----------------------------------------------------

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        trained = self.head if self.frozen_accuracy is None else self.model
        return iter(trained.state().items())

    def state(self) -> dict[str, Any]:
        return {"frozen_val_accuracy": self.frozen_accuracy}

    def load_state(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        self.frozen_accuracy = state["frozen_val_accuracy"]
        trained = self.head if self.frozen_accuracy is None else self.model
        trained.load_state(arrays)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def summary(self, rows: Sequence[dict]) -> dict[str, Any]:
        unfrozen = self.config.unfreeze_rank > 0
        figures: dict[str, Any] = {}
        if unfrozen and self.frozen_accuracy is not None:
            self.head.load_state(_renamed(self.model.state(), "weights/value_head.", "weights/"))
            self.train_features = self._features(self.train_pairs, adapters=True)
            self.held_out_features = self._features(self.held_out, adapters=True)
            figures["frozen_val_accuracy"] = self.frozen_accuracy
        right = accuracy(self.head, *self.held_out_features)
        self.accuracy, self.normaliser = float(right.mean()), self._normaliser(unfrozen)
        figures |= {
            "train_accuracy": float(accuracy(self.head, *self.train_features).mean()),
            "val_accuracy": self.accuracy,
            "val_accuracy_by_criterion": by_criterion(right, self.held_out),
            "length_baseline": self.length_baseline,
            "pairs": len(self.train_pairs),
            "val_pairs": len(self.held_out),
            "score_mean": self.normaliser.mean,
            "score_std": self.normaliser.std,
        }
        if self.own.held_out:
            own_right = accuracy(self.head, *self._features(self.own.held_out, unfrozen))
            figures["val_accuracy_own_samples"] = float(own_right.mean())
            figures["own_pairs"] = len(self.own.train)
            counting = counting_tokens(self.train_pairs, self.own.held_out)
            figures["token_baseline_own_samples"] = float(counting.mean())
        figures |= evidence_figures(self.head, self.held_out_features, self.train_pairs, self.held_out)
        if warned := warning(figures):
            print(f"reward: {warned}")
            figures["warning"] = warned
        return figures

    def _normaliser(self, adapters: bool) -> Normaliser:
        """The zero that PPO measures from: the mean score of what the base itself answers.

        Without own answers, that of all answers that were trained on.
        """
        if not self.own.answers:
            return Normaliser.fit(self.head.scores(np.concatenate(self.train_features)))
        sequences, starts = zip(*self.own.answers)
        pooled = features(self.model, sequences, starts, self.pad_id, adapters=adapters)
        return Normaliser.fit(self.head.scores(pooled))

    def report(self, folder: Path, figures: dict[str, Any]) -> None:
        reward_report(folder, figures)

    def write(self, folder: Path, tokenizer: AnyTokenizer) -> None:
        write_reward_model(
            folder,
            self.head,
            self.normaliser,
            self.model,
            self.source,
            tokenizer,
            lora_rank=self.config.unfreeze_rank,
            accuracy=self.accuracy,
        )


def _renamed(arrays: Mapping[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new + name.removeprefix(old): array for name, array in arrays.items() if name.startswith(old)}


# --- figures ---------------------------------------------------------------------------------------------------------


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
    if figures["val_accuracy"] >= best + MARGIN_OVER_COUNTING:
        return ""
    return (
        f"on held-out pairs the reward model is right in {figures['val_accuracy']:.0%}, {name} in {best:.0%}; "
        "without ten points between them nothing shows that it has learned more than that: use more varied pairs, "
        "a larger base or --unfreeze-rank"
    )


# --- the base's own answers ------------------------------------------------------------------------------------------


def own_answers(base: Model, config: RewardConfig, tokenizer: AnyTokenizer) -> OwnAnswers:
    """What the base answers to the bank's requests, run and paired with better answers, training and held-out tasks."""
    rng = np.random.default_rng(config.seed)
    answers: list[tuple[list[int], int]] = []
    sides = []
    for held_out in (False, True):
        asked = [
            (task, phrasing)
            for task in load_tasks()
            if task.held_out == held_out
            for phrasing in task.train_phrasings
            for _ in range(config.samples)
        ]
        prompts = [dialogue.prompt([{"role": "user", "content": phrasing}], tokenizer) for _, phrasing in asked]
        sampled = sampling.responses(base, prompts, config, tokenizer, rng, "reward: sampling")
        texts = [dialogue.text(response, tokenizer) for response in sampled]

        def rows(asked=asked, texts=texts) -> list[dict]:
            return [asdict(pair) for pair in from_samples(asked, texts, config.seed, unsafe=config.unsafe_exec)]

        # Answers are run in one process: two runs need not agree, and all must train on the same pairs.
        pairs = [Pair(**row) for row in parallel.from_first(base, rows)]
        which = "held-out" if held_out else "training"
        print(f"reward: {len(pairs):,} pairs from {len(texts):,} answers of the base ({which} tasks)")
        sides.append([encode_pair(pair, tokenizer) for pair in pairs])
        if not held_out:
            answers = [([*prompt, *response], len(prompt)) for prompt, response in zip(prompts, sampled)]
    return OwnAnswers(answers, *sides)
