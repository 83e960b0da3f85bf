"""Where ``http.request`` may go: addresses that are refused, however they are written and whatever leads there.

Nothing here asks for a name outside, and nothing connects to another machine: what is refused is refused before.
"""

import gc
import shutil
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from tests.fakes.answering import answer, open_answering
from tests.fakes.context import Bench

from aura.builtin import shipped
from aura.builtin.addresses import METADATA, RESOLVE, addresses_of, listening, why_refused
from aura.builtin.exchange import MAX_REDIRECTS, TRUST
from aura.errors import AddressRefused, HttpFailed

CLOUD = "link-local"
NOBODY = "not the address of one machine"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, shipped())


@contextmanager
def names(known: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[list[str]]:
    """Resolve these names and no others: each gives its answers one after the other, then the last again and again."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if host not in known:
            return [str(ip_address(host))]
        answers = known[host]
        return answers[min(asked.count(host), len(answers)) - 1]

    token = RESOLVE.set(resolve)
    try:
        yield asked
    finally:
        RESOLVE.reset(token)


@contextmanager
def own_server() -> Iterator[int]:
    """A port at which Aura says that it listens, though nobody does: nothing may come so far as to notice."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with listening([bound]):
            yield bound.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("169.254.169.254", CLOUD, id="metadata"),
        pytest.param("169.254.0.1", CLOUD, id="link-local"),
        pytest.param("fe80::1", CLOUD, id="link-local IPv6"),
        pytest.param("fe80::1%1", CLOUD, id="link-local IPv6 with a zone"),
        pytest.param("fd00:ec2::254", CLOUD, id="metadata IPv6"),
        pytest.param("100.100.100.200", CLOUD, id="metadata of another cloud"),
        pytest.param("::ffff:169.254.169.254", CLOUD, id="mapped"),
        pytest.param("::169.254.169.254", CLOUD, id="compatible"),
        pytest.param("64:ff9b::a9fe:a9fe", CLOUD, id="by NAT64"),
        pytest.param("2002:a9fe:a9fe::1", CLOUD, id="by 6to4"),
        pytest.param("0.0.0.0", NOBODY, id="unspecified"),
        pytest.param("0.1.2.3", NOBODY, id="this network"),
        pytest.param("::", NOBODY, id="unspecified IPv6"),
        pytest.param("::ffff:0.0.0.0", NOBODY, id="unspecified, mapped"),
        pytest.param("224.0.0.1", NOBODY, id="multicast"),
        pytest.param("ff02::1", NOBODY, id="multicast IPv6"),
        pytest.param("255.255.255.255", NOBODY, id="broadcast"),
    ],
)
def test_address_is_refused(address: str, reason: str) -> None:
    assert reason in (why_refused(address, 80) or "")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "fd12::1", "100.64.0.1", "192.0.2.1"]
)
def test_private_and_public_addresses_are_allowed(address: str) -> None:
    assert why_refused(address, 80) is None


def test_each_metadata_address_is_refused() -> None:
    assert all(CLOUD in (why_refused(str(address), 80) or "") for address in METADATA)
    assert all(CLOUD in (why_refused(f"{address}%1", 80) or "") for address in METADATA if address.version == 6)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f.1", "017700000001", "127.0.0.2"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    ],
)
async def test_aura_itself_is_refused_whatever_it_is_called(bench: Bench, host: str) -> None:
    with own_server() as port, pytest.raises(AddressRefused, match=r"Aura server itself"):
        await bench.call("http.request", url=f"http://{host}:{port}/api/runs")


async def test_aura_is_refused_by_each_address_of_this_machine() -> None:
    with own_server() as port:
        assert "itself" in (why_refused("127.0.0.1", port) or "")
        assert why_refused("192.0.2.1", port) is None  # another machine's, by RFC 5737 nobody's
        assert why_refused("127.0.0.1", port - 1 or 1) is None
    assert why_refused("127.0.0.1", port) is None  # it has stopped


async def test_two_listeners_at_one_port_end_one_after_the_other() -> None:
    with own_server() as port, socket.socket(socket.AF_INET6) as second:
        second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        second.bind(("::1", port))
        with listening([second]):
            pass
        assert why_refused("127.0.0.1", port) is not None


