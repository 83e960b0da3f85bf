"""``http.request`` in a run: time-outs and stops in virtual time, and how long a server may ask to be left alone.

Nothing is sent: the name of the server is being looked up for ever, which is as far as a request gets here.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.kit import opened, step, task, until

from aura.builtin import http
from aura.builtin.addresses import RESOLVE
from aura.context import Context
from aura.duration import Duration
from aura.errors import HttpFailed
from aura.lifecycle import Stop


class Endless:
    """A resolver that never answers, and notes how many wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        self.waiting += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.waiting -= 1
        raise AssertionError


@pytest.fixture
async def names() -> AsyncIterator[Endless]:
    endless = Endless()
    token = RESOLVE.set(endless)
    yield endless
    RESOLVE.reset(token)


async def fetch(timeout: float = 30.0) -> Any:
    return await http.request("http://server.test/x?key=hidden", timeout=Duration(timeout))


async def test_request_ends_by_its_own_timeout(tmp_path: Path, names: Endless) -> None:
    async with opened(tmp_path, task("t", step("a", fetch))) as kit:
        began = anyio.current_time()
        record = await kit.record("t")
        assert (record.state, round(anyio.current_time() - began)) == ("failed", 30)
        assert record.error is not None
        assert record.error["type"] == "TimeoutError"
        assert record.error["message"] == "GET http://server.test/x: there was no whole answer within 30 s"
        assert names.waiting == 0


@pytest.mark.parametrize(
    ("keys", "of_step", "state"),
    [
        pytest.param({"timeout": 5.0}, {}, "timed_out", id="of the run"),
        pytest.param({}, {"timeout": 5.0}, "failed", id="of the step"),
    ],
)
async def test_nearer_timeout_cuts_it_off(tmp_path: Path, names: Endless, keys: Any, of_step: Any, state: str) -> None:
    async with opened(tmp_path, task("t", step("a", fetch, **of_step), **keys)) as kit:
        began = anyio.current_time()
        assert (await kit.record("t")).state == state
        assert round(anyio.current_time() - began, 1) == 5
        assert names.waiting == 0


@pytest.mark.parametrize("stop", [Stop.CANCEL, Stop.INTERRUPT])
async def test_stop_cuts_it_off_at_once(tmp_path: Path, names: Endless, stop: Stop) -> None:
    async with opened(tmp_path, task("t", step("a", fetch))) as kit:
        run = await kit.begin_run("t")
        await until(lambda: names.waiting)
        began = anyio.current_time()
        kit.stop(run, stop)
        await until(lambda: run.state in ("cancelled", "preempted"))
        assert (names.waiting, anyio.current_time() - began) == (0, 0)


async def test_timeout_is_tried_again_by_its_name(tmp_path: Path, names: Endless) -> None:
    retry = {"attempts": 3, "errors": frozenset({"TimeoutError"})}
    async with opened(tmp_path, task("t", step("a", fetch, retry=retry))) as kit:
        assert (await kit.record("t")).state == "failed"
        assert names.asked == 3


# -- Retry-After


@pytest.mark.parametrize(
    ("asked", "retry", "wait"),
    [
        pytest.param(None, {"delay": 2.0}, 2, id="nothing asked"),
        pytest.param(7.0, {}, 7, id="asked"),
        pytest.param(7.5, {"delay": 2.0}, 7.5, id="asked for more than the delay"),
        pytest.param(7.0, {"delay": 9.0}, 9, id="asked for less than the delay"),
        pytest.param(0.0, {"delay": 2.0}, 2, id="asked for nothing"),
        pytest.param(700.0, {"max_delay": 30.0}, 30, id="asked for more than may be"),
        pytest.param(700.0, {"delay": 60.0, "max_delay": 30.0}, 30, id="both for more than may be"),
        pytest.param(1e9, {}, 3600, id="asked for ever"),
        pytest.param(7.0, {"delay": 1.0, "max_delay": 30.0, "jitter": True}, 7, id="without jitter"),
    ],
)
async def test_wait_is_what_the_server_asks_for_up_to_max_delay(
    tmp_path: Path, asked: float | None, retry: dict[str, Any], wait: float
) -> None:
    at: list[float] = []

    async def act() -> None:
        at.append(anyio.current_time())
        if len(at) == 1:
            raise HttpFailed("GET http://server.test/: 503", 503, asked)

    async with opened(tmp_path, task("t", step("a", act, retry={"attempts": 2, **retry}))) as kit:
        assert (await kit.record("t")).state == "succeeded"
    assert [round(after - before, 3) for before, after in itertools.pairwise(at)] == [wait]


@pytest.mark.parametrize(
    ("asked", "state", "takes"),
    [
        pytest.param(0.9, "failed", 0, id="less than a second, which the run has not"),
        pytest.param(60.0, "succeeded", 60, id="longer: the run waits, and its time rests"),
    ],
)
async def test_wish_of_the_server_and_the_time_of_the_run(
    tmp_path: Path, asked: float, state: str, takes: float
) -> None:
    async def act(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise HttpFailed("GET http://server.test/: 429", 429, asked)

    async with opened(tmp_path, task("t", step("a", act, retry={"attempts": 2}), timeout=0.8)) as kit:
        began = anyio.current_time()
        record = await kit.record("t")
        assert (record.state, round(anyio.current_time() - began, 3)) == (state, takes)
        assert record.error is None or (record.error["type"], "retry_after" in record.error) == ("HttpFailed", False)
