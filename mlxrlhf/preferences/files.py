"""Preference data in the forms people publish it in, as pairs: local files, or data sets of the Hugging Face hub.

    {prompt, chosen, rejected}         text, or lists of messages (TRL's explicit form, UltraFeedback binarized)
    {chosen, rejected}                 whole conversations with a common start (TRL's implicit form): messages, text, or
                                       transcripts of "\\n\\nHuman: ... \\n\\nAssistant: ..." (Anthropic HH)
    {instruction, completions}         UltraFeedback: the completion of the highest overall_score against the lowest
    {context, response1, response2, overall_preference}     HelpSteer3: negative means that the first is better

Files: .jsonl, .json (a list, or an object a line), both also with .gz, and .parquet. A malformed row is an error named
by file and line. Rows that say nothing about a preference (ties, equal answers) are left out and counted.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from mlxrlhf.data.dialogue import ROLES
from mlxrlhf.errors import UserError
from mlxrlhf.preferences.pairs import Pair

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_FORMS = (
    "{prompt, chosen, rejected}, {chosen, rejected}, UltraFeedback's {instruction, completions} or HelpSteer3's "
    "{context, response1, response2, overall_preference}"
)


@dataclass
class Report:
    """What was read: rows by form, and rows left out by reason with the first place of each."""

    forms: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, place: str) -> None:
        self.left_out[reason] += 1
        self.first.setdefault(reason, place)

    def __str__(self) -> str:
        text = ", ".join(f"{count:,} {form}" for form, count in self.forms.items())
        reasons = [f"{count:,} {reason} (the first: {self.first[reason]})" for reason, count in self.left_out.items()]
        return text + (f"; left out: {'; '.join(reasons)}" if reasons else "")


def load_pairs(source: str | Path, say: Callable[[str], None] = print) -> list[Pair]:
    """Every pair of a file, or of hub:NAME[:PATTERN]. Says what was read and left out.

    Raises UserError for what cannot be read, for a malformed row, and when nothing is left.
    """
    report = Report()
    pairs = []
    for place, row in rows(source):
        pair = _pair(row, place, report)
        if pair is not None:
            pairs.append(pair)
    say(f"{source}: {report}")
    if not pairs:
        raise UserError(f"{source} holds no preference pair; give rows of {_FORMS}")
    return pairs


# --- files -----------------------------------------------------------------------------------------------------------


def rows(source: str | Path) -> Iterator[tuple[str, dict]]:
    """(place, row) of a file, or of the files of a hub data set; place is "file:line" or "file, row N"."""
    if str(source).startswith("hub:"):
        for path in _hub_files(str(source)):
            yield from _file_rows(path)
        return
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one of its {', '.join(SUFFIXES)} files")
    yield from _file_rows(path)


def _file_rows(path: Path) -> Iterator[tuple[str, dict]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from None
    except (OSError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); give an existing file "
            f"of {', '.join(SUFFIXES)}"
        ) from None
    if text.lstrip().startswith("["):
        try:
            found = [(f"{path}, row {i}", row) for i, row in enumerate(json.loads(text), start=1)]
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error})") from None
    else:
        found = []
        # Not splitlines: JSON may hold U+2028 as it is.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    found.append((f"{path}:{number}", json.loads(line)))
                except ValueError as error:
                    raise UserError(
                        f"{path}:{number} is not valid JSON ({error}); put one object on each line, or a "
                        "list of objects in the file"
                    ) from None
    if not found:
        raise UserError(f"{path} is empty; put one JSON object on each line")
    for place, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{place} holds a {type(row).__name__}; every row must be a JSON object")
        yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run: pip install 'mlxrlhf[parquet]'") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _hub_files(source: str) -> list[Path]:
    """Local copies of a data set's files: those that match PATTERN, or whose path has "train" in it, or all."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, pattern = source.removeprefix("hub:").partition(":")
    # Test splits are not even downloaded, unless there is nothing else or they are asked for.
    tries = [[pattern]] if pattern else [[f"*train*{suffix}" for suffix in SUFFIXES], [f"*{s}" for s in SUFFIXES]]
    for wanted in tries:
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{source} could not be fetched from the hub ({reason}); check its name and the network, "
                "or download a file of it and name that"
            ) from None
        # The cache may hold more than was asked for now.
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [n for n in names if n.endswith(SUFFIXES) and any(fnmatch(n, one) for one in wanted)]
        if names:
            return [folder / n for n in names]
    raise UserError(f"{source} has no {', '.join(SUFFIXES)} file{f' that matches {pattern}' if pattern else ''}")


