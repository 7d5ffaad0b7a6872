"""One reader for every file of rows: JSONL, JSON, Parquet, text, a folder of them, or a data set of the hub.

    rows.jsonl  rows.json  rows.jsonl.gz  rows.parquet     a row is a JSON object
    prompts.txt  prompts.txt.gz                            a row is a line, where a command takes text
    FOLDER                                                 its files, sorted by name
    hub:NAME[@REVISION][:SPLIT or PATTERN]                 the files of a data set whose path matches

Rows come one by one with the place where they stand, so a file of any length takes the memory of one row. Whatever the
bytes are, they are rows or one UserError with file and line.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from io import BufferedReader
from pathlib import Path
from typing import Any

from mlxrlhf import hub
from mlxrlhf.errors import UserError
from mlxrlhf.settings import DECODER, check_value, parse_json

Stream = gzip.GzipFile | BufferedReader
#: (place, row): place is "file:line", or "file, row N" where a file has no lines
Row = tuple[str, dict[str, Any]]

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")
TEXT_SUFFIXES = (".txt", ".txt.gz")
SUFFIXES = (*JSON_SUFFIXES, ".parquet")
#: bytes of the longest row that is read; a longer one is a file whose line ends or brackets are missing
LONGEST_ROW = 2**26
#: bytes read at once from a file that is one JSON list
CHUNK = 2**18
#: the mark that some programs put before UTF-8 text
BOM = codecs.BOM_UTF8
#: rows of a Parquet file that are in memory at once
PARQUET_ROWS = 256


def rows(source: str | Path, *, text: str = "") -> Iterator[Row]:
    """(place, row) of every row of a file, of a folder's files or of a hub data set's.

    text: what the line of a text file is called in its row; without it text files are refused. Raises UserError for
    what cannot be read, for a row that is no JSON object, and where there is no row at all.
    """
    numbered = _rows_of_files(files_of(source, text=bool(text)), text)
    first = next(numbered, None)
    if first is None:
        raise UserError(f"{source} is empty; put one JSON object on each line{' or one text' if text else ''}")
    return itertools.chain([first], numbered)


def files_of(source: str | Path, *, text: bool = False) -> list[Path]:
    """The files that a source names. Raises UserError when there is none."""
    if str(source).startswith("hub:"):
        return _hub_files(str(source))
    path = Path(source)
    endings = (*SUFFIXES, *TEXT_SUFFIXES) if text else SUFFIXES
    if not os.path.isdir(path):
        if path.name.endswith(TEXT_SUFFIXES) and not text:
            raise UserError(f"{path} is a text file; give one of {', '.join(SUFFIXES)}")
        return [path]
    # What lies under a dot is somebody's own: .git, .cache, editors' copies.
    inside = [file for file in sorted(path.rglob("*")) if file.name.endswith(endings) and file.is_file()]
    inside = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
    if not inside:
        raise UserError(f"{path} is a folder without a {', '.join(endings)} file; name a file or another folder")
    return inside


def _rows_of_files(paths: list[Path], text: str) -> Iterator[Row]:
    for path in paths:
        if path.name.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif text and path.name.endswith(TEXT_SUFFIXES):
            yield from _text_rows(path, text)
        else:
            yield from _json_rows(path)


# --- text and JSON ---------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Stream]:
    """The bytes of a file, unpacked where it ends in .gz. Raises UserError where they cannot be read to the end."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: a name with a null byte
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); give an existing, whole file "
            f"of {', '.join(SUFFIXES)}"
        ) from None


def _text_rows(path: Path, name: str) -> Iterator[Row]:
    with _opened(path) as stream:
        for place, line in _lines(path, stream.readline(LONGEST_ROW).removeprefix(BOM), stream):
            yield place, {name: line.strip()}


def _json_rows(path: Path) -> Iterator[Row]:
    with _opened(path) as stream:
        start = stream.readline(CHUNK).removeprefix(BOM)
        blank = 0
        while start.isspace():
            start, blank = stream.readline(CHUNK), blank + 1
        if start.lstrip().startswith(b"["):
            yield from _list_rows(path, _Text(path, start, stream, blank + 1))
        elif path.name.removesuffix(".gz").endswith(".json"):
            yield from _object_rows(path, _Text(path, start, stream, blank + 1))
        else:
            remedy = "put one object on each line, or a list of objects in the file"
            for place, line in _lines(path, start, stream, blank + 1):
                yield place, _object(parse_json(line, place, remedy), place)


