"""How far people agree with one another and with themselves, beyond what chance would give."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np

from mlxrlhf.annotate.store import Vote

#: resamples of the bootstrap interval
RESAMPLES = 2_000
#: shared items below which no figure of agreement is shown: it says little, and on the page it tells how others voted
ENOUGH = 20


# --- the coefficients ----------------------------------------------------------------------------------------------


def coincidences(counts: np.ndarray) -> np.ndarray:
    """Each unit's share of Krippendorff's coincidence matrix, (U, V, V).

    counts (U, V): how many observers gave unit u the value v. A unit of m values holds m(m - 1) ordered pairs, weighed
    1/(m - 1), so that it adds m in all; a unit of one value pairs with nothing and adds 0.
    """
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return pairs / np.maximum(counts.sum(axis=1) - 1, 1)[:, None, None]


def alpha_of(coincidence: np.ndarray, ordinal: bool) -> np.ndarray:
    """Krippendorff's alpha of coincidence matrices (..., V, V) whose values are in rank order: 1 - D_o / D_e.

    D_o = sum_ck o_ck d2_ck and D_e = sum_ck n_c (n_k - [c = k]) d2_ck / (n - 1), with n_c = sum_k o_ck. The difference
    d2_ck is 1 between two values (nominal), or the square of how many values lie between them, each end counted half
    (ordinal). NaN where nothing can be compared; 1 where everyone always said the same.
    """
    n_c = coincidence.sum(axis=-1)
    n, values = n_c.sum(axis=-1), n_c.shape[-1]
    if ordinal:
        middle = np.cumsum(n_c, axis=-1) - n_c / 2
        difference = np.square(middle[..., :, None] - middle[..., None, :])
    else:
        difference = np.broadcast_to(1 - np.eye(values), coincidence.shape)
    observed = (coincidence * difference).sum(axis=(-2, -1))
    expected = (n_c[..., :, None] * n_c[..., None, :] * difference).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = 1 - observed * (n - 1) / expected
    return np.where(n > 0, np.where(expected > 0, alpha, 1.0), np.nan)


def krippendorff_alpha(counts: np.ndarray, *, ordinal: bool, seed: int = 0) -> tuple[float, float, float]:
    """Alpha and its 95% interval (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    counts (U, V): how many observers gave unit u the value v, values in rank order. The interval is the percentile
    bootstrap over units. NaN where no unit has two values.
    """
    share = coincidences(counts[counts.sum(axis=1) > 1].astype(float))
    units = len(share)
    alpha = float(alpha_of(share.sum(axis=0), ordinal))
    if units < 2:
        return alpha, float("nan"), float("nan")
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), RESAMPLES)
    resampled = alpha_of(np.tensordot(drawn.astype(float), share, axes=1), ordinal)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return alpha, float(low), float(high)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two people on the same units (Cohen 1960): (p_o - p_e) / (1 - p_e); NaN without units."""
    if not first:
        return float("nan")
    n, a, b = len(first), Counter(first), Counter(second)
    observed = sum(x == y for x, y in zip(first, second)) / n
    expected = sum(a[value] * b[value] for value in a) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def raw_agreement(counts: np.ndarray) -> float:
    """Share of pairs of votes on the same unit that are equal; counts (U, V). NaN without such a pair."""
    m = counts.sum(axis=1)
    pairs = (m * (m - 1)).sum()
    return float((counts * (counts - 1)).sum() / pairs) if pairs else float("nan")


# --- votes to coefficients -----------------------------------------------------------------------------------------

#: the nominal values
CHOICES = ("a", "b", "tie", "bad")
#: the ordinal values: from "a is much better" to "b is much better"; a tie and "both bad" prefer neither
RANKS = range(-3, 4)


def rank(vote: Vote) -> int:
    """-3 (a is much better) to 3 (b is much better), HelpSteer3's scale; 0 prefers neither."""
    return {"a": -1, "b": 1}.get(vote.choice, 0) * vote.strength


def counted(votes: Sequence[Vote]) -> list[Vote]:
    """First votes that say something: neither skipped nor hidden repeats."""
    return [v for v in votes if v.choice != "skip" and not v.repeat]


def table(votes: Sequence[Vote], *, ordinal: bool) -> np.ndarray:
    """Votes as counts (items, values)."""
    columns = {value: i for i, value in enumerate(RANKS if ordinal else CHOICES)}
    rows = {item: i for i, item in enumerate(dict.fromkeys(v.item for v in votes))}
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for vote in votes:
        counts[rows[vote.item], columns[rank(vote) if ordinal else vote.choice]] += 1
    return counts


def live(tallies: Sequence[tuple[int, str, int]]) -> dict:
    """What the page shows: nominal alpha (None below ENOUGH shared items) and on how many items it rests.

    tallies: (item, choice, votes), skips and repeats left out.
    """
    rows = {item: i for i, item in enumerate(dict.fromkeys(item for item, _, _ in tallies))}
    counts = np.zeros((len(rows), len(CHOICES)))
    for item, choice, votes in tallies:
        counts[rows[item], CHOICES.index(choice)] = votes
    shared = counts[counts.sum(axis=1) > 1]
    alpha = alpha_of(coincidences(shared).sum(axis=0), False)
    return {"alpha": float(alpha) if len(shared) >= ENOUGH else None, "items": len(shared), "enough": ENOUGH}


def figures(votes: Sequence[Vote], labels: Mapping[int, tuple[str, str]]) -> dict:
    """Everything `--stats` prints. labels: what each item's a and b are, by item."""
    said = counted(votes)
    nominal, ordinal = table(said, ordinal=False), table(said, ordinal=True)
    by_person: dict[str, dict[int, str]] = defaultdict(dict)
    for vote in said:
        by_person[vote.annotator][vote.item] = vote.choice
    kappas = []
    for one, other in combinations(sorted(by_person), 2):
        shared = sorted(by_person[one].keys() & by_person[other].keys())
        kappas.append(
            {
                "people": [one, other],
                "items": len(shared),
                "kappa": cohen_kappa([by_person[one][i] for i in shared], [by_person[other][i] for i in shared]),
            }
        )
    again = [(by_person[v.annotator].get(v.item), v.choice) for v in votes if v.repeat and v.choice != "skip"]
    again = [(first, second) for first, second in again if first]
    decided = [v for v in said if v.choice in ("a", "b")]
    won: dict[str, Counter] = defaultdict(Counter)
    for vote in decided:
        a, b = labels[vote.item]
        if a != b:
            won[f"{a} over {b}"][vote.choice == "a"] += 1
    seconds = [v.seconds for v in votes if v.choice != "skip"]
    return {
        "annotators": len(by_person),
        "votes": len(said),
        "items": len(nominal),
        "shared_items": int((nominal.sum(axis=1) > 1).sum()),
        "skipped": sum(v.choice == "skip" for v in votes),
        "after_tests_were_seen": sum(v.informed for v in said),
        "revised": sum(v.revised for v in said),
        "choices": {choice: sum(v.choice == choice for v in said) for choice in CHOICES},
        "raw_agreement": raw_agreement(nominal),
        "alpha_nominal": krippendorff_alpha(nominal, ordinal=False),
        "alpha_ordinal": krippendorff_alpha(ordinal, ordinal=True),
        "alpha_nominal_unrevised": krippendorff_alpha(
            table([v for v in said if not v.revised], ordinal=False), ordinal=False
        ),
        "cohen_kappa": kappas,
        "self_consistency": float(np.mean([x == y for x, y in again])) if again else float("nan"),
        "repeats": len(again),
        "left_share": float(np.mean([(v.choice == "b") == v.swapped for v in decided])) if decided else float("nan"),
        "preferred": {name: {"votes": sum(c.values()), "share": c[True] / sum(c.values())} for name, c in won.items()},
        "criteria": dict(Counter(reason for v in said for reason in v.reasons).most_common()),
        "seconds_median": float(np.median(seconds)) if seconds else float("nan"),
    }


def describe(f: Mapping) -> list[str]:
    """The figures as lines for the terminal."""

    def number(value: float) -> str:
        return "-" if value != value else f"{value:.3f}"

    def interval(values: Sequence[float]) -> str:
        alpha, low, high = values
        return number(alpha) + ("" if low != low else f"   95% interval {low:.3f} to {high:.3f}")

    def row(name: str, value: object) -> str:
        return f"{name:28} {value}"

    shared = f["shared_items"]
    few = "" if shared >= ENOUGH else f"-   {ENOUGH} shared items are needed, there are {shared}"
    lines = [
        row("people", f["annotators"]),
        row("votes", f"{f['votes']:,} on {f['items']:,} items; {shared:,} items have two or more"),
        row("skipped", f["skipped"]),
        row("voted after seeing tests", f["after_tests_were_seen"]),
        row("voted anew after undo", f["revised"]),
        row(
            "median seconds per item",
            "-" if f["seconds_median"] != f["seconds_median"] else f"{f['seconds_median']:.1f}",
        ),
        row("raw agreement", few or number(f["raw_agreement"])),
        row("Krippendorff's alpha nominal", few or interval(f["alpha_nominal"])),
        row("                     ordinal", few or interval(f["alpha_ordinal"])),
    ]
    if f["revised"] and not few:
        lines.append(row("  without votes after undo", interval(f["alpha_nominal_unrevised"]) + "   nominal"))
    for pair in f["cohen_kappa"]:
        value = number(pair["kappa"]) if pair["items"] >= ENOUGH else "-"
        lines.append(row("Cohen's kappa", f"{value}   {' and '.join(pair['people'])}, {pair['items']:,} items"))
    lines.append(row("self-consistency", f"{number(f['self_consistency'])}   {f['repeats']:,} hidden repeats"))
    lines.append(row("left side preferred", f"{number(f['left_share'])}   0.5 without a habit of sides"))
    lines += [
        row("preferred", f"{number(w['share'])}   {name}, {w['votes']:,} votes") for name, w in f["preferred"].items()
    ]
    lines.append(row("ties; both bad", f"{f['choices']['tie']:,}; {f['choices']['bad']:,}"))
    lines += [row("reason", f"{count:,} {name}") for name, count in f["criteria"].items()]
    return lines
