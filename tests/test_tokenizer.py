"""The tokenizer gives sentencepiece, transformers and mlx-lm the same ids; user text never becomes a special token."""

import numpy as np
import pytest

from mlxrlhf.data import corpora, dialogue, rows
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.errors import UserError

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "naïve 🦜 parrots",
    "中文字符",
    "a\tb\r\nc",
    "  leading and trailing  ",
    "1234567",
    "<|end|> and <tool_call>",
]
DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {
        "role": "assistant",
        "content": '<tool_call>{"name": "execute_python", "arguments": {"code": "2 + 2"}}</tool_call>',
    },
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "It is 4."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = [text for _, (_, text) in zip(range(60), corpora.stdlib())]
    path = tmp_path_factory.mktemp("tokenizer") / "t"
    tokenizers.train(texts, 1_000, path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_and_no_special_token_comes_in(folder, text):
    tokenizer = tokenizers.Tokenizer(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.special(name) for name in tokenizers.SPECIALS} & set(ids)
    push = tokenizer.stream_decoder()
    assert "".join(map(push, ids)) == text


def test_sentencepiece_transformers_and_mlx_lm_agree(folder):
    import sentencepiece
    from mlx_lm.tokenizer_utils import load
    from transformers import AutoTokenizer

    ours = tokenizers.Tokenizer(folder)
    others = (
        sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).encode,
        lambda text: AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False),
        lambda text: load(folder).encode(text, add_special_tokens=False),
    )
    for text in TEXTS[:-1]:
        for encode in others:
            assert list(encode(text)) == ours.encode(text), text


def test_a_dialogue_is_the_chat_template_and_only_the_assistant_is_trained_on(folder):
    from transformers import AutoTokenizer

    ours, stock = tokenizers.Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    ids, mask = dialogue.examples(DIALOGUE, ours)[0]
    assert stock.apply_chat_template(DIALOGUE, tokenize=False) == ours.decode(ids)
    assert stock.apply_chat_template(DIALOGUE, tokenize=True, return_dict=False) == ids
    trained = ours.decode([i for i, counted in zip(ids, mask) if counted])
    assert trained == DIALOGUE[2]["content"] + "<|end|>It is 4.<|end|>"
    prompt = dialogue.prompt(DIALOGUE[:2], ours)
    assert prompt == stock.apply_chat_template(DIALOGUE[:2], add_generation_prompt=True, return_dict=False)


def test_bad_rows_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    cases = (
        ("", "is empty"),
        ('{"prompt": "a"', ":1 is not valid JSON"),
        ("[1]", "row 1 holds a int"),
        ('{"text": "x"}\n{"prompt": "a"}', ":2 has the keys prompt"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "role 'bot'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no assistant turn"),
    )
    for content, message in cases:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            rows.load_dialogues(path)


def test_documents_are_split_by_content_and_left_out_ones_are_said(folder, tmp_path):
    source = tmp_path / "texts"
    source.mkdir()
    for i in range(60):
        (source / f"{i}.txt").write_text(f"Document number {i}, which is long enough to be kept.\n" * 2)
    (source / "copy.txt").write_text((source / "7.txt").read_text())
    (source / "short.md").write_text("too short")
    said = []
    tokenizer = tokenizers.Tokenizer(folder)
    counts = corpora.write_tokens([str(source)], tokenizer, tmp_path, "x", 10**6, said.append)
    assert "60 documents" in said[0] and "1 shorter than 40" in said[0] and "1 repeated" in said[0]
    train, val = (np.load(tmp_path / f"x_{side}.npy") for side in ("train", "val"))
    assert counts == {"train": len(train), "val": len(val)}
    assert (train == tokenizer.end_id).sum() + (val == tokenizer.end_id).sum() == 60
