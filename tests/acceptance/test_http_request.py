"""``http.request`` in a real server: not to the server itself, whatever it is called, and without its token."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.fakes.answering import Answering, answer, open_answering
from tests.fakes.real import Real, open_real

ASK = """\
inputs: {url: string}
steps:
  ask: {action: http.request, params: {url: "{{ inputs.url }}", ok_status: [100..599]}}
returns: "{{ steps.ask.output.text }}"
"""


async def asked(real: Real, url: str) -> Any:
    """The record of a run that has asked this URL."""
    cid = (await real.run("ask", inputs={"url": url}, labels={})).json()["cid"]
    await real.events(cid)
    return await real.get(f"/api/runs/{cid}")


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    (tmp_path / "plans/lab/tasks").mkdir(parents=True)
    (tmp_path / "plans/lab/tasks/ask.yaml").write_text(ASK)
    return tmp_path


async def test_server_does_not_ask_itself(plans: Path) -> None:
    async with open_real(plans) as real:
        port = urlsplit(real.server.address).port
        hosts = ["127.0.0.1", "localhost", "2130706433", "127.1", "[::1]", "[::ffff:127.0.0.1]"]
        async with open_answering({"/": answer(302, "", f"Location: http://127.0.0.1:{port}/livez")}) as other:
            for url in (*(f"http://{host}:{port}/livez" for host in hosts), other.url()):
                record = await asked(real, url)
                assert (record["state"], record["error"]["type"]) == ("failed", "AddressRefused"), url
                assert "this Aura server itself" in record["error"]["message"]


async def test_other_servers_of_this_machine_are_asked_without_the_token(
    plans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_answering({"/": answer(200, "here")}) as other, open_real(plans) as real:
        token = (plans / "data/token").read_text().strip()
        monkeypatch.setenv("AURA_TOKEN", token)
        assert (await asked(real, other.url()))["result"] == "here"
        assert sent(other).isdisjoint({token, f"Bearer {token}"})
        assert token not in " ".join(sent(other))


def sent(server: Answering) -> set[str]:
    """All that a server was told in headers, and the targets."""
    return {text for heard in server.heard for text in (heard.target, *heard.headers, *heard.headers.values())}


async def test_url_of_a_request_is_in_no_log(plans: Path) -> None:
    async with open_answering({"/": answer(503, "later")}) as other, open_real(plans) as real:
        url = other.url("/?key=hidden-key").replace("//", "//me:hidden-word@")
        assert (await asked(real, url))["result"] == "later"
        lines = (await real.http.get("/api/runs")).text
        cid = (await real.get("/api/runs"))["items"][0]["cid"]
        told = (await real.http.get(f"/api/runs/{cid}/logs")).text + lines
    assert "hidden" not in told
