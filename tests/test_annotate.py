"""Preferences: published worked examples of agreement, who sees what, exports that train, the command line."""

import contextlib
import csv
import http.client
import json
import os
import random
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from helpers import mlxrlhf

from mlxrlhf import web
from mlxrlhf.annotate import agreement, export, items, run
from mlxrlhf.annotate import store as stores
from mlxrlhf.annotate.store import Conflict, Item, Store, Vote
from mlxrlhf.config import AnnotateConfig
from mlxrlhf.errors import UserError
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.tasks.task import load_tasks

# --- agreement -----------------------------------------------------------------------------------------------------

#: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C: 4 observers, 12 units, values 1 to 5
OBSERVERS = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")


def counts_of(observers, values):
    columns = zip(*(row.split() for row in observers))
    return np.array([[column.count(value) for value in values] for column in map(list, columns)])


def test_krippendorffs_own_example():
    counts = counts_of(OBSERVERS, "12345")
    nominal, ordinal = (agreement.krippendorff_alpha(counts, ordinal=o) for o in (False, True))
    assert round(nominal[0], 3) == 0.743 and round(ordinal[0], 3) == 0.815
    for alpha, low, high in (nominal, ordinal):
        assert 0 < low < alpha < high <= 1


def test_krippendorffs_binary_example():
    # Krippendorff (2011), example A: two observers, ten units, alpha 0.095.
    counts = counts_of(("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), "01")
    assert round(agreement.krippendorff_alpha(counts, ordinal=False)[0], 3) == 0.095


def naive_alpha(counts, ordinal):
    """From the definition, pair by pair."""
    units = [[v for v, n in enumerate(row) for _ in range(n)] for row in counts]
    units = [u for u in units if len(u) > 1]
    pooled = [v for u in units for v in u]
    n = Counter(pooled)

    def distance(c, k):
        low, high = min(c, k), max(c, k)
        return (sum(n[g] for g in range(low, high + 1)) - (n[c] + n[k]) / 2) ** 2 if ordinal else float(c != k)

    observed = sum(
        distance(u[i], u[j]) / (len(u) - 1) for u in units for i in range(len(u)) for j in range(len(u)) if i != j
    ) / len(pooled)
    expected = sum(distance(pooled[i], pooled[j]) for i in range(len(pooled)) for j in range(len(pooled)) if i != j)
    return 1 - observed / (expected / (len(pooled) * (len(pooled) - 1)))


@pytest.mark.parametrize("ordinal", [False, True])
def test_alpha_and_its_interval_against_the_definition(ordinal, monkeypatch):
    monkeypatch.setattr(agreement, "RESAMPLES", 60)
    counts = np.random.default_rng(1).integers(0, 3, (15, 4))
    alpha, low, high = agreement.krippendorff_alpha(counts, ordinal=ordinal, seed=5)
    assert alpha == pytest.approx(naive_alpha(counts, ordinal))
    used = counts[counts.sum(axis=1) > 1]
    drawn = np.random.default_rng(5).multinomial(len(used), np.full(len(used), 1 / len(used)), 60)
    resampled = [naive_alpha(np.repeat(used, times, axis=0), ordinal) for times in drawn]
    assert (low, high) == pytest.approx(tuple(np.percentile(resampled, (2.5, 97.5))))


def test_alpha_where_little_can_be_said():
    nothing = agreement.krippendorff_alpha(np.zeros((0, 4), int), ordinal=False)
    assert np.isnan(nothing[0]) and np.isnan(agreement.raw_agreement(np.array([[1, 0], [0, 1]])))
    assert agreement.krippendorff_alpha(np.array([[2, 0], [2, 0]]), ordinal=True)[0] == 1.0


@pytest.mark.parametrize(
    "table,kappa",
    [
        ([[20, 5], [10, 15]], 0.4),  # fifty grant proposals: p_o 0.7, p_e 0.5
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.676),  # Fleiss (1981), two diagnosticians: p_o 0.89, p_e 0.66
    ],
)
def test_cohens_kappa_of_textbooks(table, kappa):
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    assert round(agreement.cohen_kappa(*zip(*pairs)), 3) == kappa


def test_raw_agreement_by_hand():
    # Three votes a, a, b: one of three pairs agrees; two votes b, b: one of one.
    assert agreement.raw_agreement(np.array([[2, 1], [0, 2]])) == pytest.approx(2 / 4)


def vote(who, item, choice, strength=1, reasons=(), rationale="", swapped=False, repeat=False, informed=False):
    strength = strength if choice in ("a", "b") else 0
    return Vote(who, item, choice, strength, tuple(reasons), rationale, 2.0, swapped, repeat, informed, 0.0)


def test_figures_by_hand():
    votes = [
        vote("ann", 1, "a", 3, ["style"]),
        vote("bob", 1, "a", 1, ["style", "safety"]),
        vote("ann", 2, "b"),
        vote("bob", 2, "tie"),
        vote("ann", 3, "skip"),
        vote("ann", 1, "a", repeat=True, swapped=True),
        vote("ann", 2, "a", repeat=True, swapped=True),
    ]
    f = agreement.figures(votes, {i: ("chosen", "rejected") for i in (1, 2, 3)})
    assert (f["annotators"], f["votes"], f["items"], f["shared_items"], f["skipped"]) == (2, 4, 2, 2, 1)
    assert f["raw_agreement"] == 0.5 and f["self_consistency"] == 0.5 and f["repeats"] == 2
    assert f["criteria"] == {"style": 2, "safety": 1} and f["choices"] == {"a": 2, "b": 1, "tie": 1, "bad": 0}
    assert f["preferred"] == {"chosen over rejected": {"votes": 3, "share": 2 / 3}}
    assert f["left_share"] == 2 / 3  # unswapped, a stands left
    # ann said a, b and bob a, tie: p_o 1/2, p_e 1/2 * 1/2.
    assert f["cohen_kappa"] == [{"people": ["ann", "bob"], "items": 2, "kappa": pytest.approx(1 / 3)}]
    lines = agreement.describe(f)
    assert "Cohen's kappa                -   ann and bob, 2 items" in lines, "two items say nothing"
    assert "raw agreement                -   20 shared items are needed, there are 2" in lines
    assert "reason                       2 style" in lines
    assert agreement.live([]) == {"alpha": None, "items": 0, "enough": 20}


# --- the store -----------------------------------------------------------------------------------------------------


def some(count):
    return [Item(f"prompt {i}", f"a {i}", f"b {i}", "chosen", "rejected", "pairs.jsonl") for i in range(count)]


@pytest.fixture
def make(tmp_path):
    opened = []

    def open_store(count=0, **settings):
        opened.append(Store(tmp_path / "votes.db", **settings))
        opened[-1].add(some(count))
        return opened[-1]

    yield open_store
    for one in opened:
        one.close()


def answer(store, who, choice="left", strength=1):
    shown = store.current(who)
    store.vote(who, shown["assignment"], choice, strength, [], "", 1.0)
    return shown


def test_sides_are_shuffled_by_the_seed_and_recorded(make, tmp_path):
    store = make(60, overlap=2)
    for who in ("ann", "bob"):
        for _ in range(60):
            shown = store.current(who)
            assert {shown["left"][0], shown["right"][0]} == {"a", "b"}
            store.vote(who, shown["assignment"], "left" if shown["left"][0] == "a" else "right", 2, [], "", 1.0)
    votes = store.votes()
    assert all(v.choice == "a" for v in votes), "a vote is for the answer that stood there"
    sides = {who: {v.item: v.swapped for v in votes if v.annotator == who} for who in ("ann", "bob")}
    assert all(15 < sum(s.values()) < 45 for s in sides.values()) and sides["ann"] != sides["bob"]
    again = Store(tmp_path / "again.db", overlap=2)
    again.add(some(60))
    for _ in range(60):
        answer(again, "ann")
    assert {v.item: v.swapped for v in again.votes()} == sides["ann"]
    again.close()


def test_overlap_is_filled_least_annotated_first_and_never_exceeded(make, monkeypatch):
    monkeypatch.setattr(agreement, "ENOUGH", 6)
    store = make(6, overlap=2)
    for _ in range(3):
        answer(store, "ann")
    first = [v.item for v in store.votes()]
    for _ in range(3):
        answer(store, "bob")
    assert not set(first) & {v.item for v in store.votes()[3:]}, "items without a vote come first"
    people, rng = ["ann", "bob", "cy", "dee"], random.Random(0)
    while people:
        who = rng.choice(people)
        if store.current(who) is None:
            people.remove(who)
        else:
            answer(store, who)
    pairs = [(v.annotator, v.item) for v in store.votes()]
    # The figure on the page is that of --stats.
    figures = agreement.figures(store.votes(), {i: ("x", "y") for i in range(1, 7)})
    live = agreement.live(store.tallies())
    assert live["alpha"] == pytest.approx(figures["alpha_nominal"][0]) and live["items"] == figures["shared_items"] == 6
    assert len(set(pairs)) == len(pairs) == 12 and set(Counter(i for _, i in pairs).values()) == {2}
    assert store.progress("ann")["left"] == 0


def test_an_open_item_is_taken_for_a_while_only(make, monkeypatch):
    store = make(1, overlap=1)
    shown = store.current("ann")
    assert store.current("ann")["assignment"] == shown["assignment"], "a refresh and a second tab see the same item"
    assert store.current("bob") is None
    later = stores.time.time() + stores.LEASE_SECONDS + 1
    monkeypatch.setattr(stores.time, "time", lambda: later)
    assert store.current("bob")["prompt"] == shown["prompt"]
    answer(store, "ann")


def test_hidden_repeats_come_later_with_the_sides_exchanged(make):
    store = make(40, overlap=1, repeats=0.1)
    shown = []
    while store.current("ann") is not None:
        shown.append(answer(store, "ann"))
    assert len(shown) == 44 and all(set(s) == set(shown[0]) for s in shown), "nothing tells a repeat"
    votes = store.votes()
    first = {v.item: (i, v) for i, v in enumerate(votes) if not v.repeat}
    assert sum(v.repeat for v in votes) == 4
    for i, v in enumerate(votes):
        if v.repeat:
            assert i - first[v.item][0] > stores.REPEAT_GAP and v.swapped != first[v.item][1].swapped
    # Always pressing "left" is no consistency.
    assert agreement.figures(votes, {i: ("x", "y") for i in first})["self_consistency"] == 0


def test_undo_goes_back_step_by_step_and_keeps_what_was_open(make):
    store = make(5)
    one, two = answer(store, "ann", "right", 3), answer(store, "ann", "tie")
    waiting = store.current("ann")
    assert store.undo("ann")["prompt"] == two["prompt"]
    back = store.undo("ann")
    assert back["assignment"] == one["assignment"] and (back["left"], back["right"]) == (one["left"], one["right"])
    assert (back["draft"]["answer"], back["draft"]["strength"]) == ("right", 3)
    assert store.undo("ann") is None and store.votes() == []
    seen = [answer(store, "ann")["assignment"] for _ in range(3)]
    assert seen == [one["assignment"], two["assignment"], waiting["assignment"]]
    assert [r[0] for r in store._all("SELECT count(*) FROM votes WHERE undone IS NOT NULL")] == [2], "kept on record"


def test_after_undo_a_reload_shows_the_item_that_was_undone(make):
    store = make(5)
    answer(store, "ann")
    waiting = store.current("ann")
    store.undo("ann")
    store.vote("ann", waiting["assignment"], "left", 1, [], "", 1.0)  # from another tab that still shows it
    assert store.undo("ann")["assignment"] == waiting["assignment"] == store.current("ann")["assignment"]


def test_a_skipped_item_goes_to_someone_else(make):
    store = make(1, overlap=1)
    skipped = answer(store, "ann", "skip")
    assert store.current("ann") is None and store.current("bob")["prompt"] == skipped["prompt"]


def test_a_vote_twice_is_one_vote_and_another_one_is_refused(make):
    store = make(2)
    shown = store.current("ann")
    for _ in range(2):
        store.vote("ann", shown["assignment"], "left", 1, [], "", 1.0)
    with pytest.raises(Conflict, match="another tab"):
        store.vote("ann", shown["assignment"], "right", 1, [], "", 1.0)
    with pytest.raises(Conflict, match="not shown to you"):
        store.vote("bob", shown["assignment"], "left", 1, [], "", 1.0)
    assert len(store.votes()) == 1


def test_tests_are_seen_after_the_vote_and_that_is_remembered(make):
    store = make(2)
    shown = store.current("ann")
    with pytest.raises(Conflict, match="after the vote"):
        store.reveal("ann", shown["assignment"])
    answer(store, "ann")
    store.reveal("ann", shown["assignment"])
    assert not store.votes()[0].informed
    store.undo("ann")
    answer(store, "ann", "right")
    assert [v.informed for v in store.votes()] == [True]


def test_a_name_is_one_person_whatever_its_case(make):
    store = make(1, overlap=2)
    answer(store, "Ann")
    assert store.current("ann") is None


def test_votes_are_on_disk_at_once_and_the_file_is_in_wal_mode(make, tmp_path):
    store = make(1)
    answer(store, "ann")
    other = sqlite3.connect(tmp_path / "votes.db")  # as after a kill: the first connection is still open
    assert other.execute("SELECT count(*) FROM votes").fetchone() == (1,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_a_full_disk_is_said_and_passes(make):
    store = make(1)
    shown = store.current("ann")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="nothing was saved"):
        store.vote("ann", shown["assignment"], "left", 1, [], "x" * 8_000, 1.0)
    assert store.votes() == []
    store._db.execute(f"PRAGMA max_page_count = {pages + 100}")
    store.vote("ann", shown["assignment"], "left", 1, [], "x" * 8_000, 1.0)
    assert len(store.votes()) == 1


def test_adding_a_file_twice_or_reversed_adds_nothing(make):
    store = make(3)
    assert store.add(some(3)) == 0 and store.add(some(5)) == 2
    reversed_item = Item("prompt 0", "b 0", "a 0", "chosen", "rejected", "other.jsonl")
    assert store.add([reversed_item]) == 0


def test_another_file_is_not_touched(tmp_path):
    path = tmp_path / "other.db"
    (tmp_path / "text.db").write_text("not a database at all, but text of some length " * 50)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (x)")
    database.commit()
    database.close()
    for name in ("other.db", "text.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match="name another with --db"):
            Store(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


# --- items and exports -----------------------------------------------------------------------------------------------


def test_items_find_their_tests(tmp_path):
    bank = load_tasks()
    task = bank[0]
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "task": task.name},
        {"prompt": task.phrasings[1], "chosen": "a", "rejected": "b"},
        {"prompt": "mine", "chosen": "a", "rejected": "b", "tests": ["assert f(1) == 1"]},
        {"prompt": "none", "chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = items.from_file(str(path), bank)
    assert [i.tests for i in found] == [task.tests, task.tests, ("assert f(1) == 1",), ()]
    path.write_text(json.dumps({**rows[2], "tests": "assert"}))
    with pytest.raises(UserError, match=":1: tests must be a list"):
        items.from_file(str(path), bank)


def test_a_conversation_is_shown_and_exported_as_one(make, tmp_path):
    prompt = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "add"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps(
            {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
                "tests": ["assert 1"],
            }
        )
    )
    store = make()
    store.add(items.from_file(str(path), ()))
    shown = store.current("ann")
    assert shown["prompt"] == prompt and shown["has_tests"]
    store.vote("ann", shown["assignment"], "left", 1, [], "", 1.0)
    for format in ("trl", "helpsteer3"):
        export.write(store, tmp_path / format, format, print)
        (tmp_path / format).rename(tmp_path / f"{format}.jsonl")
        (pair,) = load_pairs(tmp_path / f"{format}.jsonl")
        assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, shown["left"], shown["right"])
    export.write(store, tmp_path / "v.csv", "csv", print)
    assert "user: hi\n\nassistant: yes?" in (tmp_path / "v.csv").read_text()


def test_prompts_from_text_and_jsonl(tmp_path):
    text, jsonl = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_text("one\n\n two \none\n")
    jsonl.write_text('{"prompt": "one"}\n{"prompt": "two", "tests": ["assert 1"]}\n')

    def asked(path, **settings):
        return [tuple(one)[:3] for one in items.read_prompts(AnnotateConfig(prompts=str(path), **settings), ())]

    assert asked(text) == [("one", "", ()), ("two", "", ())]
    assert asked(jsonl) == [("one", "", ()), ("two", "", ("assert 1",))]
    assert asked(text, max_prompts=1, seed=3) in ([("one", "", ())], [("two", "", ())])
    system = {"role": "system", "content": "Be brief."}
    assert asked(text, system="Be brief.")[0][0] == [system, {"role": "user", "content": "one"}]
    jsonl.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    with pytest.raises(UserError, match='p.jsonl:2 has no "prompt"'):
        asked(jsonl)


def test_sampled_answers_are_the_models_and_are_not_sampled_again(maker, tmp_path):
    (tmp_path / "p.txt").write_text("Say hi\nAdd numbers\n")
    settings = dict(prompts=str(tmp_path / "p.txt"), model=str(maker), max_tokens=12, temp=1.0)
    found = {}
    for backend in ("mlx", "torch"):
        store = Store(tmp_path / f"{backend}.db")
        assert items.sample(AnnotateConfig(backend=backend, **settings), store, (), print) == 2
        found[backend] = [(row["prompt"], row["a"], row["b"]) for row in store.items().values()]
        assert items.sample(AnnotateConfig(backend=backend, **settings), store, (), print) == 0
        store.close()
    assert found["mlx"] == found["torch"], "the seed decides, not the library"
    assert [json.loads(prompt) for prompt, *_ in found["mlx"]] == ["Say hi", "Add numbers"]
    assert all(a != b for _, a, b in found["mlx"])


@pytest.fixture
def judged(make):
    """Item 1: a by 2 + 2 against b by 1. Item 2: b by 3 beside a tie. Item 3: an even split. Item 4: both bad."""
    store = make(4)
    votes = [
        vote("ann", 1, "a", 2, ["style"], "=cmd()"),
        vote("bob", 1, "a", 2, ["style", "safety"], "neat"),
        vote("cy", 1, "b", 1),
        vote("ann", 2, "b", 3),
        vote("bob", 2, "tie"),
        vote("ann", 3, "a", 2),
        vote("bob", 3, "b", 2),
        vote("ann", 4, "bad"),
        vote("ann", 1, "b", 3, repeat=True),
        vote("bob", 4, "skip"),
    ]
    store.votes = lambda: votes
    return store


def test_the_trl_export_trains(judged, tmp_path):
    said = []
    export.write(judged, tmp_path / "out" / "pairs.jsonl", "trl", said.append)
    pairs = load_pairs(tmp_path / "out" / "pairs.jsonl")
    assert [(p.prompt, p.chosen, p.rejected, p.criterion) for p in pairs] == [
        ("prompt 0", "a 0", "b 0", "style"),
        ("prompt 1", "b 1", "a 1", "preference"),
    ]
    assert [p.weight for p in pairs] == [0.8, 0.75]  # 4 / 5; 3 / 4
    assert "2 judged items have no preferred answer" in said[-1]
    row = json.loads((tmp_path / "out" / "pairs.jsonl").read_text().splitlines()[0])
    assert row["votes"] == {"chosen": 2, "rejected": 1, "tie": 0, "both_bad": 0} and row["strength"] == 2


def test_the_helpsteer3_export_has_its_fields_and_signs(judged, tmp_path):
    export.write(judged, tmp_path / "h.jsonl", "helpsteer3", print)
    rows = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {
        "domain",
        "language",
        "context",
        "response1",
        "response2",
        "overall_preference",
        "individual_preference",
    }
    for row, scores, overall in zip(rows, ([-2, -2, 1], [3, 0], [-2, 2], [0]), (-1, 2, 0, 0)):
        sign = 1 if row["response1"].startswith("a") else -1  # negative: response 1 is better
        assert [p["score"] for p in row["individual_preference"]] == [sign * s for s in scores]
        assert row["overall_preference"] == sign * overall
        assert {row["response1"][0], row["response2"][0]} == {"a", "b"}
    assert {row["response1"][0] for row in rows} == {"a", "b"}, "neither comes first always"
    assert set(rows[0]["individual_preference"][0]) == {"score", "reasoning", "feedback1", "feedback2"}


def test_the_csv_export_has_every_vote_and_no_formula(judged, tmp_path):
    export.write(judged, tmp_path / "v.csv", "csv", print)
    rows = list(csv.DictReader((tmp_path / "v.csv").open(newline="")))
    assert len(rows) == 10 and rows[0]["annotator"] == "ann" and rows[0]["choice"] == "a"
    assert rows[0]["rationale"] == "'=cmd()" and rows[1]["reasons"] == "style safety"
    assert [r["repeat"] for r in rows].count("1") == 1


def test_a_weight_must_be_a_number_above_zero(tmp_path):
    path = tmp_path / "pairs.jsonl"
    for weight in ("0", "-1", "true", '"much"', "NaN", "Infinity"):
        path.write_text(f'{{"prompt": "p", "chosen": "a", "rejected": "b", "weight": {weight}}}')
        with pytest.raises(UserError, match="pairs.jsonl:1(: weight is| is not valid JSON)"):
            load_pairs(path)


# --- the command line ------------------------------------------------------------------------------------------------


class Served:
    """`mlxrlhf annotate` in a process of its own, once it prints its link."""

    def __init__(self, folder, *arguments, port=0):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlxrlhf_cli.main", "annotate", "--no-open", "--port", str(port), *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        while not (found := re.search(r"http://\S+", self.said)):
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.url = found.group()
        self.port = int(re.search(r":(\d+)/", self.url).group(1))

    def stop(self, how=signal.SIGINT):
        """The exit status, and what was printed on the way out."""
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out

    def ask(self, method, path, body=None, **headers):
        """Status, headers and text of one request, the headers given replacing the usual ones."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Origin": f"http://127.0.0.1:{self.port}",
            "Content-Type": "application/json",
            **headers,
        }
        connection.request(
            method,
            path,
            body if body is None or isinstance(body, (bytes, str)) else json.dumps(body),
            {k: v for k, v in headers.items() if v is not None},
        )
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, response.headers, text


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def served(pairs):
    running = []

    def serve(*arguments, port=0):
        running.append(Served(pairs, "--data", "pairs.jsonl", *arguments, port=port))
        return running[-1]

    yield serve
    for one in running:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


def test_serve_vote_stop_stats_export(pairs, served):
    server = served()
    status, _, text = server.ask("POST", "/api/next", {"annotator": "ann"})
    shown = json.loads(text)["item"]
    body = {
        "annotator": "ann",
        "assignment": shown["assignment"],
        "answer": "left",
        "strength": 2,
        "reasons": ["style"],
        "rationale": "",
        "seconds": 3.5,
    }
    assert status == 200 and server.ask("POST", "/api/vote", body)[0] == 200
    for change in (
        {"answer": "up"},
        {"strength": 9},
        {"strength": None},
        {"reasons": ["beauty"]},
        {"reasons": "style"},
        {"rationale": 1},
        {"rationale": "x" * 9_000},
        {"seconds": -1},
        {"assignment": "1"},
        {"annotator": " "},
        {"annotator": "a\u202eb"},
        {"annotator": "x" * 61},
        {"rationale": "y" * 70_000},
    ):
        assert server.ask("POST", "/api/vote", {**body, **change})[0] in (400, 413), change
    assert server.ask("POST", "/api/vote", {**body, "answer": "right"})[0] == 409
    assert server.ask("POST", "/api/vote", [])[0] == 400 and server.ask("GET", "/api/vote")[0] == 405
    code, out = server.stop()
    assert code == 0 and "stopped; 1 votes in data/annotations.db" in out and "Traceback" not in out
    stats = mlxrlhf(pairs, "annotate", "--stats")
    assert "1 on 1 items" in stats.out and "1 style" in stats.out
    mlxrlhf(pairs, "annotate", "--export", "out.jsonl")
    assert len(load_pairs(pairs / "out.jsonl")) == 1


def test_another_page_is_refused(served):
    server = served()
    body = {"annotator": "ann"}
    assert server.ask("POST", "/api/next", body)[0] == 200
    assert server.ask("GET", "/", Origin=None)[0] == 200
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "192.168.1.5", ""):
        assert server.ask("GET", "/", Host=host, Origin=None)[0] == 421, host
        assert server.ask("POST", "/api/next", body, Host=host, Origin=f"http://{host}")[0] in (400, 421), host
    for origin in ("http://evil.example", "null", None, "http://localhost:1", f"http://127.0.0.1:{server.port}.evil"):
        assert server.ask("POST", "/api/next", body, Origin=origin)[0] == 403, origin
    assert server.ask("GET", "/", Host=f"localhost:{server.port}", Origin=None)[0] == 200
    _, headers, page = server.ask("GET", "/", Origin=None)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"""\b(?:src|href)=["'](?!data:)|https?://(?!www\.w3\.org/2000/svg)""", page), "self-contained"


def test_another_host_asks_for_the_token(served):
    server = served("--host", "0.0.0.0")
    token = re.search(r"token=(\S+)", server.url).group(1)
    assert len(token) >= 32 and "plain HTTP" in server.said + server.process.stdout.readline()
    for path in ("/", "/?token=", "/?token=" + token[:-1], "/?token=" + "é", f"/api/next?token={token}"):
        assert server.ask("GET", path.replace("é", "%C3%A9"), Origin=None)[0] == 403, path
    assert server.ask("POST", "/api/next", {"annotator": "ann"})[0] == 403
    status, headers, _ = server.ask("GET", f"/?token={token}", Origin=None)
    assert status == 303 and headers["Location"] == "/" and "HttpOnly" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].split(";")[0]
    assert server.ask("POST", "/api/next", {"annotator": "ann"}, Cookie=cookie)[0] == 200
    assert server.ask("GET", f"/?token={token}", Origin=None, Cookie=cookie)[0] == 303
    assert server.ask("POST", "/api/next", {"annotator": "ann"}, Cookie=cookie[:-1])[0] == 403
    assert (
        server.ask(
            "POST", "/api/next", {"annotator": "ann"}, Cookie=cookie, Host="evil.example", Origin="http://evil.example"
        )[0]
        == 421
    )


