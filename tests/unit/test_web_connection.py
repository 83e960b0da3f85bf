"""The inbox between a connection and its application."""

import anyio
import pytest

from aura.web.connection import Inbox


def part(data: bytes) -> dict[str, object]:
    return {"type": "http.request", "body": data, "more_body": True}


GONE: dict[str, object] = {"type": "http.disconnect"}


async def put(inbox: Inbox, *messages: dict[str, object]) -> None:
    for message in messages:
        await inbox.put(message)  # type: ignore[arg-type]


async def test_messages_come_in_order_and_the_disconnect_last_and_for_ever() -> None:
    inbox = Inbox(5)
    await put(inbox, part(b"a"), part(b"b"), GONE)
    assert [await inbox.get() for _ in range(4)] == [part(b"a"), part(b"b"), GONE, GONE]


async def test_full_inbox_waits_for_room() -> None:
    inbox = Inbox(1)
    await put(inbox, part(b"a"))
    async with anyio.create_task_group() as group:  # the one that puts, which ends when there is room
        group.start_soon(put, inbox, part(b"b"))
        await anyio.wait_all_tasks_blocked()
        assert await inbox.get() == part(b"a")
    assert await inbox.get() == part(b"b")


@pytest.mark.parametrize("how", ["disconnect", "close"])
async def test_who_waits_for_room_is_let_go_at_the_end(how: str) -> None:
    inbox = Inbox(1)
    await put(inbox, part(b"a"))
    async with anyio.create_task_group() as group:  # the one that puts, which ends with the inbox
        group.start_soon(put, inbox, part(b"b"))
        await anyio.wait_all_tasks_blocked()
        if how == "close":
            inbox.close()
        else:
            await put(inbox, GONE)


async def test_who_waits_for_a_message_gets_it() -> None:
    inbox = Inbox(1)
    got: list[object] = []

    async def take() -> None:
        got.append(await inbox.get())

    async with anyio.create_task_group() as group:  # the one that takes, which ends with its message
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        await put(inbox, part(b"a"))
    assert got == [part(b"a")]


async def test_closed_inbox_throws_away_what_comes() -> None:
    inbox = Inbox(1)
    inbox.close()
    await put(inbox, part(b"a"), part(b"b"), GONE)
    assert await inbox.get() == GONE
