"""One self-contained HTML page about a run: figures, curves as inline SVG, answers before and after."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from mlxrlhf.display import unturned
from mlxrlhf.files import atomic_text
from mlxrlhf.report.diagnosis import Finding
from mlxrlhf.report.runlog import read_metrics

#: metric, its title, and what a reader should see
CURVES = (
    ("loss", "Loss", "Nats per token (language stages), or the objective. It should fall, quickly at first."),
    (
        "val_loss",
        "Validation loss",
        "On documents and phrasings the model does not train on. Rising while the loss falls means memorising.",
    ),
    (
        "val_accuracy",
        "Held-out accuracy",
        "Share of held-out pairs whose preferred answer scores higher; 0.5 is chance.",
    ),
    (
        "objective/scores",
        "Reward",
        "Mean normalised score of sampled answers; 0 is the average of the "
        "base's own answers. It should rise and then level off.",
    ),
    (
        "objective/pass_rate",
        "Pass rate",
        "Share of sampled answers whose code passes its task's tests. A fall while "
        "the reward rises means that the reward is being gamed.",
    ),
    (
        "objective/kl",
        "KL from the reference",
        "Nats per answer by which the policy has moved. It should stay near its target, not run away.",
    ),
    (
        "objective/entropy",
        "Entropy",
        "Nats per token of the policy's distribution. A slow fall is normal; zero is a collapse.",
    ),
    ("policy/clipfrac_avg", "Clip fraction", "Share of tokens whose ratio met the clip. 0.02 to 0.25 is healthy."),
    (
        "value/explained_variance",
        "Explained variance",
        "How much of the returns the value head predicts; it should climb above 0.",
    ),
    ("response/length", "Answer length", "Tokens per answer. A steady climb can mean that length is being paid for."),
    ("response/truncated", "Truncated", "Share of answers without an end."),
    (
        "rewards/margins",
        "Margin",
        "Implicit reward of chosen over rejected answers, of the pairs trained on. It should rise.",
    ),
    (
        "rewards/accuracies",
        "Accuracy",
        "Share of the pairs trained on whose chosen answer has the higher implicit reward.",
    ),
    (
        "rewards/chosen",
        "Chosen",
        "Implicit reward of the chosen answers. Far below 0 means that they became less likely too.",
    ),
)
_STYLE = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--soft:#6b7280;--line:#d8dce2;--a:#2563eb;--card:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--bg:#14171a;--soft:#9aa3ad;--line:#333a42;--a:#7aa2ff;
--card:#1d2126}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:70rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.7rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}p.note{color:var(--soft);margin:.2rem 0}
table{border-collapse:collapse}td,th{padding:.25rem .9rem;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child{text-align:left}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1.2rem}
.grid>div{background:var(--card);padding:.8rem;border-radius:8px;min-width:0}
pre{background:var(--card);padding:.7rem;border-radius:8px;overflow-x:auto;font-size:.82rem;white-space:pre-wrap}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}@media(max-width:40rem){.pair{grid-template-columns:1fr}}
li.warning{font-weight:600}.pair>div{min-width:0}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
"""


def chart(points: Sequence[tuple[float, float]], title: str) -> str:
    """A line chart (320 x 180) as SVG; the plot area spans x 54 to 310 and y 12 to 150."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    if high == low:
        low, high = low - 0.5, high + 0.5
    span = max(xs) - min(xs) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return 54 + 256 * (x - min(xs)) / span, 150 - 138 * (y - low) / (high - low)

    grid = ""
    for value in (low, (low + high) / 2, high):
        y = place(min(xs), value)[1]
        grid += (
            f'<line x1="54" x2="310" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="50" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points))
    mark = "<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='var(--a)'/>".format(*place(*points[-1]))
    return (
        f'<svg viewBox="0 0 320 180" role="img" aria-label="{html.escape(title, quote=True)}">{grid}'
        f'<polyline points="{line}" fill="none" stroke="var(--a)" stroke-width="1.8"/>{mark}'
        f'<text x="54" y="168">{min(xs):g}</text><text x="310" y="168" text-anchor="end">step {max(xs):g}</text>'
        "</svg>"
    )


def stage_section(title: str, folder: Path, following: str = "") -> str:
    """The verdict and the curves of one run folder; following: HTML that stands between them."""
    rows, cards = read_metrics(folder / "metrics.jsonl"), ""
    parts = sorted({key for row in rows for key in row if key.startswith("objective/reward/")})
    curves = [
        *CURVES,
        *(
            (key, f"Reward: {key.removeprefix('objective/reward/')}", "This part of the reward, before its weight.")
            for key in parts
        ),
    ]
    for key, name, note in curves:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            cards += (
                f"<div><b>{html.escape(name)}</b>{chart(points, name)}<p class='note'>{html.escape(note)}</p></div>"
            )
    return f"<h2>{html.escape(title)}</h2>{_verdict(folder)}{following}<div class='grid'>{cards}</div>"


def _verdict(folder: Path) -> str:
    """The findings that a run left in its summary.json, where it left any."""
    path = folder / "summary.json"
    findings = json.loads(path.read_text(encoding="utf-8")).get("verdict", []) if path.is_file() else []
    lines = "".join(f"<li class='{html.escape(f['severity'])}'>{html.escape(str(Finding(**f)))}</li>" for f in findings)
    return f"<ul>{lines}</ul>" if lines else ""


def run_report(folder: Path, title: str) -> Path:
    """Write FOLDER/report.html: one run's verdict, the next command, and its curves. FOLDER is OUT/run."""
    talk = f"mlxrlhf chat --model {folder.parent}"
    following = f"<p>Next: <code>{html.escape(talk)}</code></p>"
    return page(folder / "report.html", f"mlxrlhf {title}", stage_section(title, folder, following))