def test_hosts():
    guard = web.Guard(None, None, hosts=web.own_names("192.168.1.5"), any_address=True, token="t", cookie="c")
    assert all(map(guard._known, ("10.0.0.7:8765", "[fe80::1]:80", "LOCALHOST", "192.168.1.5")))
    assert not any(map(guard._known, ("", "evil.example", "10.0.0.7.evil.example", "[", "a b")))
    assert web.is_local("127.0.0.1") and web.is_local("::1") and not web.is_local("0.0.0.0")


def test_a_port_in_use_is_one_sentence(pairs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = mlxrlhf(pairs, "annotate --no-open --data pairs.jsonl --port", port, code=2).err
    assert f"port {port} on 127.0.0.1 cannot be used" in said
    assert said.count("\n") == 1 and "choose another with --port" in said
    assert not (pairs / "data").exists()


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(data="nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (dict(data="nowhere.json"), "nowhere.json cannot be read"),
        (dict(data="other.json"), "other.json:1 has the keys prompt"),
        (dict(host="no.such.host.invalid"), "is not an address"),
        (dict(data="pairs.jsonl", prompts="p.txt"), "not both"),
        (dict(model_b="x"), "sampling needs --prompts FILE"),
        (dict(prompts="nowhere.txt", model="x"), "nowhere.txt cannot be read"),
        (dict(stats=True, db="nowhere.db"), "nowhere.db does not exist"),
        (dict(export="x.jsonl", db="empty.db"), "has no votes yet"),
        (dict(db="pairs.jsonl"), "name another with --db"),
        (dict(), "mlxrlhf prepare preferences --size nano"),
    ],
)
def test_wrong_input_is_one_sentence(pairs, monkeypatch, settings, message):
    monkeypatch.chdir(pairs)
    Store(pairs / "empty.db").close()
    (pairs / "other.json").write_text('{"prompt": "p"}')
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run.run(AnnotateConfig(**{"port": 0, **settings}), print)
    assert "\n" not in str(caught.value)