def _lines(path: Path, start: bytes, stream: Stream, number: int = 1) -> Iterator[tuple[str, str]]:
    """(place, line) of every line that is not blank; `start` is what was already read of line `number`.

    Only \\n ends a line: a text may hold U+2028, where str.splitlines would cut it.
    """
    line = start if start.endswith(b"\n") else start + stream.readline(LONGEST_ROW)
    while line:
        place = f"{path}:{number}"
        if len(line) >= LONGEST_ROW:
            raise UserError(f"{place} is longer than {LONGEST_ROW:,} bytes; put one row on each line")
        if not line.isspace():
            yield place, _decoded(line, place)
        line, number = stream.readline(LONGEST_ROW), number + 1


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text (byte {error.start} of the line); convert the file") from None


def _list_rows(path: Path, text: _Text) -> Iterator[Row]:
    """The elements of one JSON list, each decoded as soon as it is read."""
    text.peek()
    text.skip()  # the bracket
    for number in itertools.count(1):
        place = f"{path}, row {number}"
        if number == 1 and text.peek() == "]":
            text.skip()
            break
        yield place, _object(text.value(place), place)
        mark = text.peek()
        text.skip()
        if mark == "]":
            break
        if mark != ",":
            raise UserError(f"{place} is not valid JSON (neither a comma nor the list's bracket follows); correct it")
    if text.peek():
        raise UserError(f"{path} is not valid JSON (text after the list's closing bracket); remove it")


def _object_rows(path: Path, text: _Text) -> Iterator[Row]:
    """Objects one after the other, each on a line or spread over several."""
    while text.peek():
        place = f"{path}:{text.line}"
        yield place, _object(text.value(place), place)


class _Text:
    """The characters of a stream of JSON values, read on as far as a value needs. `line` is where it stands."""

    def __init__(self, path: Path, start: bytes, stream: Stream, line: int):
        self.path, self.stream, self.line = path, stream, line
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at = self._decoded(start), 0

    def _decoded(self, new: bytes) -> str:
        try:
            return self.decoder.decode(new, final=not new)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} is not UTF-8 text ({error.reason}); convert it") from None

    def _more(self, size: int) -> bool:
        """Read on; False at the end of the file."""
        new = self.stream.read(size)
        self.text, self.at = self.text[self.at :] + self._decoded(new), 0
        return bool(new)

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self.at < len(self.text):
                letter = self.text[self.at]
                if letter not in " \t\r\n":
                    return letter
                self.line += letter == "\n"
                self.at += 1
            if not self._more(CHUNK):
                return ""

    def skip(self) -> None:
        """Step over the character that peek() gave."""
        self.at += 1

    def value(self, place: str) -> Any:
        """The JSON value that starts here."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                check_value(self.text[self.at : end], value)
                self.line += self.text.count("\n", self.at, end)
                self.at = end
                return value
            except RecursionError:
                raise UserError(f"{place} is nested too deeply to be read; correct it") from None
            except json.JSONDecodeError as error:
                line = self.line + self.text.count("\n", self.at, error.pos)
                reason = f"{error.msg}, line {line} of the file"
            except ValueError as error:
                raise UserError(f"{place} is not valid JSON ({error}); correct it") from None
            # The value may only be cut off. Twice as much each time, so that a long one is not read over and over.
            if len(self.text) - self.at > LONGEST_ROW or not self._more(size):
                raise UserError(f"{place} is not valid JSON ({reason}); correct it")
            size *= 2


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place} holds a {type(row).__name__}; every row must be a JSON object")
    return row


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run: pip install 'mlxrlhf[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    # A damaged file shows itself as any of these, a UnicodeDecodeError among the ValueErrors.
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as Parquet after row {number} ({reason}); give a whole file") from None


# --- the hub ---------------------------------------------------------------------------------------------------------


def _hub_files(source: str) -> list[Path]:
    """Local copies of a data set's files.

    Those that match the pattern; those of the split, where a plain word is given; without either those whose path has
    "train" in it, or all there are.
    """
    name, _, asked = source.removeprefix("hub:").partition(":")
    pattern = f"*{asked}*" if asked.replace("_", "").replace("-", "").isalnum() else asked
    # Test splits are not even downloaded, unless there is nothing else or they are asked for.
    tries = [[pattern]] if pattern else [[f"*train*{suffix}" for suffix in SUFFIXES], [f"*{s}" for s in SUFFIXES]]
    for wanted in tries:
        try:
            folder = hub.snapshot(name, wanted, kind="dataset")
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{source} could not be fetched from the hub ({reason}); check its name and the network, "
                "or download a file of it and name that"
            ) from None
        # The cache may hold more than was asked for now.
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [n for n in names if n.endswith(SUFFIXES) and any(fnmatch(n, one) for one in wanted)]
        if names:
            return [folder / n for n in names]
    raise UserError(f"{source} has no {', '.join(SUFFIXES)} file{f' that matches {asked}' if asked else ''}")
