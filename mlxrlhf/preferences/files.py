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

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxrlhf.data import files
from mlxrlhf.data.calls import spelled
from mlxrlhf.data.rows import Messages, Report, messages_of, simplest, tools_of
from mlxrlhf.data.template import REASONING
from mlxrlhf.errors import UserError
from mlxrlhf.preferences.pairs import Pair
from mlxrlhf.settings import check_number, keys_of

_TURN = re.compile(r"\n\n(Human|Assistant):")
_FORMS = (
    "{prompt, chosen, rejected}, {chosen, rejected}, UltraFeedback's {instruction, completions} or HelpSteer3's "
    "{context, response1, response2, overall_preference}"
)


def load_pairs(source: str | Path, say: Callable[[str], None] = print) -> list[Pair]:
    """Every pair of a file, or of hub:NAME[:PATTERN]. Says what was read and left out.

    Raises UserError for what cannot be read, for a malformed row, and when nothing is left.
    """
    report = Report()
    pairs = []
    for place, row in files.rows(source):
        pair = _pair(row, place, report)
        if pair is not None:
            pairs.append(pair)
    say(f"{source}: {report}")
    if not pairs:
        raise UserError(f"{source} holds no preference pair that can be used ({report}); give rows of {_FORMS}")
    return pairs


# --- rows ------------------------------------------------------------------------------------------------------------


def _pair(row: dict[str, Any], place: str, report: Report) -> Pair | None:
    """One row of any form, or None where it says nothing about a preference."""
    if "completions" in row:
        form, pair = "UltraFeedback rows", _ultrafeedback(row, place, report)
    elif "overall_preference" in row or "response1" in row:
        form, pair = "HelpSteer3 rows", _helpsteer(row, place, report)
    elif "chosen" in row or "rejected" in row:
        form, pair = _explicit_or_implicit(row, place, report)
    else:
        raise UserError(
            f"{place} has the keys {keys_of(row)}; each row needs prompt, chosen and rejected; the forms known are "
            f"{_FORMS}"
        )
    report.forms[form] += 1
    if pair is None:
        return None
    if not (pair.chosen.strip() and pair.rejected.strip()):
        report.leave_out("with an empty answer", place)
        return None
    if pair.chosen == pair.rejected:
        report.leave_out("with two equal answers", place)
        return None
    return pair


def _explicit_or_implicit(row: dict[str, Any], place: str, report: Report) -> tuple[str, Pair | None]:
    for name in ("chosen", "rejected"):
        if row.get(name) is None or row[name] == []:
            raise UserError(f'{place} has no "{name}"; each row needs prompt, chosen and rejected')
    named = _remarks(row, place)
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt:
            return "rows of text", Pair(_prompt(prompt, place), chosen, rejected, **named)
        if not (_TURN.match(chosen) and _TURN.match(rejected)):
            return "conversations with a common start", _with_common_start(chosen, rejected, place, named)
        form = "transcripts (Human/Assistant)"
        sides = [_transcript(chosen, place), _transcript(rejected, place)]
    elif isinstance(chosen, list) and isinstance(rejected, list):
        form = "rows of messages" if prompt else "conversations with a common start"
        sides = [messages_of(chosen, f"{place}: chosen"), messages_of(rejected, f"{place}: rejected")]
    else:
        raise UserError(f"{place}: chosen and rejected must both be text or both be lists of messages")
    scores = [_score(row[name], f"{place}: {name}") for name in ("score_chosen", "score_rejected") if name in row]
    if len(scores) == 2 and scores[0] is not None and scores[0] == scores[1]:
        report.leave_out("scored alike", place)
        return form, None
    start, sides = _parted(prompt, sides, place)
    if any(len(side) != 1 for side in sides):
        report.leave_out("that part before the last turn", place)
        return form, None
    answers = [_answer(side[0], f"the last turn of {name}", place) for name, side in zip(("chosen", "rejected"), sides)]
    return form, Pair(simplest(start), answers[0], answers[1], **named)


