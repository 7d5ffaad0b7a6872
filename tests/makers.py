"""Tokenizer folders as the makers of published models ship them: their chat template, their special tokens, their ends.

The templates are real (tests/templates/NOTICE says from where); the vocabulary is a small one, trained here.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).with_name("templates")


class Maker(NamedTuple):
    """specials: what the tokenizer calls special; added: tokens of its own that are plain text to it, such as <think>.

    begins: the tokenizer writes its begin token by itself. swallows: tokens that take the white space behind them.
    """

    specials: tuple[str, ...]
    eos: str
    ends: tuple[str, ...] = ()  # generation_config.json's, where it has some
    bos: str = ""
    begins: bool = False
    added: tuple[str, ...] = ()
    swallows: tuple[str, ...] = ()


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN = Maker(
    _CHATML,
    "<|im_end|>",
    ("<|im_end|>", "<|endoftext|>"),
    added=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_MISTRAL = Maker(
    (
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
    "</s>",
    ("</s>",),
    "<s>",
    True,
)
_GEMMA = Maker(
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", ("<eos>", "<end_of_turn>"), "<bos>", True
)
_GRANITE = Maker(
    ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
    "<|end_of_text|>",
    ("<|end_of_text|>",),
)
#: template -> its maker's tokenizer
MAKERS = {
    "qwen2_5": _QWEN,
    "qwen3": _QWEN,
    "qwen3_5": _QWEN,
    "smollm3": Maker((*_CHATML, "<|begin_of_text|>"), "<|im_end|>", ("<|im_end|>",), added=("<think>", "</think>")),
    "llama3_2": Maker(
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        ),
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        True,
    ),
    "gemma2": _GEMMA._replace(ends=()),
    "gemma3": _GEMMA,
    "gemma4": Maker(
        ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool>", "<tool|>", '<|"|>')
        + ("<|tool_response>", "<tool_response|>", "<|channel>", "<channel|>", "<|think|>"),
        "<eos>",
        ("<eos>", "<turn|>", "<|tool_response>"),
        "<bos>",
        True,
    ),
    "phi3_5": Maker(
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        ("<|endoftext|>", "<|assistant|>", "<|end|>"),
        swallows=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "mistral_v1": _MISTRAL,
    "mistral_nemo": _MISTRAL,
    "granite3": _GRANITE,
    "granite4": _GRANITE._replace(added=("<tool_call>", "</tool_call>")),
    "glm4moe": Maker(
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        "<|endoftext|>",
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        added=("<think>", "</think>", "<tool_call>", "</tool_call>", "/nothink"),
    ),
    "deepseek_r1_distill": Maker(
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
        + (
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        )
        + ("<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>"),
        "<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
        "<｜begin▁of▁sentence｜>",
        True,
        ("<think>", "</think>"),
    ),
    "lfm2": Maker(
        ("<|startoftext|>", *_CHATML, "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_list_start|>")
        + ("<|tool_list_end|>", "<|tool_response_start|>", "<|tool_response_end|>"),
        "<|im_end|>",
        ("<|im_end|>",),
        "<|startoftext|>",
        True,
    ),
    "lfm2_first": Maker(
        ("<|startoftext|>", *_CHATML, "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_list_start|>")
        + ("<|tool_list_end|>", "<|tool_response_start|>", "<|tool_response_end|>"),
        "<|im_end|>",
        ("<|im_end|>",),
        "<|startoftext|>",
        True,
    ),
    "gptoss": Maker(
        (
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|channel|>",
            "<|constrain|>",
            "<|call|>",
            "<|return|>",
            "<|endoftext|>",
        ),
        "<|return|>",
        ("<|return|>", "<|endoftext|>", "<|call|>"),
    ),
}


def write(folder, name, maker=None, *, template=None, sentencepiece=False):
    """The tokenizer's files of one maker. Returns the folder.

    sentencepiece: a vocabulary of characters in which a space is U+2581, and one stands before the first word.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    maker = maker or MAKERS[name]
    library = _vocabulary(maker, _characters() if sentencepiece else _trained())
    if maker.begins:
        library.post_processor = processors.TemplateProcessing(
            single=f"{maker.bos} $A", special_tokens=[(maker.bos, library.token_to_id(maker.bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=library,
        eos_token=maker.eos,
        bos_token=maker.bos or None,
        chat_template=template or (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"),
    )
    made.save_pretrained(folder)
    if maker.ends:
        ends = [library.token_to_id(end) for end in maker.ends]
        (Path(folder) / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return Path(folder)


@functools.cache
def _trained():
    """A byte-level BPE of a few hundred pieces, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.glob("q*.jinja"))]
    library.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return library.to_str()


def _characters():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = {piece: id for id, piece in enumerate(["<unk>", "\u2581", *map(chr, range(33, 127))])}
    library = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    library.decoder = decoders.Metaspace(prepend_scheme="first")
    return library.to_str()


def _vocabulary(maker, content):
    from tokenizers import AddedToken, Tokenizer

    library = Tokenizer.from_str(content)
    library.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=name in maker.swallows) for name in maker.specials]
    )
    library.add_tokens([AddedToken(name, special=False, normalized=False) for name in maker.added])
    return library
