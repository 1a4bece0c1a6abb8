"""The votes of raters about one pair of models, in one SQLite file that can be kept, copied and read by others.

The file is made by the first vote: a page that nobody voted on leaves none. Every vote is a transaction of its own, on
disk before the rater sees the next pair. What is undone or voted again stays in the file, marked so. The journal is
SQLite's default one, not the write-ahead log, so that a copy of the file alone is whole.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from selma.ground.errors import UserError
from selma.rating.pairs import Couple, Models

CHOICES = ("left", "right", "tie")
LONGEST = 40  # characters of a rater's name
COLUMNS = ("rater", "item", "prompt", "left", "right", "choice", "winner", "at")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS votes (
    id INTEGER PRIMARY KEY,
    rater TEXT NOT NULL,
    item TEXT NOT NULL,
    prompt TEXT NOT NULL,
    pair TEXT NOT NULL,                     -- hash of the prompt's id and both images
    "left" TEXT NOT NULL,                   -- the models
    "right" TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie')),
    at TEXT NOT NULL,                       -- UTC
    undone INTEGER NOT NULL DEFAULT 0       -- 1: the rater took it back, or voted again
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_vote ON votes (rater, pair) WHERE undone = 0;
"""


@dataclass(frozen=True)
class Vote:
    """What one rater says of one pair; `left` and `right` are the models, `at` is UTC."""

    rater: str
    item: str
    prompt: str
    pair: str
    left: str
    right: str
    choice: str
    at: str

    @property
    def winner(self) -> str:
        """The model that is better; empty for a tie."""
        return {"left": self.left, "right": self.right}.get(self.choice, "")

    def row(self) -> dict[str, str]:
        """The vote as a row of COLUMNS."""
        fields = {**asdict(self), "winner": self.winner}
        return {name: fields[name] for name in COLUMNS}


def rater_name(text: str) -> str | None:
    """A name as votes keep it, or None for one that is empty, too long or odd; `Anna ` and `anna` are one rater."""
    name = " ".join(unicodedata.normalize("NFC", text).split()).casefold()
    fits = re.fullmatch(r"[^\W_][\w .'-]*", name) and len(name) <= LONGEST
    return name if fits else None


def votes_file(folder: Path, models: Models, benchmark: str) -> Path:
    """The file of a pair of models, whichever of the two is named first."""
    return folder / f"{'-vs-'.join(sorted(models))}-{benchmark}.sqlite"


class Votes:
    """A file of votes, which may not be there yet; safe for several threads and processes, as each call connects for
    itself."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self.about = about
        self.seed = int(about["seed"])
        self.salt = about["salt"].encode()
        self._checked = path.is_file()  # it is known to be about the same, with the same seed

    def add(self, rater: str, couple: Couple, sides: Models, choice: str) -> None:
        """Keep a vote; an earlier one of this rater about this pair no longer counts.

        Raises UserError where another page began the file in the meantime, with another seed.
        """
        row = (rater, couple.item, couple.prompt, couple.id, *sides, choice, _now())
        with _connected(self.path) as file:
            if not self._checked:
                _begin(file, self.about)
                _check_seed(self.path, dict(file.execute("SELECT key, value FROM about")), self.seed)
                self._checked = True
            file.execute("BEGIN IMMEDIATE")
            _undo(file, rater, couple.id)
            file.execute(
                'INSERT INTO votes (rater, item, prompt, pair, "left", "right", choice, at) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            file.execute("COMMIT")

    def undo(self, rater: str, pair: str) -> None:
        """Take a rater's vote about a pair back; nothing happens where there is none."""
        if not self.path.is_file():
            return
        with _connected(self.path) as file:
            _undo(file, rater, pair)

    def done(self, rater: str) -> list[str]:
        """The ids of the pairs that a rater has voted on, in the order of the votes."""
        if not self.path.is_file():
            return []
        with _connected(self.path) as file:
            found = file.execute(
                "SELECT pair FROM votes WHERE rater = ? AND undone = 0 ORDER BY id", (rater,)
            )
            return [pair for (pair,) in found]

    def all(self) -> list[Vote]:
        """Every vote that counts, in order."""
        if not self.path.is_file():
            return []
        with _connected(self.path) as file:
            rows = file.execute(
                'SELECT rater, item, prompt, pair, "left", "right", choice, at FROM votes '
                "WHERE undone = 0 ORDER BY id"
            )
            return [Vote(*row) for row in rows]


def start(path: Path, models: Models, benchmark: str, seed: int | None, default: int) -> Votes:
    """Open the votes of a pair of models on a benchmark; where there is no file, the first vote makes it.

    `seed` fixes the order and sides of a new file, `default` where it is None; an old file keeps its own. Raises
    UserError where `seed` is another one, the file is not one of votes about this pair, or none can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made or written to ({error.strerror})") from None
    told = {
        "models": " ".join(sorted(models)),
        "benchmark": benchmark,
        "seed": str(default if seed is None else seed),
        "salt": secrets.token_hex(16),  # of the images' names on the page
    }
    if not path.exists():
        return Votes(path, told)
    with _connected(path) as file:
        _begin(file, told)
    votes = _checked(path, models, benchmark)
    if seed is not None:
        _check_seed(path, votes.about, seed)
    return votes


def kept(path: Path, models: Models, benchmark: str) -> Votes:
    """Open the votes that are there; raises UserError where there are none, or of something else."""
    if not path.is_file():
        raise UserError(f"{path}: no votes yet; `python -m selma.rate {' '.join(models)}` asks for them")
    return _checked(path, models, benchmark)


def _checked(path: Path, models: Models, benchmark: str) -> Votes:
    with _connected(path) as file:
        about = dict(file.execute("SELECT key, value FROM about"))
    wanted = " ".join(sorted(models))
    if not {"models", "benchmark", "seed", "salt"} <= set(about):
        raise UserError(f"{path}: is not a file of votes; move it away")
    if (about["models"], about["benchmark"]) != (wanted, benchmark):
        raise UserError(
            f"{path}: holds votes about {about['models']} on {about['benchmark']}, not about {wanted} on {benchmark}; "
            "move it away"
        )
    return Votes(path, about)


def _begin(file: sqlite3.Connection, about: Mapping[str, str]) -> None:
    """Make the tables, and say what the file is about, where another process did not do so before."""
    file.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    file.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())


def _check_seed(path: Path, about: Mapping[str, str], seed: int) -> None:
    if int(about["seed"]) != seed:
        raise UserError(
            f"--seed: {seed}; {path} was started with {about['seed']}, which fixes each rater's order: "
            "leave it out, or move that file away"
        )


def _undo(file: sqlite3.Connection, rater: str, pair: str) -> None:
    file.execute("UPDATE votes SET undone = 1 WHERE rater = ? AND pair = ? AND undone = 0", (rater, pair))


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose statements are transactions of their own; UserError names the file where SQLite fails."""
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as file:
            file.execute("PRAGMA synchronous = FULL")
            yield file
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be read or written as a file of votes ({error})") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
