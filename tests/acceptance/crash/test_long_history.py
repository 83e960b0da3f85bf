"""A killed server with a long history is back soon."""

from pathlib import Path

from tests.acceptance.crash import mix, past
from tests.acceptance.crash.life import START_TIME, Server, open_server
from tests.fakes.served import write_plans

#: Seconds within which it is ready. It takes 1 s on a machine that does nothing else; the rest is for those that do.
READY_WITHIN = 10.0


def ready_of(server: Server) -> float:
    with server.killed_after(START_TIME):
        assert server.wait_ready()
    assert server.ready_s is not None
    return server.ready_s


def test_server_with_a_hundred_thousand_events_is_back_soon(tmp_path: Path) -> None:
    write_plans(tmp_path, mix.plan_files(tmp_path))
    past.make_history(tmp_path, events=100_000)
    with open_server(tmp_path) as server:
        ready_of(server)
        server.process.kill()
    with open_server(tmp_path, fresh=True) as server:
        took = ready_of(server)
    print(f"ready after {took:.2f} s")
    assert took < READY_WITHIN
