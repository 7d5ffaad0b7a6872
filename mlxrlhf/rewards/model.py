"""The reward model on disk: a two-layer head, and the trunk whose pooled hidden states it scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlxrlhf.backends.protocol import Backend, Head, Model
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.models.adapters import load_model, save_adapters
from mlxrlhf.models.identity import trunk_digest
from mlxrlhf.rewards.head import features
from mlxrlhf.settings import Fields, read_json


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


#: (prompts, responses, features (B, d) of the shared trunk) -> (B,) normalised scores
Scorer = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RewardModel:
    """A reward model's folder, as reward.json describes it.

    base: the checkpoint whose hidden states the head scores. lora_rank: of the adapters beside it, 0 where the base was
    frozen. accuracy: share of held-out pairs right. quantize: bits that the base was packed into when it was loaded.
    """

    folder: Path
    base: Path
    base_digest: str
    hidden_size: int
    normaliser: Normaliser
    lora_rank: int
    accuracy: float | None
    quantize: int = 0

    @classmethod
    def open(cls, folder: Path, tokenizer: AnyTokenizer) -> RewardModel:
        """Raises UserError where it is missing, broken, or of another tokenizer."""
        folder = Path(folder)
        path, remedy = folder / "reward.json", "run mlxrlhf reward again"
        if not path.is_file():
            raise UserError(f"{folder} holds no reward model; run: mlxrlhf reward")
        fields = Fields(path, read_json(path, remedy), remedy)
        normaliser = Fields(path, fields.object("normaliser"), remedy)
        accuracy = fields.content.get("val_accuracy")
        model = cls(
            folder,
            _base(folder, fields.text("base")),
            fields.text("base_digest"),
            fields.size("hidden_size"),
            Normaliser(normaliser.number("mean"), normaliser.positive("std")),
            fields.count("lora_rank"),
            None if accuracy is None else fields.number("val_accuracy"),
            fields.count("quantize") if "quantize" in fields.content else 0,
        )
        fingerprint = fields.text("tokenizer")
        if fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"{folder} was trained with another tokenizer than {tokenizer.folder} has; run: mlxrlhf reward"
            )
        if "turns" in fields.content and fields.text("turns") != tokenizer.turns:
            raise UserError(
                f"{folder} was trained on dialogues in the form of another chat template, or of other --template-args, "
                f"than {tokenizer.folder} has; give the same, or run: mlxrlhf reward"
            )
        return model

    def scores_states_of(self, trunk: Path, quantize: int = 0) -> bool:
        """Whether the head knows the hidden states of the checkpoint `trunk`: its base has the same weights, packed
        into as many bits."""
        same = self.quantize == _bits_at_loading(trunk, quantize)
        return same and not self.lora_rank and self.base_digest == trunk_digest(trunk)

    def scorer(
        self, backend: Backend, tokenizer: AnyTokenizer, trunk: Path, *, dtype: str = "float32", quantize: int = 0
    ) -> Scorer:
        """Normalised scores. Where the features passed in are not those of its own base, that base is loaded and run.

        trunk: the checkpoint whose features are passed in, packed into `quantize` bits. Raises UserError where the base
        is not there or has changed.
        """
        head = backend.Head(self.hidden_size)
        head.load_state(checkpoint.load_arrays(self.folder / "head.safetensors"))
        if self.scores_states_of(trunk, quantize):
            return lambda prompts, responses, shared: self.normaliser(head.scores(shared))
        base = self._load_base(backend, trunk, dtype)

        def score(
            prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], shared: np.ndarray
        ) -> np.ndarray:
            sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
            starts = [len(prompt) for prompt in prompts]
            pooled = features(base, sequences, starts, tokenizer.pad_id, adapters=self.lora_rank > 0)
            return self.normaliser(head.scores(pooled))

        return score

    def _load_base(self, backend: Backend, trunk: Path, dtype: str) -> Model:
        remedy = f"train one on it: mlxrlhf reward --checkpoint {trunk}"
        if not (self.base / "config.json").is_file():
            raise UserError(f"{self.folder} scores hidden states of {self.base}, which is not there; {remedy}")
        if trunk_digest(self.base) != self.base_digest:
            raise UserError(
                f"{self.folder} scores hidden states of {self.base} as it was when the reward model was trained; "
                f"its weights are others now, and those of {trunk} are too; {remedy}"
            )
        if not self.lora_rank:
            print(f"the reward model runs its own base {self.base}: {trunk} has other weights")
        adapters = str(self.folder / "adapters") if self.lora_rank else ""
        return load_model(backend, self.base, adapters, dtype=dtype, quantize=self.quantize)

    def critic_start(self, trunk: Path, weight: float = 1.0, quantize: int = 0) -> dict[str, np.ndarray] | None:
        """`value_start` of a model: a value head that begins as `weight` times this reward model's normalised score.

        So begin the value functions of Stiennon et al. (2020) and Ouyang et al. (2022). None where the head knows other
        hidden states than the policy's.
        """
        if not self.scores_states_of(trunk, quantize):
            return None
        arrays = checkpoint.load_arrays(self.folder / "head.safetensors")
        weights = {name: array for name, array in arrays.items() if name.startswith("weights/")}
        scale = weight / self.normaliser.std
        weights["weights/out.bias"] = (weights["weights/out.bias"] - self.normaliser.mean) * scale
        weights["weights/out.weight"] = weights["weights/out.weight"] * scale
        return weights


def _base(folder: Path, written: str) -> Path:
    """The base's folder: as it was written, or seen from the reward model's own folder, for both may have moved."""
    return Path(written) if Path(written).is_dir() else folder / written


def _bits_at_loading(folder: Path, bits: int) -> int:
    """Of a model in `bits` bits, those that it was packed into when it was loaded: 0 where its folder is packed."""
    return bits if bits and not checkpoint.is_packed(folder) else 0


def write_reward_model(
    folder: Path,
    head: Head,
    normaliser: Normaliser,
    base: Model,
    source: Path,
    tokenizer: AnyTokenizer,
    *,
    lora_rank: int,
    accuracy: float,
) -> None:
    """Write head, adapters and reward.json into `folder`, which exists. base: the model of the checkpoint `source`."""
    weights = {name: array for name, array in head.state().items() if name.startswith("weights/")}
    checkpoint.save_arrays(folder / "head.safetensors", weights)
    if lora_rank:
        save_adapters(base, folder)
    description = {
        "base": str(source),
        "base_digest": trunk_digest(source),
        "tokenizer": tokenizer.fingerprint,
        "turns": tokenizer.turns,
        "hidden_size": base.config.hidden_size,
        "normaliser": asdict(normaliser),
        "val_accuracy": accuracy,
        "lora_rank": lora_rank,
        "quantize": _bits_at_loading(source, base.config.bits),
    }
    (folder / "reward.json").write_text(json.dumps(description, indent=2) + "\n")