async def test_socket_of_a_path_has_no_port(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        with listening([bound]):
            assert why_refused("127.0.0.1", 80) is None


# -- names


async def test_name_is_refused_if_one_of_its_addresses_is(bench: Bench) -> None:
    refusal = pytest.raises(AddressRefused, match=r"two.test \(169.254.169.254\) port 80 is refused")
    with names({"two.test": [["127.0.0.1", "169.254.169.254"]]}), refusal:
        await bench.call("http.request", url="http://two.test/")


async def test_name_is_asked_for_once_and_what_was_checked_is_connected_to(bench: Bench) -> None:
    async with open_answering({"/": answer(200, "here")}) as server:
        with names({"rebound.test": [["127.0.0.1"], ["169.254.169.254"]]}) as asked:
            found = await bench.call("http.request", url=server.url("/", "rebound.test"))
        assert (found["text"], asked) == ("here", ["rebound.test"])
        assert server.heard[0].headers["host"] == f"rebound.test:{server.port}"


async def test_next_address_is_tried_when_one_does_not_answer(bench: Bench) -> None:
    async with open_answering({"/": answer(200, "here")}) as server:
        with names({"two.test": [["::1", "127.0.0.1"]]}):
            assert (await bench.call("http.request", url=server.url("/", "two.test")))["text"] == "here"


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), OSError("no network")])
async def test_name_that_means_nothing_is_a_connection_error(bench: Bench, error: OSError) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    token = RESOLVE.set(resolve)
    with pytest.raises(ConnectionError, match=r"the name nowhere.test cannot be resolved: (Name|no)"):
        await bench.call("http.request", url="http://nowhere.test/")
    RESOLVE.reset(token)


async def test_name_without_an_address_is_a_connection_error() -> None:
    with names({"empty.test": [[]]}), pytest.raises(ConnectionError, match="has no address"):
        await addresses_of("empty.test", 80)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
async def test_name_that_cannot_be_one_is_an_error_of_ours(bench: Bench, host: str) -> None:
    with pytest.raises((ConnectionError, ValueError), match=r"resolved|url"):
        await bench.call("http.request", url=f"http://{host}/")


# -- redirects


def redirect(to: str, status: int = 302) -> bytes:
    return answer(status, "elsewhere", f"Location: {to}")


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        pytest.param("http://169.254.169.254/latest/meta-data", AddressRefused, CLOUD, id="to metadata"),
        pytest.param("http://meta.test/", AddressRefused, CLOUD, id="to a name of metadata"),
        pytest.param("//[fe80::1]/", AddressRefused, CLOUD, id="without a scheme"),
        pytest.param("http://0/", AddressRefused, NOBODY, id="to 0"),
        pytest.param("file:///etc/passwd", HttpFailed, "no url of a web server", id="to a file"),
        pytest.param("gopher://127.0.0.1/", HttpFailed, "no url of a web server", id="to another scheme"),
        pytest.param("http://", HttpFailed, f"more than {MAX_REDIRECTS} redirects", id="to nobody, which is itself"),
        pytest.param("http://[::1/", HttpFailed, "what is no url", id="to what is no url"),
        pytest.param("/" + "x" * 9000, HttpFailed, "no url of a web server", id="far too long"),
        pytest.param("/", HttpFailed, f"more than {MAX_REDIRECTS} redirects", id="to itself"),
    ],
)
async def test_redirect_is_checked(bench: Bench, to: str, error: type[Exception], message: str) -> None:
    async with open_answering({"/": redirect(to)}) as server:
        with names({"meta.test": [["169.254.169.254"]], "0": [["0.0.0.0"]]}), pytest.raises(error, match=message):
            await bench.call("http.request", url=server.url())
        assert len(server.heard) == (MAX_REDIRECTS + 1 if "redirects" in message else 1)


async def test_redirect_to_aura_itself_is_refused(bench: Bench) -> None:
    with own_server() as port:
        async with open_answering({"/": redirect(f"http://localhost:{port}/api/system/stop", 307)}) as server:
            with pytest.raises(AddressRefused, match="itself"):
                await bench.call("http.request", url=server.url(), method="POST", json={})


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "DELETE", "DELETE"),
    ],
)
async def test_redirect_keeps_the_method_or_asks_again(bench: Bench, status: int, method: str, then: str) -> None:
    says = {"/a/b": redirect("../c?x=1#part", status), "/c": answer(200, "there")}
    async with open_answering(says) as server:
        given = {"X-Key": "k", "Content-Type": "text/x"}
        await bench.call("http.request", url=server.url("/a/b"), method=method, body="body", headers=given)
        second = server.heard[1]
    assert (second.method, second.target, second.headers["x-key"]) == (then, "/c?x=1", "k")
    kept = then == method
    assert (second.body, second.headers.get("content-type")) == ((b"body", "text/x") if kept else (b"", None))