#: measures that are shares of the answers
SHARES = (
    "win_rate",
    "verified_win_rate",
    "parses",
    "passes_tests",
    "docstring",
    "type_hints",
    "no_insecure_pattern",
    "humaneval_pass@1",
    "humaneval_unseen",
    "humaneval_cut_off",
)


#: how a table of figures is headed
HEADINGS = ("", "before", "after", "change")


def figures_rows(figures: dict) -> list[tuple[str, str, str, str]]:
    """(measure, before, after, change) of `evaluate` as a person reads them: shares in percent, changes with their 95%
    interval and, where it leaves out zero, a star."""
    rows = []
    for key, value in figures["before"].items():
        form = "{:.0%}" if key in SHARES else "{:.0f}" if key == "answers" else "{:.2f}"
        after = figures["after"].get(key)
        change = _change(key, figures.get("changes", {}).get(key))
        rows.append((key.replace("_", " "), form.format(value), "" if after is None else form.format(after), change))
    return rows


def _change(key: str, change: dict | None) -> str:
    """+19 ± 8 * in points of a percentage for a share, otherwise in the measure's own unit."""
    if not change or not math.isfinite(change["interval"]):
        return ""
    scale, digits = (100, 0) if key in SHARES else (1, 2)
    beyond = " *" if abs(change["difference"]) > change["interval"] else ""
    return f"{scale * change['difference']:+.{digits}f} ± {scale * change['interval']:.{digits}f}{beyond}"


def figures_table(figures: dict) -> str:
    """The same as HTML."""
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in figures_rows(figures)
    )
    note = "<p class='note'>Change: the difference and its 95% interval, paired over the prompts; * beyond noise.</p>"
    return f"<table><tr>{head}</tr>{lines}</table>{note}"


def verdict_rows(figures: dict) -> list[str]:
    """What the comparison says in words, the most important first; each within or beyond its noise."""
    lines = []
    for key, name in (
        ("passes_tests", "tests passed"),
        ("verified_win_rate", "wins by what is run and parsed"),
        ("parses", "answers that parse"),
        ("docstring", "answers with docstrings"),
    ):
        change = figures.get("changes", {}).get(key)
        if change and key in figures["after"] and math.isfinite(change["interval"]):
            beyond = "beyond noise" if abs(change["difference"]) > change["interval"] else "within noise"
            lines.append(f"{name} {figures['before'][key]:.0%} to {figures['after'][key]:.0%}: {beyond}")
    return lines


def _shown(text: str) -> str:
    """A model's or a file's words as HTML, in the order in which they stand."""
    return html.escape(unturned(text))


def samples_section(title: str, samples: Sequence[dict]) -> str:
    """Answers side by side."""
    parts = ""
    for s in samples:
        parts += (
            f"<h3>{_shown(str(s['prompt']))}</h3><p class='note'>{html.escape(s['group'])}; before: "
            f"{_judged(s, 'before')}; after: {_judged(s, 'after')}</p><div class='pair'>"
            f"<div><pre>{_shown(s['before'])}</pre></div><div><pre>{_shown(s['after'])}</pre></div>"
            "</div>"
        )
    return f"<h2>{html.escape(title)}</h2>{parts}"


def _judged(sample: dict, side: str) -> str:
    """What was measured on one answer: whether it passes its tests comes first, so that no score hides it."""
    passed, score = sample.get(f"passed_{side}"), sample[f"score_{side}"]
    parts = [] if passed is None else ["passes its tests" if passed == 1 else "fails its tests"]
    return ", ".join([*parts, *([] if score is None else [f"score {score:.2f}"])]) or "not judged"