def test_defaults_serve_this_machine_alone():
    assert web.is_local(AnnotateConfig().host) and not AnnotateConfig().unsafe_exec


# --- what the file holds through -------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone(make, tmp_path):
    store = make(1)
    answer(store, "ann")
    for name in ("votes.db", "votes.db-wal", "votes.db-shm"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    store.close()
    (tmp_path / "votes.db").chmod(0o644)  # as an earlier version made it
    make().close()
    assert stat.S_IMODE((tmp_path / "votes.db").stat().st_mode) == 0o600


def test_reading_touches_nothing_and_sees_the_last_vote(make, tmp_path):
    store = make(2)
    answer(store, "ann")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reader = Store.read(tmp_path / "votes.db")
    assert len(reader.votes()) == 1 and len(reader.items()) == 2
    reader.close()
    assert {name: (tmp_path / name).read_bytes() for name in before if not name.endswith("-shm")} == {
        name: content for name, content in before.items() if not name.endswith("-shm")
    }
    (tmp_path / "empty.db").touch()
    with pytest.raises(UserError, match="holds no annotations"):
        Store.read(tmp_path / "empty.db")


READ_ONLY = """
mount -t tmpfs none medium && cp votes.db votes.db-wal medium/ && mount -o remount,ro medium &&
! touch medium/x 2>/dev/null && cd out && {python} -m mlxrlhf_cli.main annotate --db ../medium/votes.db \
    --stats --export pairs.jsonl
"""


def test_stats_and_export_of_a_medium_that_cannot_be_written(make, tmp_path):
    """A vote that only the -wal holds is counted too. In a mount namespace, on a tmpfs of its own."""
    store = make(1)
    answer(store, "ann")
    for name in ("medium", "out"):
        (tmp_path / name).mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", READ_ONLY.format(python=sys.executable)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "1 on 1 items" in done.stdout and len(load_pairs(tmp_path / "out" / "pairs.jsonl")) == 1


def test_sigterm_says_what_ctrl_c_says(served):
    server = served()
    shown = json.loads(server.ask("POST", "/api/next", {"annotator": "ann"})[2])["item"]
    body = {"annotator": "ann", "assignment": shown["assignment"], "answer": "tie", "strength": 1, "reasons": []}
    assert server.ask("POST", "/api/vote", {**body, "rationale": "", "seconds": 1})[0] == 200
    for data in (b'{"annotator": "\\ud83d"}', b'{"annotator": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", b"[]", b"{"):
        assert server.ask("POST", "/api/next", data)[0] == 400, data[:40]
    assert server.ask("POST", "/api/next", b'{"annotator": "ann"}', **{"Content-Type": "text/plain"})[0] == 415
    code, out = server.stop(signal.SIGTERM)
    assert code == 0 and "stopped; 1 votes in data/annotations.db" in out and "Traceback" not in out


def test_text_that_turns_round_is_shown_in_the_order_it_stands_in(make):
    store = make()
    turns = [{"role": "user", "content": "a\u202eb"}]
    store.add([Item(turns, "x = 1 \u2066# \u202etrue", "y", "x", "y", "s")])
    shown = store.current("ann")
    assert shown["prompt"][0]["content"] == "a\\u202eb"
    assert {shown["left"], shown["right"]} == {"x = 1 \\u2066# \\u202etrue", "y"}
    assert store.items()[1]["a"] == "x = 1 \u2066# \u202etrue", "what is exported is what was said"


def test_who_votes_anew_after_reading_the_agreement_is_marked_and_moves_nothing(make):
    """Vote, read alpha, undo, vote as the other did: alpha does not rise by it, and the vote says what it is."""
    store = make(30, overlap=2)
    sides = {}
    for _ in range(30):
        shown = answer(store, "ann")
        sides[shown["prompt"]] = shown["left"]
    assert agreement.live(store.tallies()) == {"alpha": None, "items": 0, "enough": 20}
    for number in range(30):
        shown = store.current("bob")
        agrees = shown["left"] == sides[shown["prompt"]]
        wrong = number % 3 == 0
        store.vote("bob", shown["assignment"], "left" if agrees != wrong else "right", 1, [], "", 1.0)
        live = agreement.live(store.tallies())
        assert (live["alpha"] is None) == (number + 1 < 20)
    before = agreement.live(store.tallies())["alpha"]
    back = store.undo("bob")
    agrees = back["left"] == sides[back["prompt"]]
    store.vote("bob", back["assignment"], "left" if agrees else "right", 1, [], "", 1.0)
    votes = store.votes()
    assert [v.revised for v in votes].count(True) == 1 and votes[-1].revised
    assert agreement.live(store.tallies())["items"] == 29
    # Item 30 (wrong: 29 % 3 == 2, so it agreed already): without it alpha cannot be higher than with it.
    assert agreement.live(store.tallies())["alpha"] <= before
    lines = agreement.describe(agreement.figures(votes, {i: ("x", "y") for i in range(1, 31)}))
    assert "voted anew after undo        1" in lines and any("without votes after undo" in line for line in lines)
    (row,) = [r for r in export.table(store.items(), votes) if r["revised"]]
    assert row["annotator"] == "bob"


def vote_on(server, name, answer="left"):
    """Ask for this person's item and vote on it; the item's assignment once the vote is acknowledged, else None."""
    item = json.loads(server.ask("POST", "/api/next", {"annotator": name})[2])["item"]
    if item is None:
        return None
    body = {"annotator": name, "assignment": item["assignment"], "answer": answer, "strength": 1, "reasons": []}
    status, _, _ = server.ask("POST", "/api/vote", {**body, "rationale": "", "seconds": 1})
    return item["assignment"] if status == 200 else None


def test_no_acknowledged_vote_is_lost_by_a_kill(pairs, served):
    """Killed while people vote: every vote that was acknowledged is there, and nobody's item is lost."""
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(400)]
    (pairs / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    acknowledged = set()
    for kill in range(int(os.environ.get("MLXRLHF_KILLS", "3"))):
        server = served()

        def vote_until_killed(name, server=server):
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                while (done := vote_on(server, name)) is not None:
                    acknowledged.add((name, done))

        threads = [threading.Thread(target=vote_until_killed, args=(name,)) for name in ("ann", "bob")]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + 0.1 * kill)
        assert server.stop(signal.SIGKILL)[0] == -signal.SIGKILL
        for thread in threads:
            thread.join()
        store = Store.read(pairs / "data" / "annotations.db")
        kept = store._all(
            "SELECT p.name, v.assignment FROM votes v JOIN assignments s ON s.id = v.assignment "
            "JOIN annotators p ON p.id = s.annotator WHERE v.undone IS NULL"
        )
        store.close()
        assert acknowledged <= {tuple(row) for row in kept} and len(kept) <= len(acknowledged) + 2 * (kill + 1)
    assert len(acknowledged) > 10


def test_three_people_on_two_servers_share_one_file(pairs, served):
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(20)]
    (pairs / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    servers = [served("--repeats", "0"), served("--repeats", "0")]
    done = Counter()

    def vote_all(name, server):
        while vote_on(server, name) is not None:
            done[name] += 1

    threads = [
        threading.Thread(target=vote_all, args=(name, servers[i % 2])) for i, name in enumerate(("ann", "bob", "cy"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.read(pairs / "data" / "annotations.db")
    votes = store.votes()
    store.close()
    # An item that was open to someone else when a person came to the end is not voted on by a third.
    assert done.total() == len(votes) and 36 <= len(votes) <= 40
    assert max(Counter(v.item for v in votes).values()) == 2, "overlap is never exceeded"
    assert len({(v.annotator, v.item) for v in votes}) == len(votes)
