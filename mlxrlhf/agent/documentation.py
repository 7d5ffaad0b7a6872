"""Search in Python's own documentation, as installed."""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

DOCS_CHARACTERS = 400


_MODULES = (
    "argparse",
    "array",
    "ast",
    "asyncio",
    "base64",
    "bisect",
    "calendar",
    "collections",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "glob",
    "hashlib",
    "heapq",
    "html",
    "inspect",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "operator",
    "os",
    "os.path",
    "pathlib",
    "pickle",
    "pprint",
    "queue",
    "random",
    "re",
    "secrets",
    "shlex",
    "shutil",
    "sqlite3",
    "statistics",
    "string",
    "struct",
    "subprocess",
    "sys",
    "tempfile",
    "textwrap",
    "threading",
    "time",
    "timeit",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "urllib.parse",
    "uuid",
    "zipfile",
    "zlib",
)


_IGNORED = frozenset(
    "a an and are as at be by can do does for from get how i in is it its me my of on or python that "
    "the this to use used using what which with you".split()
)


@dataclass(frozen=True)
class _Page:
    title: str
    text: str
    names: frozenset[str]  # terms of the name
    terms: frozenset[str]  # those and the text's


def search_docs(query: str) -> str:
    """The page of Python's own documentation that shares the rarest words with the query: title and first paragraphs.

    Pages: the language reference's topics, and the docstrings of builtins, their methods and much of the standard
    library, as this interpreter has them.
    """
    pages, rarity = _documentation()
    wanted = _terms(query)
    score, best = max(((_score(page, wanted, rarity), -index) for index, page in enumerate(pages)), default=(0.0, 0))
    if score <= 0:
        return f"nothing found for {quoted(query)}"
    page = pages[-best]
    text = page.title
    for paragraph in re.split(r"\n\s*\n", page.text):
        paragraph = " ".join(paragraph.split())
        if len(text) + 1 + len(paragraph) > DOCS_CHARACTERS:
            if text == page.title:
                cut = paragraph[: DOCS_CHARACTERS - len(text) - 5]
                text += f"\n{cut.rpartition(' ')[0]} ..."
            break
        text += f"\n{paragraph}" if paragraph else ""
    return text


def _score(page: _Page, wanted: frozenset[str], rarity: Mapping[str, float]) -> float:
    named = wanted & page.names
    shared = sum(rarity[term] for term in wanted & page.terms) + 2 * sum(rarity[term] for term in named)
    # Among pages that share as much, the one whose name says the least beyond the query.
    return shared * (1 + len(named) / len(page.names)) / (1 + 0.05 * math.log(len(page.terms)))


def _terms(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z][a-z0-9]*|[0-9]+", text.lower().replace("_", " "))
    singular = (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words
    )
    return frozenset(singular) - _IGNORED or frozenset(words)


@functools.cache
def _documentation() -> tuple[list[_Page], Mapping[str, float]]:
    """The pages, and for each term how rare it is."""
    pages = [
        _Page(title, text, _terms(name), _terms(f"{name} {title} {text}"))
        for name, title, text in (*_topics(), *_docstrings())
        if _terms(name)
    ]
    counts = Counter(term for page in pages for term in page.terms)
    return pages, {term: math.log(1 + len(pages) / count) for term, count in counts.items()}


def _topics() -> Iterator[tuple[str, str, str]]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        heading, _, body = text.lstrip().partition("\n")
        yield f"{name} {heading}", heading.replace('"', ""), re.sub(r"^[*=\-~^]+\n", "", body)


def _docstrings() -> Iterator[tuple[str, str, str]]:
    owners = [("", builtins), *((kind.__name__, kind) for kind in (str, list, dict, set, tuple, int, float, bytes))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _MODULES:
            try:
                owners.append((name, importlib.import_module(name)))
            except ImportError:  # a Python built without it
                continue
        for prefix, owner in owners:
            if prefix and inspect.ismodule(owner) and owner.__doc__:
                yield prefix, f"module {prefix}", inspect.cleandoc(owner.__doc__)
            for name in sorted(getattr(owner, "__all__", None) or dir(owner)):
                value = getattr(owner, name, None)
                text = getattr(value, "__doc__", None)
                if name.startswith("_") or not isinstance(text, str) or not text.strip():
                    continue
                if not (inspect.isroutine(value) or inspect.isclass(value)):
                    continue
                full = f"{prefix}.{name}" if prefix else name
                yield full, full + _signature(value), inspect.cleandoc(text)


def _signature(value) -> str:
    try:
        text = str(inspect.signature(value))
    except (ValueError, TypeError):
        return ""
    return text if len(text) <= 60 and " at 0x" not in text else ""


def quoted(value) -> str:
    """A value as a message names it: at most 40 characters."""
    text = json.dumps(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."
