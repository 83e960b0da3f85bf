"""A damaged database is opened only if what it says was once committed so, or refused, untouched, with the ways out.

SQLite has no checksums over its pages: a flipped bit inside a stored text can be seen by nobody. So what is held here
for a flip is that the damage stays where it is: no row but those of the page, no traceback, and the file as it was.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import anyio
import msgspec
import pytest
from tests.power.connection import Committed, digest
from tests.power.disk import Disk, Mark
from tests.power.images import Platter
from tests.power.story import record

from aura.errors import StoreCorrupt, StoreError, StoreNewer
from aura.records.boots import last_accepted, read_open_runs
from aura.records.state import read_states
from aura.stores.inspection import sound_records
from aura.stores.sqlite import SqliteBackend
from aura.testing.virtual_time import VirtualLoop

WAYS_OUT = ("Put a backup in its place", ".recover", "move it away to start anew")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    folder = tmp_path_factory.mktemp("story")
    options = {"loop_factory": VirtualLoop}
    return anyio.run(lambda: record(folder, 1, 12), backend_options=options)


def left_by(disk: Disk, share: float, folder: Path) -> Path:
    """The database, and its log, as a kill after this share of the story leaves them; 1.0: an end in good order."""
    platter = Platter()
    for entry in disk.log[: int(len(disk.log) * share)]:
        platter.play(entry)
    platter.cut(Random(0), folder, 1.0)
    return folder / "aura.db"


def content(file: Path) -> dict[str, bytes]:
    """The files beside it, without the index that SQLite makes of its log."""
    return {f.name: f.read_bytes() for f in file.parent.iterdir() if not f.name.endswith("-shm")}


def opened(file: Path) -> str:
    """Open it and read what a boot reads: the digest of what it says, or the name of the refusal."""
    before = content(file)
    try:
        backend = SqliteBackend(file)
    except StoreError as error:
        assert content(file) == before
        check_refusal(error)
        return type(error).__name__
    with closing(backend), sound_or_refused():
        with sound_records(file):
            read_open_runs(backend.execute)
            read_states(backend.execute)
            last_accepted(backend.execute)
        return digest(backend.execute)
    return "unreadable"


class sound_or_refused:
    """Lets pass what the boot refuses, and what a digest of all columns meets in texts that no boot reads."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        return isinstance(error, StoreCorrupt | UnicodeDecodeError | sqlite3.OperationalError)


def check_refusal(error: StoreError) -> None:
    assert type(error) in (StoreCorrupt, StoreNewer), error
    assert "\n" not in str(error)
    assert isinstance(error, StoreNewer) or all(way in str(error) for way in WAYS_OUT)


def committed(disk: Disk) -> list[str]:
    return [e.fact.digest for e in disk.log if isinstance(e, Mark) and isinstance(e.fact, Committed)]


def flip(file: Path, random: Random) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(random.choice((1, 1, 8))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


@cache
def true_states(disk: Disk) -> frozenset[str]:
    return frozenset(committed(disk))


def flips(disk: Disk, share: float, which: str, seeds: range) -> Counter[str]:
    """What becomes of flipped bits: refused, the truth, something that was true before, or texts that were changed."""
    folder = Path(mkdtemp(prefix="aura-damage-"))
    found: Counter[str] = Counter()
    for seed in seeds:
        (folder / "d").mkdir()
        file = left_by(disk, share, folder / "d")
        flip(file.with_name(which), Random(seed))
        said = opened(file)
        word = said if not said.islower() or len(said) < 64 else "true" if said in true_states(disk) else "changed"
        found["refused" if word.startswith("Store") else word] += 1
        shutil.rmtree(folder / "d")
    folder.rmdir()
    return found


def test_flipped_bits_of_the_database_are_refused_or_stay_where_they_are(disk: Disk) -> None:
    found = flips(disk, 1.0, "aura.db", range(40)) + flips(disk, 0.6, "aura.db", range(20))
    assert found["refused"] > 0, found
    assert found["true"] > 0, found


def test_flipped_bits_of_the_log_never_mix_what_was_committed(disk: Disk) -> None:
    found = flips(disk, 0.6, "aura.db-wal", range(30))
    assert found["changed"] + found["unreadable"] == 0, found
    assert found["refused"] > 20, found


def test_flip_in_the_last_commits_of_a_log_does_not_bring_back_older_pages(disk: Disk, tmp_path: Path) -> None:
    """Whatever SQLite takes for the end of its log, nothing but a state that was committed is opened."""
    for cut in (0.2, 0.5, 0.9):
        folder = tmp_path / str(cut)
        folder.mkdir()
        file = left_by(disk, 0.6, folder)
        log = file.with_name("aura.db-wal")
        log.write_bytes(log.read_bytes()[: int(log.stat().st_size * cut)])
        said = opened(file)
        assert said == "StoreCorrupt" or said in true_states(disk), (cut, said)


def make_foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as db:
        db.executescript("CREATE TABLE song (title TEXT); PRAGMA user_version=1")


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def lose(file: Path) -> None:
    file.write_bytes(b"")
    (file.parent / "token").write_text("t")


def rename_column(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("ALTER TABLE wait RENAME COLUMN until TO unti1")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]), "damaged"),
    "a page of zeros": (
        lambda f: f.write_bytes(f.read_bytes()[:4096] + bytes(4096) + f.read_bytes()[8192:]),
        "damaged",
    ),
    "its first page of zeros": (lambda f: f.write_bytes(bytes(4096) + f.read_bytes()[4096:]), "not a database"),
    "another program's": (make_foreign, "no database of Aura"),
    "empty beside a token": (lose, "it is empty, though there is a token beside it"),
    "a folder": (make_folder, "a folder is in its place"),
    "a text": (lambda f: f.write_text("hello\n" * 1000), "not a database"),
    "a column has another name": (rename_column, "wait.until is missing"),
}


@pytest.mark.parametrize(("spoil", "said"), list(SPOILED.values()), ids=list(SPOILED))
def test_what_is_no_sound_database_of_ours_is_refused_untouched(
    disk: Disk, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    file = left_by(disk, 1.0, tmp_path)
    spoil(file)
    before = {} if file.is_dir() else content(file)
    with pytest.raises(StoreCorrupt, match=said) as refused:
        SqliteBackend(file)
    assert refused.value.exit_code == 65
    check_refusal(refused.value)
    assert file.is_dir() or content(file) == before


@pytest.mark.parametrize("name", [None, "aura.lock"], ids=["alone", "beside a lock"])
def test_empty_file_of_a_first_start_that_was_cut_off_is_new(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "aura.db").touch()
    if name:
        (tmp_path / name).touch()
    SqliteBackend(tmp_path / "aura.db").close()


def test_record_that_cannot_be_read_is_a_damage_and_nothing_else_is(tmp_path: Path) -> None:
    file = tmp_path / "aura.db"
    with pytest.raises(StoreCorrupt, match="a record cannot be read"), sound_records(file):
        msgspec.json.decode(b'{"a')
    with pytest.raises(StoreCorrupt, match="UTF-8"), sound_records(file), closing(sqlite3.connect(":memory:")) as db:
        db.execute("SELECT CAST(x'ff' AS TEXT)").fetchone()
    with pytest.raises(ZeroDivisionError), sound_records(file):
        1 / 0  # noqa: B018
    with (
        closing(sqlite3.connect(":memory:")) as db,
        pytest.raises(sqlite3.OperationalError, match="syntax"),
        sound_records(file),
    ):
        db.execute("NO SQL")
