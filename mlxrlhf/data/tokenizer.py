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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.settings import read_json

if TYPE_CHECKING:
    from mlxrlhf.data.template import ChatTemplate

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
#: a checkpoint's file of the arguments its chat template was given in training: thinking on or off, the date
TEMPLATE_ARGS = "template_args.json"
_SPACE = "\u2581"
# Noncharacters: no text means anything by them. A number between them stands for a special token that text spells.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_HIDDEN = re.compile(f"{_OPEN}(\\d+){_CLOSE}")

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
        piece: list[str] = []
        size = 0
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


#: classes of transformers whose tokenizer is its tokenizer.json and nothing else
ONE_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")


def open_tokenizer(
    folder: Path, template_args: Mapping[str, Any] | None = None, chat_template: str = ""
) -> Tokenizer | PublishedTokenizer:
    """The tokenizer of a folder: ours where it has our special tokens, otherwise a published model's own.

    template_args and chat_template are for a published one: see there. Raises UserError when there is no tokenizer, or
    it cannot be read.
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
    elif read_json(Path(folder) / "tokenizer_config.json").get("tokenizer_class") in ONE_FILE:
        # transformers would build another one from what else lies there.
        raise UserError(f"{folder} lacks its tokenizer.json; copy it from where the checkpoint came from")
    return PublishedTokenizer(folder, template_args, chat_template)


class _Decoding:
    """What both kinds of tokenizer share: text that grows with every id."""

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

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
        #: a digest of the form of a dialogue, "" for ours
        self.turns = ""
        #: every id that ends a turn
        self.ends: tuple[int, ...] = (self.end_id,)
        #: what goes before a plain text
        self.start_ids: list[int] = []
        model = content["model"]
        self.fingerprint = hashlib.sha256(json.dumps([model["vocab"], model["merges"]]).encode()).hexdigest()[:16]

    def special(self, name: str) -> int:
        """Id of a special token."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def save_turns(self, folder: Path) -> None:
        """Nothing is left to write: the form of a dialogue is that of the code."""

    def save_args(self, folder: Path) -> None:
        """Nothing: our form takes no arguments."""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on every core."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out; incomplete byte sequences become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class PublishedTokenizer(_Decoding):
    """A published model's own tokenizer and chat template, read by transformers.

    Text never turns into a special token here either, except in `encode_template`.

    template_args: arguments of the chat template, which go before those that are stored with the checkpoint.
    chat_template: a file with the template to use instead of the folder's own.
    """

    def __init__(self, folder: Path, template_args: Mapping[str, Any] | None = None, chat_template: str = ""):
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            if "trust_remote_code" in str(error):
                raise UserError(
                    f"the tokenizer of {folder} needs Python code that comes with it, and mlxrlhf runs no model's "
                    "code; take a model whose tokenizer is a tokenizer.json"
                ) from None
            raise UserError(
                f"the tokenizer of {folder} cannot be read ({str(error).splitlines()[0]}); copy the "
                "model's tokenizer files into it"
            ) from None
        if self._tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {folder} names no end token; set eos_token in tokenizer_config.json")
        self.folder = Path(folder)
        if chat_template:
            self._tokenizer.chat_template = _read_template(Path(chat_template))
        self.chosen_template = bool(chat_template)
        self.template_args = {**stored_args(self.folder), **(template_args or {})}
        self.vocab_size = len(self._tokenizer)
        self.end_id: int = self._tokenizer.eos_token_id
        self.end: str = self._tokenizer.eos_token
        pad = self._tokenizer.pad_token_id
        # Padding is masked by position, never by its id; it only must not be the end token.
        self.pad_id: int = pad if pad not in (None, self.end_id) else int(self.end_id == 0)
        everything = self._tokenizer.get_vocab()
        vocabulary = sorted(everything.items())
        self.fingerprint = hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]
        added = self._tokenizer.added_tokens_decoder
        self.specials: dict[str, int] = {str(token): id for id, token in added.items() if token.special}
        self.specials |= {str(name): everything[str(name)] for name in self._tokenizer.all_special_tokens}
        self.added: dict[str, int] = {str(token): id for id, token in added.items()} | self.specials
        # Whether the tokenizer swallows the white space to the left and to the right of an added token.
        self._swallows = {str(token): (token.lstrip, token.rstrip) for token in added.values()}
        begin = self._tokenizer.bos_token_id
        #: what goes before a plain text: the begin token where this tokenizer writes one by itself, as Gemma's does
        self.start_ids: list[int] = (
            [begin] if begin is not None and begin in self._tokenizer("a")["input_ids"][:1] else []
        )
        self._rows = _embedding_rows(self.folder)

    # --- text ------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token."""
        return self._known(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        )

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on every core."""
        encoded = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [self._known(ids) for ids in encoded["input_ids"]]

    def encode_template(self, text: str) -> list[int]:
        """Ids of text that a chat template wrote: special tokens count as such, where they are not `hidden`."""
        if _HIDDEN.search(text) is None:
            return self._known(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            if not part:
                continue
            if self._special_pattern.fullmatch(part):
                ids.append(self.specials[part.strip()])
            else:
                ids += self._inside(self.shown(part), first=not ids)
        return self._known(ids)

    def encode_after(self, text: str) -> list[int]:
        """`encode_template` of text that stands behind other text: nothing is put before its first word."""
        anchor = self.encode_template(self.end)
        ids = self.encode_template(self.end + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self.encode_template(text)

    def hidden(self, text: str) -> str:
        """The text with the special tokens that it spells replaced by marks: `encode_template` spells them again, as
        plain text."""
        for name in self._longest_first:
            if name in text:
                text = text.replace(name, f"{_OPEN}{self.specials[name]}{_CLOSE}")
        return text

    def shown(self, text: str) -> str:
        """The text with the marks of `hidden` spelled again."""
        return _HIDDEN.sub(lambda mark: self._by_id.get(int(mark[1]), mark[0]), text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out; incomplete byte sequences become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @functools.cached_property
    def _longest_first(self) -> list[str]:
        return sorted((name for name in self.specials if name), key=len, reverse=True)

    @functools.cached_property
    def _by_id(self) -> dict[int, str]:
        return {id: name for name, id in self.specials.items()}

    @functools.cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """A special token with the white space that it swallows."""
        names = []
        for name in self._longest_first:
            left, right = self._swallows.get(name, (False, False))
            names.append((r"\s*" if left else "") + re.escape(name) + (r"\s*" if right else ""))
        return re.compile("(" + "|".join(names) + ")")

    def _inside(self, text: str, *, first: bool) -> list[int]:
        """Ids of plain text that stands behind a special token: SentencePiece puts no space before it."""
        if first or self._tokenizer("a", add_special_tokens=False)["input_ids"] == self.encode_after("a"):
            return self.encode(text)
        anchor = self.encode(_OPEN)  # a character that no vocabulary joins with its neighbours
        ids = self.encode(_OPEN + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self.encode(text)

    def _known(self, ids: list[int]) -> list[int]:
        """The ids. Raises UserError for one that the model has no embedding of, as some published tokenizers have."""
        if self._rows and self.vocab_size > self._rows:
            for id in ids:
                if id >= self._rows:
                    raise UserError(
                        f"{self.folder}: the token {self._tokenizer.convert_ids_to_tokens(id)!r} ({id}) has no row in "
                        f"the model's embedding of {self._rows:,}; leave it out of the text"
                    )
        return ids

    # --- turns -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The chat template. Raises UserError where there is none: a base model does without, except for dialogues."""
        from mlxrlhf.data.template import ChatTemplate

        if not self.has_template:
            raise UserError(
                f"{self.folder} has no chat template, so it has no form for a dialogue; choose an instruction-tuned "
                "model, or give one with --chat-template FILE"
            )
        return ChatTemplate(self, self._tokenizer, self.template_args)

    @property
    def has_template(self) -> bool:
        """Whether dialogues can be written at all."""
        return bool(self._tokenizer.chat_template)

    @functools.cached_property
    def turns(self) -> str:
        """A digest of the form of a dialogue: the template with its arguments; "" where there is none."""
        if not self.has_template:
            return ""
        form = json.dumps([self.template.source, self.template.args], sort_keys=True)
        return hashlib.sha256(form.encode()).hexdigest()[:16]

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Every id that ends a turn: generation_config.json's, the tokenizer's end token, what the template writes."""
        known = {self.end_id, *_generation_ends(self.folder)}
        return tuple(sorted(known | (self.template.ends(known) if self.has_template else set())))

    def save_turns(self, folder: Path) -> None:
        """Write what fixes the turns of a checkpoint into its folder: template, its arguments, and every end."""
        if not self.has_template:
            return
        if self.chosen_template:
            (folder / "chat_template.jinja").write_text(self._tokenizer.chat_template, encoding="utf-8")
        self.save_args(folder)
        path = folder / "generation_config.json"
        content = _read_json(path)
        path.write_text(json.dumps({**content, "eos_token_id": list(self.ends)}, indent=2) + "\n")

    def save_args(self, folder: Path) -> None:
        """Write the template's arguments, where it has any, into a folder of a checkpoint or of adapters."""
        if self.has_template and self.template.args:
            (folder / TEMPLATE_ARGS).write_text(json.dumps(self.template.args, indent=2) + "\n")


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--chat-template {path} cannot be read ({error}); give a Jinja file") from None


def _read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file, empty where there is no such file. Raises UserError for one that cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it") from None
    return content if isinstance(content, dict) else {}


def stored_args(folder: Path) -> dict[str, Any]:
    """The chat template's arguments that a checkpoint or adapters were trained with."""
    return _read_json(folder / TEMPLATE_ARGS)


def _generation_ends(folder: Path) -> set[int]:
    """What generation_config.json names as ends: one id or a list."""
    ends = _read_json(folder / "generation_config.json").get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in ends if isinstance(end, int) and end >= 0}


def _embedding_rows(folder: Path) -> int:
    """Rows of the model's embedding, 0 where the folder holds no model."""
    content = _read_json(folder / "config.json")
    rows = {**content, **(content.get("text_config") or {})}.get("vocab_size")
    return rows if isinstance(rows, int) else 0
