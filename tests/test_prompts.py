"""The prompts of a stage: which are taken, and that answers do not depend on what is read beside them."""

import json

import numpy as np
import pytest

from mlxrlhf import backends
from mlxrlhf.config import ModelConfig, PPOConfig
from mlxrlhf.errors import UserError
from mlxrlhf.stages import sampling

TOY = ModelConfig(300, 32, 2, 2, 1, 64, head_dim=16, max_positions=1024)


class Letters:
    """A tokenizer of ours with a token for every letter; roles are 1, ends 2."""

    end_id, ends, pad_id = 2, (2,), 0

    def special(self, name):
        return 1

    def encode(self, text):
        return [ord(letter) for letter in text]


def prompts_of(path, *prompts, **settings):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return sampling.prompts_of(PPOConfig(prompts=str(path), max_tokens=20, **settings), Letters(), 60)


def test_long_prompts_are_left_out_and_named(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    # The user's mark, the text, its end and the assistant's mark: three tokens beside the letters.
    rows, encoded = prompts_of(path, "a" * 37, "b", "c" * 38, "d" * 99)
    assert [row["prompt"][0] for row in rows] == ["a", "b"] and list(map(len, encoded)) == [40, 4]
    assert rows[0]["tests"] == [] and encoded[1] == [1, ord("b"), 2, 1]
    said = capsys.readouterr().out
    assert "2 of 4 are taken" in said and f"2 longer than 40 tokens (the first: {path}:3)" in said
    assert "the context without --max-tokens 20" in said
    rows, _ = prompts_of(path, "a" * 37, "b", max_prompt_tokens=10)
    assert [row["prompt"] for row in rows] == ["b"] and "--max-prompt-tokens" in capsys.readouterr().out
    with pytest.raises(UserError, match="no prompt has at most 10 tokens"):
        prompts_of(path, "a" * 37, max_prompt_tokens=10)


def test_a_number_of_prompts_is_drawn_by_the_seed_in_the_order_of_the_file(tmp_path):
    drawn = [
        "".join(row["prompt"] for row in prompts_of(tmp_path / "p.jsonl", *"abcdefghij", max_prompts=4, seed=seed)[0])
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(d) == 4 and list(d) == sorted(d) for d in drawn)
    assert len(prompts_of(tmp_path / "p.jsonl", *"abc", max_prompts=7)[0]) == 3


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_an_answer_does_not_depend_on_the_prompts_beside_it(backend):
    model = backends.load(backend, "cpu").Model(TOY, seed=3)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 300, n).tolist() for n in (5, 400, 61, 90, 7, 200, 64, 33)]
    uniforms = rng.random((len(prompts), 12))
    settings = dict(temperature=1.0, stop_ids=[2], pad_id=0)
    alone = [sampling.sample(model, [p], uniforms[i : i + 1], **settings)[0] for i, p in enumerate(prompts)]
    counts = []
    together = sampling.sample(model, prompts, uniforms, **settings, advance=counts.append)
    assert together == alone and counts == [5, 1, 2], "short ones together, 90 alone, 200 and 400 together"
    assert sampling.sample(model, prompts, uniforms, **settings, together=2) == alone
    order = rng.permutation(len(prompts))
    assert sampling.sample(model, [prompts[i] for i in order], uniforms[order], **settings) == [alone[i] for i in order]
    assert len({tuple(answer) for answer in alone}) > 4, "else anything would pass"
