"""File triggers: what is told of changed files, once each, over restarts, crashes and folders that come and go."""

import os
import shutil
from pathlib import Path

import anyio
import pytest
from tests.fakes.kernel import FaultyBackend
from tests.scheduling.schedule_kit import Lab, crashed, open_lab, schedule

from aura.errors import StoreReadOnly
from aura.scheduling import filewatch
from aura.scheduling.filesets import FilePattern, Look, Sign, look_at
from aura.testing.virtual_time import ThreadGate

pytestmark = pytest.mark.anyio


def watching(spec: str = "", more: str = "") -> str:
    """A schedule with the item ``files``, which looks at the folder ``inbox`` beside the plans."""
    said = f", {spec}" if spec else ""
    return schedule(files=f'{more}triggers: [{{file: {{path: "{{{{ plan.dir }}}}/../../inbox"{said}}}}}]')


ALL = "changes: [added, modified, deleted]"


def inbox(folder: Path, *files: str) -> Path:
    made = folder / "inbox"
    made.mkdir(exist_ok=True)
    for name in files:
        (made / name).write_bytes(os.fsencode(name))
    return made


async def looked(world: Lab, seconds: float = 3.0) -> None:
    """Have it look, and let what it finds settle and be told."""
    world.engine.file_triggers.look()
    await world.advance(seconds)


def told(world: Lab) -> list[list[str]]:
    """What each run was told, as ``change name``."""
    payloads = [run.result["event"]["payload"] for run in world.runs()]
    entries = [payload.get("files", [payload]) for payload in payloads]
    return [[f"{one['change']} {Path(one['path']).name}" for one in some] for some in entries]


async def test_files_that_settle_together_are_one_run_with_their_absolute_paths(tmp_path: Path) -> None:
    folder = inbox(tmp_path)
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        inbox(tmp_path, "a.csv", "b.csv")
        await looked(world)
        [run] = world.runs()
        assert (run.record.cause["kind"], run.record.lane) == ("file", "event")
        assert run.result["event"]["name"] == "file.changed"
        assert run.result["event"]["payload"]["files"] == [
            {"path": str(folder / name), "change": "added"} for name in ("a.csv", "b.csv")
        ]
        await looked(world, 60)
        assert len(world.runs()) == 1


async def test_what_lies_there_at_first_is_not_told_but_its_next_change_is(tmp_path: Path) -> None:
    inbox(tmp_path, "old.csv")
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        os.utime(inbox(tmp_path) / "old.csv", ns=(1, 1))
        await looked(world)
        assert told(world) == [["modified old.csv"]]


async def test_what_changes_while_nobody_is_there_is_told_once(tmp_path: Path) -> None:
    folder = inbox(tmp_path, "kept", "changed", "gone")
    async with open_lab(tmp_path, items=watching(ALL)) as world:
        await looked(world)
        left = crashed(world)
    (folder / "gone").unlink()
    (folder / "changed").write_text("other than before")
    inbox(tmp_path, "new")
    for _ in range(2):
        async with open_lab(tmp_path, write=False, backend=left) as world:
            await looked(world)
            assert told(world) == [["deleted gone", "modified changed", "added new"]]
            left = crashed(world)


async def test_stopped_engine_tells_at_its_start(tmp_path: Path) -> None:
    inbox(tmp_path)
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        await world.engine.stop("cancel", 1.0)
        inbox(tmp_path, "new")
        await looked(world)
        assert told(world) == []
        await world.engine.start()
        await world.advance(3)
        assert told(world) == [["added new"]]


async def test_file_is_told_when_its_writer_has_been_quiet(tmp_path: Path) -> None:
    file = inbox(tmp_path) / "slow.csv"
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        for _ in range(10):
            with file.open("a") as writer:
                writer.write("a line\n")
            await looked(world, 0.4)
            assert told(world) == []
        await world.advance(1)
        assert told(world) == [["added slow.csv"]]


async def test_each_is_a_run_for_each_file(tmp_path: Path) -> None:
    folder = inbox(tmp_path)
    async with open_lab(tmp_path, items=watching("each: true, pattern: '*.csv'")) as world:
        await looked(world)
        for number, name in enumerate(["z.csv", "a.csv", "no.txt"]):
            inbox(tmp_path, name)
            os.utime(folder / name, (number, number))
        await looked(world)
        payloads = [run.result["event"]["payload"] for run in world.runs()]
        assert payloads == [{"path": str(folder / name), "change": "added"} for name in ("z.csv", "a.csv")]


