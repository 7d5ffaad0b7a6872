"""A byte-fallback BPE tokenizer trained by SentencePiece and read by `tokenizers`, transformers and mlx-lm alike.

    train(texts, 4096, folder); tokenizer = Tokenizer(folder)
    tokenizer.decode(tokenizer.encode("naïve 🦜\\r\\n\\tx"))     # the same text: unknown characters become bytes

Text never turns into a special token: `encode("<|end|>")` spells the characters, and only `special("<|end|>")` is
the token. One concession, SentencePiece's own: the character U+2581 stands for a space and comes back as one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, TOOL_RESPONSE_END = "<tool_response>", "</tool_response>"
#: ids 1 to 10, in this order; 0 is the unknown piece, which byte fallback never uses
SPECIALS = (
    PAD,
    END,
    SYSTEM,
    USER,
    ASSISTANT,
    "<|preference|>",
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_RESPONSE,
    TOOL_RESPONSE_END,
)
#: the module of mlx_lm.tool_parsers that reads <tool_call>{json}</tool_call>; mlx-lm's server takes its name from
#: tokenizer_config.json, where a name it does not have would stop the server
TOOL_PARSER = "json_tools"
_SPACE = "\u2581"

#: the form of a dialogue, the same as `dialogue.render` writes (a test compares them)
CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|system|>' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif -%}
{{ tools | tojson }}{{ '<|end|>' }}{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{ '<tool_response>' + m.content + '</tool_response><|end|>' }}
{%- elif not (m.role == 'system' and tools) -%}
{{ '<|' + m.role + '|>' }}{{ m.content or '' }}
{%- for call in m.tool_calls or [] -%}
{%- set f = call.function or call -%}
{{ '<tool_call>{"name": "' + f.name + '", "arguments": ' }}
{%- if f.arguments is string %}{{ f.arguments }}{% else %}{{ f.arguments | tojson }}{% endif -%}
{{ '}</tool_call>' }}
{%- endfor -%}
{{ '<|end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif -%}
"""


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train on `texts` and write tokenizer.model, tokenizer.json, tokenizer_config.json and the chat template.

    Raises UserError when the text is too little for the vocabulary.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.9995,
            max_sentence_length=1 << 16,
            user_defined_symbols=list(SPECIALS),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=2,
            minloglevel=2,
        )
    except (RuntimeError, StopIteration) as error:
        raise UserError(
            f"the text is too little for a vocabulary of {vocab_size:,}; add sources or choose a smaller "
            f"size ({str(error).splitlines()[0]})"
        ) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with atomic_folder(folder) as temporary:
        (temporary / "tokenizer.model").write_bytes(model.getvalue())
        (temporary / "tokenizer.json").write_text(
            json.dumps(_fast_tokenizer(processor), ensure_ascii=False), encoding="utf-8"
        )
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": END,
            "bos_token": None,
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "tool_parser_type": TOOL_PARSER,
        }
        (temporary / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (temporary / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _sentences(texts: Iterable[str]) -> Iterable[str]:
    """Pieces of at most some 4,000 characters, cut at line ends: SentencePiece skips anything longer than its limit."""
    for text in texts:
        piece, size = [], 0
        for line in text.replace("\0", "").splitlines(keepends=True):
            if piece and size + len(line) > 4_000:
                yield "".join(piece)
                piece, size = [], 0
            piece.append(line[:4_000])
            size += len(line)
        if piece:
            yield "".join(piece)


def _fast_tokenizer(processor) -> dict:
    """tokenizer.json for a SentencePiece BPE model: the same vocabulary, its merges in the order of their scores."""
    count = processor.get_piece_size()
    vocab = {processor.id_to_piece(i): i for i in range(count)}
    ordinary = [
        (i, processor.id_to_piece(i))
        for i in range(count)
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    ]
    scores = {piece: processor.get_score(i) for i, piece in ordinary if piece not in SPECIALS}
    merges = []
    for piece, score in scores.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in scores and piece[k:] in scores]
        halves.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(score, pair) for pair in halves]
    merges.sort(key=lambda item: -item[0])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    # Tool markers are not "special": a server must find them in the decoded text.
    added = [{"id": vocab[s], "content": s, "special": "tool_" not in s, **flags} for s in SPECIALS]
    decoders = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for _, pair in merges],
        },
    }