# --- rows ------------------------------------------------------------------------------------------------------------


def _pair(row: dict, place: str, report: Report) -> Pair | None:
    """One row of any form, or None where it says nothing about a preference."""
    if "completions" in row:
        form, pair = "UltraFeedback rows", _ultrafeedback(row, place, report)
    elif "overall_preference" in row or "response1" in row:
        form, pair = "HelpSteer3 rows", _helpsteer(row, place, report)
    elif "chosen" in row or "rejected" in row:
        form, pair = _explicit_or_implicit(row, place, report)
    else:
        raise UserError(
            f"{place} has the keys {', '.join(row) or '(none)'}; each row needs prompt, chosen and "
            f"rejected; the forms known are {_FORMS}"
        )
    report.forms[form] += 1
    if pair is not None and pair.chosen == pair.rejected:
        if form == "rows of text":
            raise UserError(f"{place}: chosen and rejected are the same; a pair must differ")
        report.leave_out("with two equal answers", place)
        return None
    return pair


def _explicit_or_implicit(row: dict, place: str, report: Report) -> tuple[str, Pair | None]:
    for name in ("chosen", "rejected"):
        if not row.get(name):
            raise UserError(f'{place} has no "{name}"; each row needs prompt, chosen and rejected')
    named = {k: str(row[k]) for k in ("criterion", "rationale", "task") if row.get(k)}
    weight = 1.0 if row.get("weight") is None else row["weight"]  # Parquet writes an absent one as null
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise UserError(f"{place}: weight is {weight!r}; it must be a number above 0")
    named["weight"] = float(weight)
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if type(chosen) is not type(rejected):
        raise UserError(f"{place}: chosen and rejected must both be text or both be lists of messages")
    if isinstance(chosen, str) and not prompt and _TURN.match(chosen) and _TURN.match(rejected):
        form = "transcripts (Human/Assistant)"
        sides = _transcript(chosen, place), _transcript(rejected, place)
    elif isinstance(chosen, str) and not prompt:
        form, common = "conversations with a common start", _common_text(chosen, rejected)
        if not common.strip():
            raise UserError(
                f"{place}: prompt must be text or messages; without one, chosen and rejected must start "
                "with the same words"
            )
        return form, Pair(common.strip(), chosen[len(common) :], rejected[len(common) :], **named)
    elif isinstance(chosen, str):
        return "rows of text", Pair(_prompt(prompt, place), chosen, rejected, **named)
    else:
        form = "rows of messages" if prompt else "conversations with a common start"
        sides = _messages(chosen, f"{place}: chosen"), _messages(rejected, f"{place}: rejected")
    if row.get("score_chosen") is not None and row["score_chosen"] == row.get("score_rejected"):
        report.leave_out("scored alike", place)
        return form, None
    if prompt:
        start = (
            _messages(prompt, f"{place}: prompt")
            if isinstance(prompt, list)
            else [{"role": "user", "content": _prompt(prompt, place)}]
        )
        # UltraFeedback's answers repeat the prompt; TRL's are the assistant's turn alone.
        sides = tuple(side[len(start) :] if side[: len(start)] == start else side for side in sides)
    else:
        shared = 0
        while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
            shared += 1
        start, sides = sides[0][:shared], tuple(side[shared:] for side in sides)
        if not start:
            raise UserError(f"{place}: chosen and rejected do not start with the same turn; give the prompt apart")
    if any(len(side) != 1 for side in sides):
        report.leave_out("that part before the last turn", place)
        return form, None
    for name, side in zip(("chosen", "rejected"), sides):
        if side[0]["role"] != "assistant":
            raise UserError(f"{place}: the last turn of {name} is the {side[0]['role']}'s; it must be the assistant's")
        if not side[0]["content"].strip():
            report.leave_out("with an empty answer", place)
            return form, None
    return form, Pair(_simplest(start), sides[0][0]["content"], sides[1][0]["content"], **named)