async def test_changes_that_are_not_wanted_are_known(tmp_path: Path) -> None:
    folder = inbox(tmp_path, "a", "b")
    async with open_lab(tmp_path, items=watching("changes: [added]")) as world:
        await looked(world)
        (folder / "a").unlink()
        (folder / "b").write_text("longer than before")
        await looked(world)
        assert told(world) == []
        inbox(tmp_path, "a")
        await looked(world)
        assert told(world) == [["added a"]]


@pytest.mark.parametrize(
    ("more", "reason", "detail"),
    [
        ("enabled: false, ", "disabled", "it is switched off; 2 files in"),
        ("cooldown: 1h, ", "cooldown", "/inbox/a and 1 more files"),
        ("inputs: {day: '{{ event.payload.nothing.here }}'}, ", "bad_inputs", "/inbox/a and 1 more files"),
    ],
    ids=lambda value: value.split(":")[0],
)
async def test_what_starts_nothing_is_a_line_and_is_not_told_again(
    tmp_path: Path, more: str, reason: str, detail: str
) -> None:
    inbox(tmp_path)
    async with open_lab(tmp_path, items=watching(ALL, more)) as world:
        await looked(world)
        if reason == "cooldown":
            inbox(tmp_path, "first")
            await looked(world)
        before = len(world.runs())
        inbox(tmp_path, "a", "b")
        await looked(world)
        [line] = world.unstarted()
        assert (line.reason, len(world.runs())) == (reason, before)
        assert detail in line.detail
        await world.rewrite(tmp_path, items=watching(ALL))
        await looked(world)
        assert len(world.runs()) == before
        left = crashed(world)
    async with open_lab(tmp_path, write=False, backend=left) as world:
        await looked(world)
        assert len(world.runs()) == before


async def test_when_is_asked_of_the_files(tmp_path: Path) -> None:
    inbox(tmp_path)
    items = watching("each: true").replace("}}]", "}, when: \"{{ event.payload.path is endswith('.csv') }}\"}]")
    items = items.replace(" is endswith('.csv')", "[-4:] == '.csv'")
    async with open_lab(tmp_path, items=items) as world:
        await looked(world)
        inbox(tmp_path, "a.csv", "b.txt")
        await looked(world)
        assert (told(world), world.reasons()) == ([["added a.csv"]], ["condition_false"])


@pytest.mark.parametrize(
    ("spec", "target", "runs"),
    [
        pytest.param("", "inbox/out.csv", None, id="circle"),
        pytest.param("", "elsewhere/out.csv", 1, id="elsewhere"),
        pytest.param("pattern: '*.csv'", "inbox/out.txt", 1, id="another-pattern"),
        pytest.param("changes: [added]", "inbox/out.csv", 2, id="added-alone"),
    ],
)
async def test_circle_of_files_ends_by_what_the_docs_advise(
    tmp_path: Path, spec: str, target: str, runs: int | None
) -> None:
    written = '{path: "{{ plan.dir }}/../../' + target + '", content: "{{ run.cid }}"}'
    writes = f"steps: {{only: {{action: file.write, params: {written}}}}}"
    async with open_lab(tmp_path, items=watching(spec, "task: writes, "), writes=writes) as world:
        world.allow(str(tmp_path))
        inbox(tmp_path)
        await looked(world)
        inbox(tmp_path, "first.csv")
        for _ in range(6):
            await looked(world)
        found = [run.state for run in world.runs("writes")]
        assert set(found) == {"succeeded"}
        assert len(found) == runs if runs is not None else len(found) > 10


async def test_folder_that_is_away_takes_none_of_its_files_with_it(tmp_path: Path) -> None:
    folder, away = inbox(tmp_path, "a", "b"), tmp_path / "away"
    async with open_lab(tmp_path, items=watching(ALL)) as world:
        await looked(world)
        folder.rename(away)
        await looked(world, 60)
        live = world.item("files")
        assert str(world.engine.file_triggers.trouble(live)).endswith("/inbox: it is not there")
        away.rename(folder)
        (folder / "a").unlink()
        inbox(tmp_path, "c")
        await looked(world)
        assert told(world) == [["deleted a", "added c"]]
        assert world.engine.file_triggers.trouble(live) is None
        assert world.engine.file_triggers.shown(live)[0]["files"] == 2


async def test_folder_that_comes_after_the_server_is_told_whole(tmp_path: Path) -> None:
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        inbox(tmp_path, "a")
        await looked(world)
        shutil.rmtree(tmp_path / "inbox")
        await looked(world)
        (inbox(tmp_path) / "a").write_text("another a")
        await looked(world)
        assert told(world) == [["added a"], ["modified a"]]


