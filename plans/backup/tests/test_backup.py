"""What the backup promises: an archive is whole and verified or not there, old ones go, and silence is noticed."""

import os
import tarfile
from pathlib import Path

import pytest


@pytest.fixture
def folders(tmp_path):
    """A folder to back up and one for its archives, as inputs."""
    source = tmp_path / "photos"
    (source / "2026").mkdir(parents=True)
    (source / "2026/cat.jpg").write_bytes(b"meow" * 10_000)
    (source / "notes.txt").write_text("feed the cat")
    return {"source": str(source), "target": str(tmp_path / "archives")}


def archives(folders):
    """What is in the folder of the archives."""
    return sorted(path.name for path in Path(folders["target"]).iterdir())


async def test_archive_has_what_was_there(world, folders):
    run = await world.run("folder", inputs=folders)
    run.assert_succeeded()
    with tarfile.open(run.result["archive"]) as archive:
        assert archive.getnames() == ["photos", "photos/2026", "photos/2026/cat.jpg", "photos/notes.txt"]
        assert archive.extractfile("photos/notes.txt").read() == b"feed the cat"
    world.assert_emitted("backup.done", {"source": folders["source"], "archive": run.result["archive"]})


async def test_latest_archives_are_kept(world, folders):
    made = [await world.run("folder", inputs=folders | {"keep": 2}) for _ in range(3)]
    oldest, *kept = [Path(run.result["archive"]).name for run in made]
    assert made[-1].result["pruned"] == [oldest]
    assert archives(folders) == sorted([*kept, *(f"{name}.sha256" for name in kept)])


async def test_damaged_archive_is_set_aside_and_no_old_one_goes(world, folders):
    old = await world.run("folder", inputs=folders)
    run = await world.start("folder", inputs=folders | {"keep": 1})
    await world.until(run, step="archive", state="succeeded")  # it is packed, and not yet read back
    archive = Path(run.steps["archive"].output["archive"])
    archive.write_bytes(archive.read_bytes()[:-20])
    await world.settle()
    run.assert_state("failed")
    assert run.error["type"] == "ArchiveDamaged"
    name = Path(old.result["archive"]).name
    assert archives(folders) == [name, f"{name}.sha256", f"{archive.name}.damaged"]
    assert world.events("backup.done")[-1]["cid"] == old.cid


async def test_source_that_is_gone_is_an_error_that_says_so(world, folders):
    run = await world.run("folder", inputs=folders | {"source": "/nowhere/at/all"})
    run.assert_state("failed")
    assert "/nowhere/at/all was not backed up: " in run.logs("error")[-1]["message"]


async def test_run_that_is_cancelled_leaves_no_archive(world, folders):
    film = Path(folders["source"], "film")
    film.touch()
    os.truncate(film, 500_000_000)
    run = await world.start("folder", inputs=folders)
    await world.until(run, step="archive", state="running")
    await run.cancel()
    await world.settle()
    run.assert_state("cancelled")
    assert not Path(folders["target"]).exists() or archives(folders) == []


def test_wherever_it_is_stopped_it_cleans_up(sweep, folders):
    # one run for each place at which it waits, cancelled there; some get as far as an archive, none leaves half of one
    sweep("folder", inputs=folders).assert_clean()
    assert not [name for name in archives(folders) if name.endswith(".partial")]


@pytest.fixture
def nightly(world):
    """The night's backups, faked: here it matters when they are, not what is in them."""
    world.vars(source="/srv/data", target="/srv/backups")
    counts = dict.fromkeys(["archive_bytes", "files", "folders", "links", "bytes", "special", "changed"], 1)
    packed = {"archive": "/srv/backups/a.tar.gz", "sha256": "0" * 64, **counts, "skipped_count": 0, "skipped": []}
    world.fake("archive", returns=packed)
    world.fake("verify", returns={"entries": 1, "files": 1, "bytes": 1})
    world.fake("prune", returns=[])


async def test_backup_is_made_each_night_within_ten_minutes(world, nightly):
    world.begin("2027-03-26T12:00:00Z")
    await world.switch("nightly", True)
    await world.advance(days=3)
    runs = world.runs("folder")
    assert [run.due for run in runs] == [f"2027-03-{day}T02:30:00+00:00" for day in (27, 28, 29)]
    assert all(0 <= run.record.accepted_at - run.record.due <= 600 for run in runs)
    world.assert_all_succeeded()


async def test_nights_that_the_machine_was_off_are_made_up_for_once(world, nightly):
    world.begin("2027-03-26T12:00:00Z")
    await world.switch("nightly", True)
    await world.restart(down="5d")
    await world.advance(hours=1)
    assert len(world.runs("folder")) == 1


async def test_silence_is_said_after_26_hours(world, nightly):
    world.begin("2027-03-26T12:00:00Z")
    await world.switch("overdue", True)
    await world.run("folder", inputs={"source": "/srv/data", "target": "/srv/backups"})
    await world.advance(hours=25, minutes=59)
    assert world.runs("warn") == []
    await world.advance(minutes=2)
    world.assert_started("warn", times=1)
    assert world.logs("error")[-1]["message"] == "no backup has been made for more than a day"


async def test_nothing_is_said_while_there_is_a_backup_each_night(world, nightly):
    await world.switch("nightly", True)
    await world.switch("overdue", True)
    await world.advance(days=10)
    world.assert_started("folder", times=10)
    assert world.runs("warn") == []