def _ultrafeedback(row: dict, place: str, report: Report) -> Pair | None:
    completions = row["completions"]
    if not isinstance(row.get("instruction"), str) or not isinstance(completions, list):
        raise UserError(f'{place}: an UltraFeedback row needs the text "instruction" and the list "completions"')
    scored = []
    for i, completion in enumerate(completions, start=1):
        if not isinstance(completion, dict) or not isinstance(completion.get("response"), str):
            raise UserError(f'{place}: completion {i} has no text "response"')
        if isinstance(completion.get("overall_score"), (int, float)) and completion["response"].strip():
            scored.append((float(completion["overall_score"]), completion["response"]))
    if len(scored) < 2:
        report.leave_out("with fewer than two scored completions", place)
        return None
    best, worst = max(scored, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if best[0] == worst[0]:
        report.leave_out("scored alike", place)
        return None
    return Pair(row["instruction"], best[1], worst[1], rationale=f"scored {best[0]:g} against {worst[0]:g}")


def _helpsteer(row: dict, place: str, report: Report) -> Pair | None:
    for name in ("response1", "response2"):
        if not isinstance(row.get(name), str):
            raise UserError(f'{place}: a HelpSteer3 row needs the text "{name}"')
    preference = row.get("overall_preference")
    if not isinstance(preference, (int, float)):
        raise UserError(f'{place}: "overall_preference" must be a number from -3 (the first is much better) to 3')
    context = row.get("context")
    start = _messages(context, f"{place}: context") if isinstance(context, list) else _prompt(context, place)
    if preference == 0:
        report.leave_out("tied", place)
        return None
    answers = (row["response1"], row["response2"]) if preference < 0 else (row["response2"], row["response1"])
    if not all(answer.strip() for answer in answers):
        report.leave_out("with an empty answer", place)
        return None
    return Pair(
        _simplest(start) if isinstance(start, list) else start,
        *answers,
        rationale=f"preferred by {abs(preference):g} of 3",
    )


def _prompt(value, place: str) -> str | list[dict]:
    """A prompt as text or messages; a transcript's is read as its turns."""
    if isinstance(value, list):
        return _simplest(_messages(value, f"{place}: prompt"))
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: prompt must be text or messages, and not be empty")
    if _TURN.match(value):
        turns = _transcript(value, place)
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns = turns[:-1]
        return _simplest(turns)
    return value


def _messages(value, place: str) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place} must be text or a list of messages, each with role and content")
    for i, message in enumerate(value, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise UserError(f"{place}: message {i} has role {role!r}; use one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise UserError(f"{place}: the content of message {i} must be text")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _transcript(text: str, place: str) -> list[dict]:
    """The turns of "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    parts = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[name], "content": said.strip()} for name, said in zip(parts[1::2], parts[2::2])]
    if turns[0]["role"] != "user":
        raise UserError(f'{place}: a transcript must start with "\\n\\nHuman:"')
    return turns


def _common_text(first: str, second: str) -> str:
    """The longest common start that ends where a word does."""
    length = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    return first[: max(first.rfind(" ", 0, length), first.rfind("\n", 0, length)) + 1]


def _simplest(messages: list[dict]) -> str | list[dict]:
    """One user's turn as its text; anything longer stays messages."""
    return messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else messages
