"""The loop goes on, whatever a child raises."""

import asyncio
import logging
import signal
import threading

import pytest

from aura.eventloop import StayingLoop

EXITS = [SystemExit(3), KeyboardInterrupt()]


@pytest.mark.usefixtures("sigint_is_handled")
@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
def test_exit_of_a_child_is_its_awaiters_and_the_loop_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    beside: list[str] = []

    async def leave() -> None:
        raise error

    async def another() -> None:
        await asyncio.sleep(0.001)
        beside.append("went on")

    async def main() -> BaseException | None:
        other = asyncio.ensure_future(another())
        caught: BaseException | None = None
        try:
            await asyncio.ensure_future(leave())
        except BaseException as raised:
            caught = raised
        await other
        return caught

    loop = StayingLoop()
    with caplog.at_level(logging.ERROR):
        assert loop.run_until_complete(main()) is error
    assert beside == ["went on"]
    assert "wanted to leave the event loop" in caplog.text
    loop.close()


def test_ctrl_c_comes_out_where_nobody_handles_it() -> None:
    async def leave() -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        await asyncio.ensure_future(leave())

    loop = StayingLoop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main())
    loop.close()


def test_exit_of_the_main_coroutine_comes_out() -> None:
    async def main() -> None:
        raise SystemExit(3)

    loop = StayingLoop()
    with pytest.raises(SystemExit):
        loop.run_until_complete(main())
    loop.close()


def test_interrupt_of_a_child_stays_inside_a_loop_in_a_thread() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    went_on: list[bool] = []

    async def child() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await asyncio.create_task(child())
        went_on.append(True)

    def run() -> None:
        with asyncio.Runner(loop_factory=StayingLoop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert went_on == [True]