def open_tokenizer(folder: Path) -> Tokenizer | PublishedTokenizer:
    """The tokenizer of a folder: ours where it has our special tokens, otherwise a published model's own.

    Raises UserError when there is none, or it cannot be read.
    """
    path = Path(folder) / "tokenizer.json"
    if path.is_file():
        try:
            names = {token["content"] for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); restore it") from None
        if names.issuperset(SPECIALS):
            return Tokenizer(folder)
    elif not (Path(folder) / "tokenizer_config.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json; run: mlxrlhf prepare tokenizer")
    return PublishedTokenizer(folder)


class _Decoding:
    """What both kinds of tokenizer share: text that grows with every id."""

    def stream_decoder(self) -> Callable[[int], str]:
        """A function from the next id to the text it completes: characters split over tokens wait for their rest."""
        ids: list[int] = []
        written = waiting = 0

        def push(token: int) -> str:
            nonlocal written, waiting
            ids.append(token)
            text = self.decode(ids)
            waiting += 1
            if text.endswith("\ufffd") and waiting < 4:  # a character has at most four bytes
                return ""
            new, written, waiting = text[written:], len(text), 0
            return new

        return push


class Tokenizer(_Decoding):
    """The house tokenizer of a folder (a checkpoint's, or prepared data's)."""

    def __init__(self, folder: Path):
        import tokenizers

        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} has no tokenizer.json; run: mlxrlhf prepare tokenizer")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._specials = {token["content"]: token["id"] for token in content["added_tokens"]}
            # Without its added tokens the model cannot produce one from text.
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": []}))
            missing = [name for name in SPECIALS if name not in self._specials]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); run: mlxrlhf prepare tokenizer") from None
        if missing:
            raise UserError(f"{path} lacks the special token {missing[0]}; it is not a tokenizer of mlxrlhf")
        self.folder = Path(folder)
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.pad_id, self.end_id = self._specials[PAD], self._specials[END]
        model = content["model"]
        self.fingerprint = hashlib.sha256(json.dumps([model["vocab"], model["merges"]]).encode()).hexdigest()[:16]

    def special(self, name: str) -> int:
        """Id of a special token."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on every core."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out; incomplete byte sequences become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class PublishedTokenizer(_Decoding):
    """A published model's own tokenizer and chat template, read by transformers.

    Text never turns into a special token here either, except in `encode_template`.
    """

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the tokenizer of {folder} cannot be read ({str(error).splitlines()[0]}); copy the "
                "model's tokenizer files into it"
            ) from None
        if self._tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {folder} names no end token; set eos_token in tokenizer_config.json")
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{folder} has no chat template; choose an instruction-tuned model, or add a chat_template.jinja"
            )
        self.folder = Path(folder)
        self.vocab_size = len(self._tokenizer)
        self.end_id, self.end = self._tokenizer.eos_token_id, self._tokenizer.eos_token
        pad = self._tokenizer.pad_token_id
        # Padding is masked by position, never by its id; it only must not be the end token.
        self.pad_id = pad if pad not in (None, self.end_id) else int(self.end_id == 0)
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        self.fingerprint = hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]
        self._specials = tuple(self._tokenizer.all_special_tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token."""
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on every core."""
        return self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]

    def encode_template(self, text: str) -> list[int]:
        """Ids of text that a chat template wrote: special tokens count as such."""
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out; incomplete byte sequences become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def spells_special(self, text: str) -> bool:
        """Whether a text spells one of the special tokens."""
        return any(special in text for special in self._specials)

    @functools.cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template lists tools by itself."""
        return bool(re.search(r"\btools\b", self._tokenizer.get_chat_template(tools=[{}])))

    @functools.cached_property
    def takes_tool_turns(self) -> bool:
        """Whether the chat template shows the model what is in a tool's turn."""
        turns = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "tool", "content": "a result"},
        ]
        try:
            return "a result" in self.apply_template(turns, generation=True)
        except UserError:
            return False

    def apply_template(self, messages: Sequence[dict], *, generation: bool, tools: Sequence[dict] = ()) -> str:
        """The dialogue as the model's chat template writes it. Raises UserError when the template refuses it."""
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=generation
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise UserError(
                f"the chat template of {self.folder} refuses this dialogue ({error}); some models take no "
                "system turn, or no tool turns"
            ) from None
