"""The loop closed at nano: answers rated in chat, a reward model from the ratings, PPO, and the new model preferred."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import mlxrlhf

from mlxrlhf import backends
from mlxrlhf.agent import commands, terminal
from mlxrlhf.agent.chat import Chat, LoadedModel
from mlxrlhf.config import SIZES, ChatConfig
from mlxrlhf.data import corpora, dialogue
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.models import checkpoint, folders

THINGS = (
    "a list",
    "a string",
    "a file",
    "a set",
    "a class",
    "a loop",
    "a test",
    "a name",
    "a path",
    "a table",
    "a number",
    "a word",
    "a tree",
    "a key",
    "a queue",
    "a stack",
    "a graph",
    "a date",
    "a page",
    "a map",
)
#: never asked during training
NEW = ("a clock", "a bag", "a box", "a ring", "a chain", "a lamp", "a door", "a card")
POLITE = "Gladly: "
#: as long, so that length says nothing of what is preferred
CURT = "Listen: "


def question(thing):
    return f"What is {thing}?"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A nano that answers politely about half of the time."""
    folder = tmp_path_factory.mktemp("loop")
    tokenizers.train((text for _, (_, text) in zip(range(40), corpora.stdlib())), 1_000, folder / "tokenizer")
    tokenizer = open_tokenizer(folder / "tokenizer")
    (folder / "base").mkdir()
    shape = dataclasses.replace(SIZES["nano"], vocab_size=1_000)
    backends.load("mlx").Model(shape, seed=0).save(folder / "base", pad_id=tokenizer.pad_id, end_id=tokenizer.end_id)
    checkpoint.copy_tokenizer(folder / "tokenizer", folder / "base")
    rows = [
        {"prompt": question(thing), "completion": f"{manner}it is {thing}."}
        for thing in THINGS
        for manner in (POLITE, CURT)
    ] * 3
    order = np.random.default_rng(0).permutation(len(rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(rows[i]) + "\n" for i in order))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": question(t)}) + "\n" for t in THINGS))
    mlxrlhf(
        folder,
        "finetune",
        "--stage",
        "tools",
        "--model",
        "base",
        "--data",
        "rows.jsonl",
        "--backend",
        "mlx",
        "--steps-per-epoch",
        "90",
        "--batch-size",
        "8",
        "--sequence-length",
        "64",
        "--eval-batches",
        "1",
        "--lora-rank",
        "0",  # it starts from random weights
        "--learning-rate",
        "3e-3",
        "--warmup-steps",
        "5",
    )
    return folder


def polite_share(folder, tokenizer):
    """Of 48 sampled answers to questions that were never asked before."""
    model = backends.load("mlx").Model(checkpoint.read_config(folder), folder=folder)
    prompts = [dialogue.prompt([{"role": "user", "content": question(t)}], tokenizer) for t in NEW for _ in range(6)]
    answers = model.generate(
        prompts,
        uniforms=np.random.default_rng(1).random((len(prompts), 24)),
        max_tokens=24,
        temperature=1.0,
        stop_ids=[tokenizer.end_id],
        pad_id=tokenizer.pad_id,
    )
    return np.mean([tokenizer.decode(answer).startswith(POLITE) for answer in answers])


def test_rated_answers_change_the_model(base, monkeypatch):
    backend, tokenizer = backends.load("mlx"), open_tokenizer(base / "tokenizer")
    config = ChatConfig(temp=1.0, max_tokens=24, tools="off", ratings=str(base / "ratings.jsonl"))
    found = folders.Found("base", base / "weights" / "base" / "tools", "")
    chat = Chat(LoadedModel.load(found, backend, config), backend, config)

    def person(asked):
        """Prefers the polite answer."""
        if asked.startswith("why"):
            return "it is polite"
        _, left, right = chat.compared
        sides = [side[1].startswith(POLITE) for side in (left, right)]
        return "tie" if sides[0] == sides[1] else "left" if sides[0] else "right"

    monkeypatch.setattr(terminal, "ask", person)
    for thing in THINGS * 4:
        commands.run(chat, "/clear")
        chat.send(question(thing))
        if chat.messages[-1]["content"].strip():
            try:
                commands.run(chat, "/rate")
            except commands.UserError as error:
                assert "the same" in str(error)  # two equal answers are no pair
    ratings = [json.loads(line) for line in (base / "ratings.jsonl").read_text().splitlines()]
    assert len(ratings) >= 12 and all(r["chosen"].startswith(POLITE) for r in ratings)

    common = ["--model", "base", "--backend", "mlx"]
    mlxrlhf(base, "reward", *common, "--data", "ratings.jsonl")
    # A firm penalty: with the default one, fourteen updates find answers that only the reward model likes.
    said = mlxrlhf(
        base,
        "ppo",
        *common,
        "--prompts",
        "prompts.jsonl",
        "--steps-per-epoch",
        "12",
        "--batch-size",
        "16",
        "--max-tokens",
        "24",
        "--learning-rate",
        "2e-3",
        "--gamma",
        "1",
        "--lam",
        "1",
        "--kl-coef",
        "0.3",
    )
    assert "the score went from" in said.out
    before, after = (polite_share(base / "weights" / "base" / stage, tokenizer) for stage in ("tools", "rlhf"))
    assert 0.2 < before < 0.8 and after > before + 0.25, (before, after)