def _remarks(row: dict[str, Any], place: str) -> dict[str, Any]:
    """What a row says about its pair: criterion, rationale, task, weight, tools and where it stands."""
    named: dict[str, Any] = {k: str(row[k]) for k in ("criterion", "rationale", "task") if row.get(k)}
    named |= {"tools": tuple(tools_of(row, place)), "place": place}
    if row.get("weight") is not None:  # Parquet writes an absent one as null
        named["weight"] = float(check_number(row["weight"], f"{place}: weight"))
        if named["weight"] <= 0:
            raise UserError(f"{place}: weight is {named['weight']:g}; it must be a number above 0")
    return named


def _with_common_start(chosen: str, rejected: str, place: str, named: dict[str, Any]) -> Pair:
    """A pair of texts without a prompt of their own: what both start with is the prompt."""
    common = _common_text(chosen, rejected)
    if not common.strip():
        raise UserError(
            f"{place}: prompt must be text or messages; without one, chosen and rejected must start with the same words"
        )
    return Pair(common.strip(), chosen[len(common) :], rejected[len(common) :], **named)


def _parted(prompt: Any, sides: list[Messages], place: str) -> tuple[Messages, list[Messages]]:
    """The turns before the answers, and what each side adds to them."""
    if prompt:
        asked = _prompt(prompt, place)
        start = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        # UltraFeedback's answers repeat the prompt; TRL's are the assistant's turn alone.
        return start, [side[len(start) :] if side[: len(start)] == start else side for side in sides]
    shared = 0
    while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
        shared += 1
    if not shared:
        raise UserError(f"{place}: chosen and rejected do not start with the same turn; give the prompt apart")
    return sides[0][:shared], [side[shared:] for side in sides]


def _answer(message: dict[str, Any], name: str, place: str) -> str:
    if message["role"] != "assistant":
        raise UserError(f"{place}: {name} is the {message['role']}'s; it must be the assistant's")
    reasoning = next((message[key] for key in REASONING if message.get(key)), "")
    thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    return thought + spelled(message["content"], message.get("tool_calls", ()))


def _score(value: Any, name: str) -> float | None:
    """A score that a row may lack."""
    if value is None:
        return None
    return float(check_number(value, name))


def _ultrafeedback(row: dict[str, Any], place: str, report: Report) -> Pair | None:
    completions = row["completions"]
    if not isinstance(row.get("instruction"), str) or not isinstance(completions, list):
        raise UserError(f'{place}: an UltraFeedback row needs the text "instruction" and the list "completions"')
    scored = []
    for i, completion in enumerate(completions, start=1):
        if not isinstance(completion, dict) or not isinstance(completion.get("response"), str):
            raise UserError(f'{place}: completion {i} has no text "response"')
        score = _score(completion.get("overall_score"), f"{place}: overall_score of completion {i}")
        if score is not None and completion["response"].strip():
            scored.append((score, completion["response"]))
    if len(scored) < 2:
        report.leave_out("with fewer than two scored completions", place)
        return None
    best, worst = max(scored, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if best[0] == worst[0]:
        report.leave_out("scored alike", place)
        return None
    prompt = _prompt(row["instruction"], place)
    return Pair(prompt, best[1], worst[1], rationale=f"scored {best[0]:g} against {worst[0]:g}", place=place)


def _helpsteer(row: dict[str, Any], place: str, report: Report) -> Pair | None:
    for name in ("response1", "response2"):
        if not isinstance(row.get(name), str):
            raise UserError(f'{place}: a HelpSteer3 row needs the text "{name}"')
    name = f"{place}: overall_preference"
    preference = check_number(row.get("overall_preference"), name)
    if not -3 <= preference <= 3:
        raise UserError(f"{name} is {preference:g}; it must be from -3 (the first is much better) to 3")
    start = _prompt(row.get("context"), place, "context")
    if preference == 0:
        report.leave_out("tied", place)
        return None
    answers = (row["response1"], row["response2"]) if preference < 0 else (row["response2"], row["response1"])
    return Pair(start, *answers, rationale=f"preferred by {abs(preference):g} of 3", place=place)


def _prompt(value: Any, place: str, name: str = "prompt") -> str | Messages:
    """A prompt as text or messages; a transcript's is read as its turns."""
    if isinstance(value, list):
        return simplest(messages_of(value, f"{place}: {name}"))
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {name} must be text or messages, and not be empty")
    if _TURN.match(value):
        turns = _transcript(value, place)
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns = turns[:-1]
        return simplest(turns)
    return value


def _transcript(text: str, place: str) -> Messages:
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
