"""Votes as training data: TRL's explicit preferences, rows like HelpSteer3's, or a table of single votes."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.annotate.agreement import counted, rank
from mlxrlhf.annotate.store import Store, Vote
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_text


def write(store: Store, path: Path, format: str, say: Callable[[str], None]) -> None:
    """Write the votes; says how many rows there are and which items have none."""
    items, votes = store.items(), store.votes()
    if not counted(votes):
        raise UserError(f"{store.path} has no votes yet; collect some with mlxrlhf annotate")
    rows = {"trl": trl, "helpsteer3": helpsteer3, "csv": table}[format](items, votes)
    text = _csv(rows) if format == "csv" else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another file") from None
    say(f"wrote {path}: {len(rows):,} {'votes' if format == 'csv' else 'pairs'}")
    if format == "trl":
        undecided = len({v.item for v in counted(votes)}) - len(rows)
        say(f"{undecided:,} judged items have no preferred answer (ties, both bad, or evenly split) and are left out")


def _by_item(votes: Sequence[Vote]) -> dict[int, list[Vote]]:
    groups = defaultdict(list)
    for vote in counted(votes):
        groups[vote.item].append(vote)
    return groups


def trl(items: Mapping, votes: Sequence[Vote]) -> list[dict]:
    """One {prompt, chosen, rejected} row per item with a preferred answer, its weight and what was said of it.

    The preferred answer is the one with the larger sum of strengths (1 to 3). The weight is the share of votes that
    agree, each counted by its strength: S_chosen / (S_chosen + S_rejected + ties + both bad), in (0, 1].

    Two people say "a is clearly better" (2) and one "b is slightly better" (1): a is chosen with weight 4/5.
    """
    rows = []
    for item, group in _by_item(votes).items():
        sums = {side: sum(v.strength for v in group if v.choice == side) for side in ("a", "b")}
        if sums["a"] == sums["b"]:
            continue
        chosen, rejected = ("a", "b") if sums["a"] > sums["b"] else ("b", "a")
        said = Counter(v.choice for v in group)
        agreeing = [v for v in group if v.choice == chosen]
        reasons = Counter(reason for v in agreeing for reason in v.reasons)
        row = items[item]
        prompt = json.loads(row["prompt"])
        sides: list[Any] = [row[chosen], row[rejected]]
        if isinstance(prompt, list):  # TRL's conversational form
            sides = [[{"role": "assistant", "content": text}] for text in sides]
        rows.append(
            {
                "prompt": prompt,
                "chosen": sides[0],
                "rejected": sides[1],
                "weight": round(sums[chosen] / (sum(sums.values()) + said["tie"] + said["bad"]), 4),
                "votes": {
                    "chosen": said[chosen],
                    "rejected": said[rejected],
                    "tie": said["tie"],
                    "both_bad": said["bad"],
                },
                "strength": round(float(np.mean([v.strength for v in agreeing])), 2),
                "criterion": reasons.most_common(1)[0][0] if reasons else "preference",
                "rationale": "\n".join(v.rationale for v in agreeing if v.rationale),
                "task": row["task"],
            }
        )
    return rows


def helpsteer3(items: Mapping, votes: Sequence[Vote]) -> list[dict]:
    """Rows with the fields of HelpSteer3's preference subset: scores -3 (response 1 is much better) to 3.

    overall_preference is the rounded mean. Which answer comes first is drawn from the item's hash.
    """
    rows = []
    for item, group in _by_item(votes).items():
        row = items[item]
        prompt = json.loads(row["prompt"])
        flipped = int(row["key"], 16) % 2 == 1
        scores = [-rank(v) if flipped else rank(v) for v in group]
        code = bool(row["task"]) or "```" in row["a"] + row["b"]
        rows.append(
            {
                "domain": "code" if code else "general",
                "language": "python" if code else "english",
                "context": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
                "response1": row["b" if flipped else "a"],
                "response2": row["a" if flipped else "b"],
                "overall_preference": int(np.rint(np.mean(scores))),
                "individual_preference": [
                    {"score": score, "reasoning": v.rationale or ", ".join(v.reasons), "feedback1": "", "feedback2": ""}
                    for score, v in zip(scores, group)
                ],
            }
        )
    return rows


def table(items: Mapping, votes: Sequence[Vote]) -> list[dict]:
    """One row per vote, skips and repeats included."""
    rows = []
    for vote in votes:
        row = items[vote.item]
        rows.append(
            {
                "item": vote.item,
                "annotator": vote.annotator,
                "choice": vote.choice,
                "strength": vote.strength or "",
                "left": "b" if vote.swapped else "a",
                "repeat": int(vote.repeat),
                "saw_tests": int(vote.informed),
                "revised": int(vote.revised),
                "seconds": round(vote.seconds, 1),
                "reasons": " ".join(vote.reasons),
                "rationale": vote.rationale,
                "time": datetime.fromtimestamp(vote.created, UTC).isoformat(timespec="seconds"),
                "source": row["source"],
                "task": row["task"],
                "label_a": row["label_a"],
                "label_b": row["label_b"],
                "prompt": _text(json.loads(row["prompt"])),
                "a": row["a"],
                "b": row["b"],
                "passed_a": _flag(row["passed_a"]),
                "passed_b": _flag(row["passed_b"]),
            }
        )
    return rows


def _text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _flag(passed: int | None) -> str:
    return "" if passed is None else str(passed)


def _csv(rows: Sequence[Mapping]) -> str:
    """CSV whose text cannot become a spreadsheet's formula: an apostrophe goes before a leading = + - @ or tab."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                k: "'" + v if isinstance(v, str) and v.startswith(("=", "+", "-", "@", "\t", "\r")) else v
                for k, v in row.items()
            }
        )
    return out.getvalue()
