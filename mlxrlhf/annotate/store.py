"""Items, people, showings and votes in one SQLite file, in WAL mode. A vote is on disk when `vote` returns.

    items        a pair of answers to one prompt; the prompt and the tests are kept as JSON
    assignments  an item shown to a person, and on which side its answers stood
    votes        what they said; an undone vote keeps its row

A person's current item is their last opened assignment without a vote: the same after a refresh and in a second tab.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.display import unturned
from mlxrlhf.errors import UserError

SIDES = ("left", "right")
#: what a person may answer; left and right are stored as the answer that stood there
ANSWERS = ("left", "right", "tie", "bad", "skip")
STRENGTHS = (1, 2, 3)  # slightly, clearly, much
REASONS = ("correctness", "readability", "efficiency", "style", "safety")
#: an item that was opened and left counts as taken for this long
LEASE_SECONDS = 1_800
#: other items between an item and its hidden repeat
REPEAT_GAP = 5
_VERSION = 1
_APPLICATION = 0x6D6C7861  # "mlxa"

_SCHEMA = """
CREATE TABLE items (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, place TEXT NOT NULL, prompt TEXT NOT NULL, a TEXT NOT NULL,
    b TEXT NOT NULL, label_a TEXT NOT NULL, label_b TEXT NOT NULL, source TEXT NOT NULL, criterion TEXT NOT NULL,
    task TEXT NOT NULL, tests TEXT NOT NULL, passed_a INTEGER, passed_b INTEGER);
CREATE TABLE annotators (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, created REAL NOT NULL);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotators, item INTEGER NOT NULL REFERENCES items,
    repeat INTEGER NOT NULL, swapped INTEGER NOT NULL, opened REAL NOT NULL, revealed REAL,
    UNIQUE (annotator, item, repeat));
CREATE INDEX assignments_item ON assignments (item);
CREATE TABLE votes (
    id INTEGER PRIMARY KEY, assignment INTEGER NOT NULL REFERENCES assignments, choice TEXT NOT NULL,
    strength INTEGER NOT NULL, reasons TEXT NOT NULL, rationale TEXT NOT NULL, seconds REAL NOT NULL,
    informed INTEGER NOT NULL, created REAL NOT NULL, undone REAL);
CREATE UNIQUE INDEX votes_live ON votes (assignment) WHERE undone IS NULL;
CREATE VIEW shown AS
    SELECT s.*, v.id AS vote, v.choice, v.created FROM assignments s
    LEFT JOIN votes v ON v.assignment = s.id AND v.undone IS NULL;
"""


@dataclass(frozen=True)
class Item:
    """Two answers to one prompt, text or messages. label_a and label_b say what they are (chosen and rejected, or two
    models); tests are assert statements that the code of an answer should pass."""

    prompt: str | list[dict]
    a: str
    b: str
    label_a: str
    label_b: str
    source: str
    criterion: str = ""
    task: str = ""
    tests: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for the same two answers in either order."""
        return hashlib.sha256(json.dumps([self.prompt, *sorted((self.a, self.b))]).encode()).hexdigest()


@dataclass(frozen=True)
class Vote:
    """A live vote. choice: a, b, tie, bad or skip; strength: 0 unless it is a or b; informed: the person had seen the
    item's test results before; revised: it stands in the place of one that was taken back."""

    annotator: str
    item: int
    choice: str
    strength: int
    reasons: tuple[str, ...]
    rationale: str
    seconds: float
    swapped: bool
    repeat: bool
    informed: bool
    created: float
    revised: bool = False


class Conflict(Exception):
    """The showing already has another vote, or is not this person's."""


def _flat(error: Exception) -> str:
    """What SQLite says, on one line: it quotes a damaged schema with its line ends."""
    return " ".join(str(error).split())