async def test_names_are_data(tmp_path: Path) -> None:
    odd = {"{{ 7 * 7 }}": "{{ 7 * 7 }}", "a\nb": "a\nb", os.fsdecode(b"caf\xe9"): "caf\\xe9", "ü": "ü"}
    inbox(tmp_path)
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        inbox(tmp_path, *odd)
        await looked(world)
        left = crashed(world)
        assert {entry.removeprefix("added ") for entry in told(world)[0]} == set(odd.values())
    async with open_lab(tmp_path, write=False, backend=left) as world:
        await looked(world)
        assert len(told(world)) == 1


async def test_reload_goes_on_with_what_was_settling_and_takes_another_folder(tmp_path: Path) -> None:
    inbox(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "lies there").write_text("")
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        inbox(tmp_path, "a")
        await looked(world, 0.3)
        files, live = world.engine.file_triggers, world.item("files")
        watches = files.of(live)
        await world.rewrite(tmp_path, items=watching("each: true"))
        assert files.of(live) == watches
        await world.advance(3)
        assert world.runs()[0].result["event"]["payload"]["change"] == "added"
        await world.rewrite(tmp_path, items=watching().replace("inbox", "other"))
        assert [watch.scope.cancel_called for watch in (*watches, *files.of(live))] == [True, False]
        await looked(world)
        (other / "b").write_text("")
        inbox(tmp_path, "c")
        await looked(world)
        assert told(world) == [["added a"], ["added b"]]


async def test_item_that_comes_back_is_told_what_it_has_missed(tmp_path: Path) -> None:
    inbox(tmp_path)
    async with open_lab(tmp_path, items=watching()) as world:
        await looked(world)
        inbox(tmp_path, "a")
        await looked(world)
        await world.rewrite(tmp_path, items="items: {}")
        inbox(tmp_path, "b")
        await looked(world)
        await world.rewrite(tmp_path, items=watching())
        await looked(world)
        assert told(world) == [["added a"], ["added b"]]


async def test_path_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    items = schedule(files="triggers: [{file: {path: '{{ vars.inbox }}'}}]")
    async with open_lab(tmp_path, items=items, plan="vars: {inbox: 5}") as world:
        trouble = world.engine.file_triggers.trouble(world.item("files"))
        assert trouble == "the path of its files cannot be made: a path is needed, not 5"


async def test_what_cannot_be_stored_is_told_later_once(tmp_path: Path) -> None:
    inbox(tmp_path)
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=watching(), backend=backend) as world:
        await looked(world)
        inbox(tmp_path, "a")
        await looked(world, 0.3)
        backend.error, backend.failing = StoreReadOnly("no"), 4
        await world.advance(1)
        assert told(world) == []
        assert "nothing can be stored" in str(world.engine.file_triggers.trouble(world.item("files")))
        await world.advance(30)
        assert told(world) == [["added a"]]


async def test_engine_that_is_stopped_while_it_tells_tells_nothing_twice(tmp_path: Path) -> None:
    inbox(tmp_path)
    backend = FaultyBackend()
    async with open_lab(tmp_path, items=watching(), backend=backend) as world:
        await looked(world)
        inbox(tmp_path, "a")
        await looked(world, 0.3)
        backend.gate = anyio.Event()
        await world.advance(1)
        world.engine.request_stop("cancel", 0.1)
        await world.advance(3)
        await world.engine.start()
        await world.rewrite(tmp_path, items="items: {}")
        await world.rewrite(tmp_path, items=watching())
        backend.gate.set()
        await looked(world)
        assert told(world) == [["added a"]]


async def test_folder_that_hangs_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hanging, hung = ThreadGate(), str(inbox(tmp_path).parent / "hangs"), []

    def look(root: str, pattern: FilePattern, known: dict[str, Sign]) -> Look:
        if root == hanging:
            hung.append(root)
            gate.wait()
        return look_at(root, pattern, known)

    monkeypatch.setattr(filewatch, "look_at", look)
    monkeypatch.setattr(filewatch, "LONGEST_LOOK", 0.2)
    monkeypatch.setattr(filewatch, "AGAIN", 0.2)
    monkeypatch.setattr("aura.testing.holding.PATIENCE", 0.1)  # real seconds: the thread that hangs holds the time
    items = f"{watching()}  stuck: {{task: work, triggers: [{{file: {{path: {hanging}}}}}]}}\n"
    async with open_lab(tmp_path, items=items) as world:
        await world.until(lambda: "does not answer" in str(world.engine.file_triggers.trouble(world.item("stuck"))))
        inbox(tmp_path, "a")
        world.engine.file_triggers.look()
        await world.until(lambda: [run.state for run in world.runs()] == ["succeeded"])
        assert (hung, list(world.engine.runtime.faults)) == ([hanging], [])
        gate.open()
        await world.until(lambda: "it is not there" in str(world.engine.file_triggers.trouble(world.item("stuck"))))
