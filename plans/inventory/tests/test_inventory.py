"""What the inventory promises: a report each week, and one in any case, whatever part of the machine cannot be read.

The parts read this machine, all but the mounts: those of a network would be asked by processes, which a test does not
start unless it is allowed to.
"""

import pytest

NAS = {
    **{"path": "/mnt/nas", "source": "nas:/export", "kind": "nfs4", "read_only": False},
    **{"total": None, "used": None, "free": None, "problem": "silent"},
}


@pytest.fixture(autouse=True)
def mounts(world):
    return world.fake("mounts", returns=[NAS])


def report(run):
    return (run.workdir / "inventory.md").read_text()


async def test_report_has_all_parts(world):
    run = await world.run("report")
    run.assert_succeeded()
    assert run.result["missing"] == []
    assert "## Network interfaces\n" in report(run)


async def test_mount_that_does_not_answer_is_named(world):
    run = await world.run("report")
    assert run.result["unread_mounts"] == ["/mnt/nas"]
    assert "nas:/export | nfs4 |  |  |  |  | silent |" in report(run)


async def test_part_that_cannot_be_read_is_said_and_the_others_are_there(world):
    world.fake("memory", raises=PermissionError("/proc is not for you"))
    run = await world.run("report")
    run.assert_succeeded()
    assert (run.result["missing"], run.result["memory_bytes"]) == (["memory"], None)
    assert "## Memory\n\nCould not be read: PermissionError: /proc is not for you\n" in report(run)
    assert run.result["threads"] > 0


async def test_part_that_hangs_is_given_up(world):
    world.fake("disks", returns=[], takes="1h")
    run = await world.run("report")
    run.assert_succeeded()
    run.assert_steps(disks="timed_out", render="succeeded")
    assert run.result["missing"] == ["disks"]


async def test_report_that_cannot_be_written_fails_the_run_and_says_so(world):
    world.fake("file.write", raises=OSError("No space left on device"))
    run = await world.run("report")
    run.assert_state("failed")
    assert "there is no complete inventory: No space left on device" in [line["message"] for line in run.logs("error")]


async def test_copy_goes_where_it_is_wanted(world, tmp_path):
    run = await world.run("report", inputs={"target": str(tmp_path / "machine.md")})
    run.assert_succeeded()
    assert run.result["report"] == str(tmp_path / "machine.md")
    assert (tmp_path / "machine.md").read_text() == report(run)


async def test_there_is_a_report_each_monday(world):
    world.begin("2027-01-01T00:00:00Z")  # a Friday
    await world.advance(days=14)
    assert [run.due for run in world.runs("report")] == ["2027-01-04T06:00:00+00:00", "2027-01-11T06:00:00+00:00"]
    world.assert_all_succeeded()