class Store:
    """The file, for its owner's eyes alone. Raises UserError when it cannot be opened or is something else."""

    def __init__(self, path: Path, *, seed: int = 0, overlap: int = 1, repeats: float = 0.0):
        self.path, self.seed, self.overlap, self.repeats = Path(path), seed, overlap, repeats
        self._lock = threading.RLock()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its -wal and -shm the same mode
            self._db = self._connect(self.path)
            if not self._check():
                self._db.executescript(
                    f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {_VERSION};"
                    f"PRAGMA application_id = {_APPLICATION};COMMIT;"
                )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
            self._db.execute("PRAGMA fullfsync = 1")  # on macOS, for the disk's own cache too
            self._db.execute("PRAGMA foreign_keys = 1")
            with contextlib.suppress(PermissionError):  # another's file, that we may write
                self.path.chmod(0o600)  # one that an earlier version made
        except (sqlite3.Error, OSError) as error:
            raise self._cannot_open(error) from None

    @classmethod
    def read(cls, path: Path) -> Store:
        """The file to read from, which is not touched: it may lie on a medium that cannot be written."""
        store = cls.__new__(cls)
        store.path, store.seed, store.overlap, store.repeats = Path(path), 0, 1, 0.0
        store._lock, store._copy = threading.RLock(), None
        try:
            try:
                store._db = store._connect(f"{store.path.resolve().as_uri()}?mode=ro")
                problem = store._check()
            except sqlite3.OperationalError:
                # A file in WAL mode is read by way of a file beside it, which cannot be made here: read a copy.
                store._copy = tempfile.TemporaryDirectory(prefix="mlxrlhf-annotations-")
                store._db = store._connect(_copied(store.path, Path(store._copy.name)))
                problem = store._check()
        except (sqlite3.Error, OSError) as error:
            raise store._cannot_open(error) from None
        if not problem:
            raise UserError(f"{store.path} holds no annotations; name another with --db")
        return store

    @staticmethod
    def _connect(path: Path | str) -> sqlite3.Connection:
        uri = isinstance(path, str)
        database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False, uri=uri)
        database.row_factory = sqlite3.Row
        return database

    def _check(self) -> bool:
        """False for an empty file, True for one of ours. Raises UserError for another."""
        version, application = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
        )
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return False
        if (version, application) != (_VERSION, _APPLICATION):
            raise UserError(f"{self.path} was not made by this version of mlxrlhf annotate; name another with --db")
        return True

    def _cannot_open(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be opened as an annotation file ({_flat(error)}); name another with --db")

    def close(self) -> None:
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, between threads and between processes; committed when the block ends well.

        Raises UserError when the file cannot be written, a full disk for one; nothing of the block is kept then.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise UserError(f"{self.path} cannot be written ({_flat(error)}), so nothing was saved") from None
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _all(self, query: str, *values) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise UserError(
                    f"{self.path} cannot be read ({error}); restore it, or name another with --db"
                ) from None

    # --- items ---

    def add(self, items: Sequence[Item]) -> int:
        """Add the items that are not there yet; how many were new. Their order is a shuffle by the seed."""
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO items (key, place, prompt, a, b, label_a, label_b, source, criterion, task, "
                "tests) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        i.key,
                        hashlib.sha256(f"{self.seed} {i.key}".encode()).hexdigest(),
                        json.dumps(i.prompt),
                        i.a,
                        i.b,
                        i.label_a,
                        i.label_b,
                        i.source,
                        i.criterion,
                        i.task,
                        json.dumps(i.tests),
                    )
                    for i in items
                ],
            )
            return db.total_changes - before

    def items(self) -> dict[int, dict[str, Any]]:
        """Every item by its id."""
        return {row["id"]: dict(row) for row in self._all("SELECT * FROM items ORDER BY id")}

    def has(self, source: str, prompt: str | list[dict]) -> bool:
        """Whether a prompt has an item of that source."""
        return bool(self._all("SELECT 1 FROM items WHERE source = ? AND prompt = ?", source, json.dumps(prompt)))

    def save_tests(self, item: int, passed_a: bool, passed_b: bool) -> None:
        with self._transaction() as db:
            db.execute("UPDATE items SET passed_a = ?, passed_b = ? WHERE id = ?", (passed_a, passed_b, item))

    # --- showing ---

    def current(self, name: str) -> dict | None:
        """What this person looks at now, opening a new item when they have none; None when nothing is left for them."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO annotators (name, created) VALUES (?, ?)", (name, time.time()))
            who = db.execute("SELECT id FROM annotators WHERE name = ?", (name,)).fetchone()[0]
            row = db.execute(
                "SELECT id FROM shown WHERE annotator = ? AND vote IS NULL ORDER BY opened DESC, id DESC", (who,)
            ).fetchone()
            return self._payload(db, row[0] if row else self._open(db, who))

    def _open(self, db: sqlite3.Connection, who: int) -> int | None:
        """Assign a due repeat, or the item with the fewest annotators."""
        item = repeat = self._due_repeat(db, who)
        if repeat is None:
            row = db.execute(f"{_FREE} ORDER BY coalesce(t.people, 0), i.place LIMIT 1", self._free(who)).fetchone()
            if row is None:
                return None
            item = row[0]
        (key,) = db.execute("SELECT key FROM items WHERE id = ?", (item,)).fetchone()
        # A repeat stands the other way round, so that a habit of sides does not pass for consistency.
        swapped = self._swap(key, who) != (repeat is not None)
        return db.execute(
            "INSERT INTO assignments (annotator, item, repeat, swapped, opened) VALUES (?, ?, ?, ?, ?)",
            (who, item, repeat is not None, swapped, time.time()),
        ).lastrowid

    def _free(self, who: int) -> dict:
        return {"who": who, "overlap": self.overlap, "since": time.time() - LEASE_SECONDS}

    def _swap(self, key: str, who: int) -> bool:
        return bool(np.random.default_rng([self.seed, who, int(key[:15], 16)]).integers(2))

    def _due_repeat(self, db: sqlite3.Connection, who: int) -> int | None:
        """An item voted on at least REPEAT_GAP items ago, when fewer than their share were shown again."""
        rows = db.execute(
            "SELECT item, repeat, choice FROM shown WHERE annotator = ? ORDER BY opened, id", (who,)
        ).fetchall()
        fresh, again = [r for r in rows if not r["repeat"]], {r["item"] for r in rows if r["repeat"]}
        if int(self.repeats * len(fresh) + 1e-9) <= len(again):
            return None
        recent = {r["item"] for r in rows[-REPEAT_GAP:]}
        eligible = [r["item"] for r in fresh if r["choice"] not in (None, "skip") and r["item"] not in again | recent]
        rng = np.random.default_rng([self.seed, who, len(rows)])
        return int(rng.choice(eligible)) if eligible else None

    def _payload(self, db: sqlite3.Connection, assignment: int | None) -> dict | None:
        """What the page may know: nothing tells which answer is which, or a repeat from a first showing."""
        if assignment is None:
            return None
        row = db.execute(
            "SELECT i.*, s.swapped FROM assignments s JOIN items i ON i.id = s.item WHERE s.id = ?", (assignment,)
        ).fetchone()
        left, right = (row["b"], row["a"]) if row["swapped"] else (row["a"], row["b"])
        return {
            "assignment": assignment,
            "prompt": _shown(json.loads(row["prompt"])),
            "left": unturned(left),
            "right": unturned(right),
            "has_tests": row["tests"] != "[]",
        }

    # --- voting ---

    def vote(
        self,
        name: str,
        assignment: int,
        answer: str,
        strength: int,
        reasons: Sequence[str],
        rationale: str,
        seconds: float,
    ) -> None:
        """Save a vote; saving the same one again is no error, so that a page may repeat a request that got no reply.

        Raises Conflict when the showing is another person's or has another vote.
        """
        with self._transaction() as db:
            shown = self._shown(db, name, assignment)
            choice = answer
            if answer in SIDES:
                choice = "b" if (answer == "right") != bool(shown["swapped"]) else "a"
            else:
                strength = 0
            new = (choice, strength, json.dumps(sorted(set(reasons))), rationale)
            old = db.execute(
                "SELECT choice, strength, reasons, rationale FROM votes WHERE assignment = ? AND undone IS NULL",
                (assignment,),
            ).fetchone()
            if old is not None:
                if tuple(old) != new:
                    raise Conflict("you have voted on this item already, in another tab perhaps")
                return
            informed = (
                db.execute(
                    "SELECT count(*) FROM assignments WHERE annotator = ? AND item = ? AND revealed IS NOT NULL",
                    (shown["annotator"], shown["item"]),
                ).fetchone()[0]
                > 0
            )
            db.execute(
                "INSERT INTO votes (assignment, choice, strength, reasons, rationale, seconds, informed, "
                "created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (assignment, *new, seconds, informed, time.time()),
            )

    def _shown(self, db: sqlite3.Connection, name: str, assignment: int) -> sqlite3.Row:
        row = db.execute(
            "SELECT s.* FROM shown s JOIN annotators p ON p.id = s.annotator WHERE s.id = ? AND p.name = ?",
            (assignment, name),
        ).fetchone()
        if row is None:
            raise Conflict("this item was not shown to you")
        return row

    def undo(self, name: str) -> dict | None:
        """Take back this person's last vote and show its item again, with the vote as a draft; None without a vote."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT v.*, s.swapped FROM votes v JOIN assignments s ON s.id = v.assignment JOIN "
                "annotators p ON p.id = s.annotator WHERE p.name = ? AND v.undone IS NULL "
                "ORDER BY v.id DESC",
                (name,),
            ).fetchone()
            if row is None:
                return None
            now = time.time()
            db.execute("UPDATE votes SET undone = ? WHERE id = ?", (now, row["id"]))
            db.execute("UPDATE assignments SET opened = ? WHERE id = ?", (now, row["assignment"]))
            answer = row["choice"]
            if answer in ("a", "b"):
                answer = SIDES[(answer == "b") != bool(row["swapped"])]
            draft = {
                "answer": answer,
                "strength": row["strength"] or 1,
                "reasons": json.loads(row["reasons"]),
                "rationale": row["rationale"],
                "seconds": row["seconds"],
            }
            return {**(self._payload(db, row["assignment"]) or {}), "draft": draft}

    def reveal(self, name: str, assignment: int) -> tuple[dict[str, Any], bool]:
        """The item of a showing and whether its sides are swapped, noting that its tests were seen.

        Raises Conflict before the vote.
        """
        with self._transaction() as db:
            shown = self._shown(db, name, assignment)
            if shown["vote"] is None:
                raise Conflict("test results are shown after the vote")
            db.execute(
                "UPDATE assignments SET revealed = coalesce(revealed, ?) WHERE id = ?", (time.time(), assignment)
            )
            item = db.execute("SELECT * FROM items WHERE id = ?", (shown["item"],)).fetchone()
            return dict(item), bool(shown["swapped"])

    # --- reading ---

    def votes(self) -> list[Vote]:
        """Every live vote, oldest first."""
        rows = self._all(
            "SELECT p.name, s.item, s.swapped, s.repeat, v.*, EXISTS "
            "(SELECT 1 FROM votes u WHERE u.assignment = v.assignment AND u.undone IS NOT NULL) AS revised "
            "FROM votes v JOIN assignments s ON s.id = v.assignment JOIN annotators p ON p.id = s.annotator "
            "WHERE v.undone IS NULL ORDER BY v.id"
        )
        return [
            Vote(
                r["name"],
                r["item"],
                r["choice"],
                r["strength"],
                tuple(json.loads(r["reasons"])),
                r["rationale"],
                r["seconds"],
                bool(r["swapped"]),
                bool(r["repeat"]),
                bool(r["informed"]),
                r["created"],
                bool(r["revised"]),
            )
            for r in rows
        ]

    def tallies(self) -> list[tuple[int, str, int]]:
        """(item, choice, number of votes), skips and repeats left out, and votes in the place of one taken back: who
        reads the agreement, takes a vote back and votes as the others did shall not see it rise."""
        rows = self._all(
            "SELECT item, choice, count(*) AS votes FROM shown s WHERE choice != 'skip' AND NOT repeat AND NOT EXISTS "
            "(SELECT 1 FROM votes u WHERE u.assignment = s.id AND u.undone IS NOT NULL) GROUP BY item, choice"
        )
        return [(row["item"], row["choice"], row["votes"]) for row in rows]

    def progress(self, name: str) -> dict:
        """This person's items done and still to do, and their seconds per item."""
        with self._lock:
            row = self._db.execute("SELECT id FROM annotators WHERE name = ?", (name,)).fetchone()
            who = row[0] if row else -1
            seconds = [
                r[0]
                for r in self._db.execute(
                    "SELECT v.seconds FROM votes v JOIN assignments s ON s.id = v.assignment WHERE s.annotator = ? AND "
                    "v.undone IS NULL AND v.choice != 'skip'",
                    (who,),
                )
            ]
            done, pending = self._db.execute(
                "SELECT count(vote), count(*) - count(vote) FROM shown WHERE annotator = ?", (who,)
            ).fetchone()
            free = self._db.execute(f"SELECT count(*) FROM ({_FREE})", self._free(who)).fetchone()[0]
        return {"done": done, "left": pending + free, "seconds": float(np.median(seconds)) if seconds else None}


def _shown(prompt: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A prompt in the order in which its text stands."""
    if isinstance(prompt, str):
        return unturned(prompt)
    return [{**turn, "content": unturned(str(turn["content"]))} for turn in prompt]


def _copied(path: Path, folder: Path) -> Path:
    """A copy of a database file and of the votes that only its -wal holds yet."""
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.is_file():
            shutil.copyfile(source, folder / source.name)
    return folder / path.name


#: Items a person has not been shown and that fewer than `overlap` people have voted on or look at now.
_FREE = """
SELECT i.id FROM items i LEFT JOIN (
    SELECT item, count(*) AS people FROM shown
    WHERE NOT repeat AND ((vote IS NULL AND opened > :since) OR choice != 'skip') GROUP BY item
) t ON t.item = i.id
WHERE coalesce(t.people, 0) < :overlap AND i.id NOT IN (SELECT item FROM assignments WHERE annotator = :who)
"""