async def test_redirects_may_be_as_many_as_are_allowed(bench: Bench) -> None:
    says: dict[str, Any] = {f"/{n}": redirect(f"/{n + 1}") for n in range(MAX_REDIRECTS)}
    async with open_answering({**says, f"/{MAX_REDIRECTS}": answer(200, "there")}) as server:
        assert (await bench.call("http.request", url=server.url("/0")))["text"] == "there"


async def test_redirect_to_another_origin_takes_no_secrets_along(bench: Bench) -> None:
    given = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "k", "Host": "odd.test", "Accept": "a/b"}
    async with open_answering({"/": answer(200, "there")}) as other:
        async with open_answering({"/": redirect(other.url().replace("//", "//user:pw@"))}) as server:
            await bench.call("http.request", url=server.url(), headers=given)
            first = server.heard[0].headers
        second = other.heard[0].headers
    assert {name.lower(): value for name, value in given.items()}.items() <= first.items()
    assert second.keys() == {"host", "accept", "accept-encoding", "user-agent"}
    assert (second["host"], second["accept"]) == (f"127.0.0.1:{other.port}", "a/b")


async def test_user_and_password_stay_with_their_origin(bench: Bench) -> None:
    async with open_answering({"/": answer()}) as other:
        says = {"/": redirect("/again"), "/again": redirect(other.url())}
        async with open_answering(says) as server:
            await bench.call("http.request", url=f"http://me:pw@127.0.0.1:{server.port}/")
            assert [heard.headers.get("authorization") for heard in server.heard] == ["Basic bWU6cHc="] * 2
        assert "authorization" not in other.heard[0].headers


# -- TLS


async def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of the name good.test shows, and what trusts it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=good.test -out {cert} -keyout {key}"
    await anyio.run_process([*made.split(), "-addext", "subjectAltName=DNS:good.test"])
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(cert, key)
    return shown, ssl.create_default_context(cafile=str(cert))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this test")
async def test_certificate_is_that_of_the_name_and_trusted(bench: Bench, tmp_path: Path) -> None:
    shown, trust = await certificate(tmp_path)
    asked_for: list[str | None] = []
    shown.sni_callback = lambda _, name, __: asked_for.append(name)
    token = TRUST.set(trust)
    with names({"good.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}):
        async with open_answering({"/": answer(200, "safe")}, shown) as server:
            assert (await bench.call("http.request", url=server.url("/", "good.test", "https")))["text"] == "safe"
            with pytest.raises(ConnectionError, match="certificate verify failed: Hostname mismatch"):
                await bench.call("http.request", url=server.url("/", "other.test", "https"))
            TRUST.reset(token)
            with pytest.raises(ConnectionError, match="certificate verify failed: self"):
                await bench.call("http.request", url=server.url("/", "good.test", "https"))
    assert asked_for == ["good.test", "other.test", "good.test"]
    assert len(server.heard) == 1


async def test_tls_where_none_is_spoken_is_a_connection_error(bench: Bench) -> None:
    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer(400))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        url = f"https://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        with anyio.fail_after(20), pytest.raises(ConnectionError, match=url):
            await bench.call("http.request", url=url)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("by", ["timeout", "stop"])
async def test_handshake_that_is_cut_off_leaves_no_connection(bench: Bench, by: str) -> None:
    """The connection is closed by us, not by the collector of garbage: else a warning fails the test."""
    reached, closed = anyio.Event(), anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()  # the beginning of the handshake, which is not answered
            reached.set()
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
            closed.set()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        url = f"https://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        with anyio.CancelScope() as scope, suppress(TimeoutError):
            group.start_soon(_cancel_when, reached if by == "stop" else anyio.Event(), scope)
            await bench.call("http.request", url=url, timeout="500ms" if by == "timeout" else "20s")
        with anyio.fail_after(20):
            await closed.wait()
        group.cancel_scope.cancel()
    gc.collect()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