def calibration_chart(bins: Sequence[dict]) -> str:
    """Predicted against observed share (320 x 320) as SVG, a dot per bin, its area by count."""

    def place(x: float, y: float) -> tuple[float, float]:
        return 44 + 260 * x, 270 - 260 * y

    most, marks = max(b["count"] for b in bins), ""
    for value in (0, 0.5, 1):
        (_, y), (x, _) = place(0, value), place(value, 0)
        marks += (
            f'<line x1="44" x2="304" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="40" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            f'<text x="{x:.1f}" y="286" text-anchor="middle">{value:g}</text>'
        )
    for b in bins:
        x, y = place(b["predicted"], b["observed"])
        marks += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 6 * (b["count"] / most) ** 0.5:.1f}" fill="var(--a)" '
            f'fill-opacity="0.7"><title>{b["count"]} predictions: {b["predicted"]:.2f} predicted, '
            f"{b['observed']:.2f} observed</title></circle>"
        )
    return (
        '<svg viewBox="0 0 320 312" role="img" aria-label="Calibration of the reward model">'
        f'<line x1="44" y1="270" x2="304" y2="10" stroke="var(--soft)" stroke-dasharray="4 4"/>{marks}'
        '<text x="174" y="304" text-anchor="middle">predicted probability of being preferred</text>'
        '<text x="12" y="140" text-anchor="middle" transform="rotate(-90 12 140)">observed share</text></svg>'
    )


def reward_section(figures: dict) -> str:
    """What the reward model's accuracy is worth."""
    rows = [
        ("held-out accuracy", "val_accuracy", "{:.0%}"),
        ("always the longer answer", "length_baseline", "{:.0%}"),
        ("counting tokens", "token_baseline", "{:.0%}"),
        ("accuracy on the base's own answers", "val_accuracy_own_samples", "{:.0%}"),
        ("counting tokens there", "token_baseline_own_samples", "{:.0%}"),
        ("calibration error", "calibration_error", "{:.3f}"),
        ("correlation of score and length", "score_length_correlation", "{:.2f}"),
    ]
    lines = "".join(
        f"<tr><td>{name}</td><td>{form.format(figures[key])}</td></tr>" for name, key, form in rows if key in figures
    )
    counting = figures.get("token_baseline_by_criterion", {})
    lines += "".join(
        f"<tr><td>accuracy: {html.escape(name)}</td><td>{value:.0%}"
        + (f" (counting tokens: {counting[name]:.0%})" if name in counting else "")
        + "</td></tr>"
        for name, value in figures["val_accuracy_by_criterion"].items()
    )
    warned = f"<p><b>{html.escape(figures['warning'])}</b></p>" if figures.get("warning") else ""
    return (
        f"<h2>The reward model on held-out pairs</h2>{warned}<div class='grid'><div><table>{lines}</table></div>"
        f"<div><b>Calibration</b>{calibration_chart(figures['calibration'])}<p class='note'>Dots on the diagonal: "
        "of the pairs given 80%, 80% are right. A margin loss leaves the scale of scores arbitrary; Bradley-Terry "
        "fits it.</p></div></div>"
    )


def page(path: Path, title: str, body: str) -> Path:
    """Write one self-contained page."""
    atomic_text(
        path,
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width'><title>{html.escape(title)}</title><style>{_STYLE}</style>{body}"
        "</html>\n",
    )
    return path


def reward_report(run: Path, figures: dict) -> Path:
    """Write RUN/report.html."""
    return page(
        run / "report.html",
        "mlxrlhf: reward model",
        "<h1>mlxrlhf: reward model</h1>" + reward_section(figures) + stage_section("Training", run),
    )


def _gain(sample: dict) -> tuple[float, float]:
    """By how much an answer got better: its tests first, then its score."""
    passed = (sample.get("passed_after") or 0) - (sample.get("passed_before") or 0)
    return passed, (sample["score_after"] or 0.0) - (sample["score_before"] or 0.0)


def demo_report(folder: Path, runs: Sequence[tuple[str, Path]], summary: dict, samples: Sequence[dict]) -> Path:
    """Write FOLDER/report.html: figures, samples, worst regressions, and the curves of every stage."""
    ranked = sorted(samples, key=_gain)
    worse = [s for s in ranked[:3] if _gain(s) < (0, 0.0)]
    # An answer that fails its tests is no gain, whatever its score.
    better = [s for s in ranked[::-1] if _gain(s) > (0, 0.0) and s.get("passed_after") != 0][:4]
    p, r = summary["ppo"], summary["reward"]
    said = "".join(f"<li>{html.escape(line)}</li>" for line in verdict_rows(summary["evaluate"]))
    body = (
        f"<h1>mlxrlhf: what alignment changed</h1><ul>{said}</ul><p>Next: <code>mlxrlhf chat</code>, where "
        f"<code>/compare shipped</code> shows both.</p><p>{summary['seconds'] / 60:.1f} minutes. "
        f"Reward model: {r['val_accuracy']:.0%} of held-out pairs right (always preferring the longer answer: "
        f"{r['length_baseline']:.0%}). PPO reward {p['reward_first10']:.2f} to {p['reward_last10']:.2f}, KL "
        f"{p['kl_last']:.1f} nats per answer.</p><h2>Before and after, on held-out prompts</h2>"
        + figures_table(summary["evaluate"])
        + (samples_section("Answers that changed", better) if better else "")
        + (samples_section("Where it got worse", worse) if worse else "")
        + reward_section(r)
        + "".join(stage_section(title, run) for title, run in runs)
    )
    return page(folder / "report.html", "mlxrlhf", body)
