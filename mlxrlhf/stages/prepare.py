"""Text to what the stages read, under DATA_DIR/SIZE: tokenizer, token arrays, dialogues and preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlxrlhf.agent.dialogues import bfcl, build_dialogues, split_dialogues
from mlxrlhf.config import SIZES, PrepareConfig
from mlxrlhf.data import corpora, dialogue, prepared
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.files import Say, atomic_folder
from mlxrlhf.models import folders, published
from mlxrlhf.models.checkpoint import copy_tokenizer
from mlxrlhf.preferences import mined
from mlxrlhf.preferences.pairs import Pair, length_baseline, pair_to_json, split_by_task
from mlxrlhf.tasks import requests
from mlxrlhf.tasks.task import load_tasks

PARTS = ("tokenizer", "language", "code", "tools", "preferences")
#: characters of each corpus that the tokenizer is trained on
TOKENIZER_CHARACTERS = 1_500_000


def run(part: str, config: PrepareConfig, say: Callable[[str], None] = print) -> None:
    """Prepare one part, or all of them in order."""
    folder = folders.data(config)
    for name in PARTS if part == "all" else (part,):
        PREPARE[name](config, folder, say)


def _sources(text: str) -> list[str]:
    return [source.strip() for source in text.split(",") if source.strip()]


def _tokenizer(config: PrepareConfig, folder: Path, say: Say) -> None:
    if config.model:
        source = published.fetch(config.model, say)
        with atomic_folder(folder / "tokenizer") as target:
            copy_tokenizer(source, target)
        say(f"tokenizer: that of {source}, in {folder / 'tokenizer'}")
        return

    def texts():
        for listed in (config.language_sources, config.code_sources):
            taken = 0
            for source in _sources(listed):
                for _, text in corpora.documents(source, lambda line: None):
                    if taken + len(text) <= min(TOKENIZER_CHARACTERS, config.max_characters):
                        taken += len(text)
                        yield text
        # The words of requests and answers count too: a small vocabulary should spell them in few pieces.
        for row in _code_dialogues(config)[0]:
            yield "\n".join(message["content"] for message in row["messages"])

    size = SIZES[config.size].vocab_size
    tokenizers.train(texts(), size, folder / "tokenizer")
    say(f"tokenizer: {size:,} pieces in {folder / 'tokenizer'}")


def _load_tokenizer(config: PrepareConfig, folder: Path) -> AnyTokenizer:
    return folders.tokenizer_for(config, folders.need(folder / "tokenizer", "mlxrlhf prepare tokenizer"))


def _language(config: PrepareConfig, folder: Path, say: Say) -> None:
    tokenizer = _load_tokenizer(config, folder)
    with prepared.writing(folder, tokenizer.fingerprint, say) as new:
        corpora.write_tokens(_sources(config.language_sources), tokenizer, new, "language", config.max_characters, say)


def _code_dialogues(config: PrepareConfig) -> tuple[list[dict], list[dict]]:
    bank, rng = load_tasks(), np.random.default_rng(config.seed)
    return requests.sft_dialogues(bank, rng), requests.sft_dialogues(bank, rng, per_phrasing=4, held_out=True)


def _code(config: PrepareConfig, folder: Path, say: Say) -> None:
    tokenizer = _load_tokenizer(config, folder)
    with prepared.writing(folder, tokenizer.fingerprint, say) as new:
        corpora.write_tokens(_sources(config.code_sources), tokenizer, new, "code", config.max_characters, say)
        for side, rows in zip(("train", "val"), _code_dialogues(config)):
            _write_jsonl(new / f"code_dialogues_{side}.jsonl", rows)
            say(f"code: {len(rows):,} requests with a solution ({side})")
        _write_prompts(new)


def _write_prompts(folder: Path) -> None:
    """The requests that PPO samples answers to, and those that evaluate holds out."""
    (folder / "prompts.json").write_text(json.dumps(requests.prompts(load_tasks()), indent=1), encoding="utf-8")


def _tools(config: PrepareConfig, folder: Path, say: Say) -> None:
    dialogues = build_dialogues(config.dialogues, seed=config.seed, unsafe=config.unsafe_exec)
    train, val = split_dialogues(dialogues, int(config.dialogues * 0.9))
    if config.bfcl:
        extra = bfcl(config.bfcl, say)
        train = train + extra[: -len(extra) // 10]
        val = val + extra[-len(extra) // 10 :]
    with prepared.writing(folder, say=say) as new:
        for side, rows in (("train", train), ("val", val)):
            _write_jsonl(new / f"tools_{side}.jsonl", rows)
            say(f"tools: {len(rows):,} dialogues ({side}), their results printed by the tools themselves")


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _encoded(pairs: Sequence[Pair], kind: str, tokenizer: AnyTokenizer) -> np.ndarray:
    """Prompt and answer of each pair as ids, padded on the right; (pairs, longest) int32."""
    ids = [
        dialogue.prompt(p.messages, tokenizer) + dialogue.answer(p.messages, getattr(p, kind), tokenizer) for p in pairs
    ]
    rows = np.full((len(ids), max(map(len, ids))), tokenizer.pad_id, np.int32)
    for row, sequence in zip(rows, ids):
        row[: len(sequence)] = sequence
    return rows


def _preferences(config: PrepareConfig, folder: Path, say: Say) -> None:
    tokenizer = _load_tokenizer(config, folder)
    pairs, bank, report = mined.build(
        _sources(config.sources),
        config.pairs,
        config.seed,
        say,
        max_characters=config.max_code_characters,
        unsafe=config.unsafe_exec,
    )
    sides = dict(zip(("train", "val"), split_by_task(pairs, bank)))
    readable = [{"split": side, **pair_to_json(p)} for side, some in sides.items() for p in some]
    with prepared.writing(folder, tokenizer.fingerprint, say) as new:
        for side, some in sides.items():
            for kind in ("chosen", "rejected"):
                np.save(new / f"rlhf_{side}_{kind}.npy", _encoded(some, kind, tokenizer))
        (new / "rlhf_preferences.json").write_text(json.dumps(readable, indent=1, ensure_ascii=False), encoding="utf-8")
        _write_prompts(new)
    say(
        f"preferences: {len(sides['train']):,} train and {len(sides['val']):,} held-out pairs, every label run; "
        f"the longer answer wins {length_baseline(pairs):.0%}"
    )
    criteria = Counter(pair.criterion for pair in pairs)
    say("preferences: " + ", ".join(f"{count:,} {criterion}" for criterion, count in criteria.most_common()))
    say("preferences: candidates: " + ", ".join(f"{name} {count:,}" for name, count in report.items()))
    if len(pairs) < config.pairs:
        say(f"preferences: {len(pairs):,} of the {config.pairs:,} pairs asked for could be verified; add --sources")


#: how each part is prepared, in the order in which one needs another
PREPARE = {
    "tokenizer": _tokenizer,
    "language": _language,
    "code": _code,
    "tools": _tools,
    "preferences": _preferences,
}
