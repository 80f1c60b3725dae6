"""Server-side request forgery: however a caller writes an inside address, nothing connects to it; listeners prove it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import httpcore2
import pytest
import trio

from sentinel.edge.addresses import is_public
from sentinel.edge.urls import authority, parse_url
from sentinel.errors import BadInput, RefusedAddress, SendFailed
from sentinel.job_request import parse_job_request
from sentinel.model import Outgoing
from sentinel.outbound import Outbound, open_outbound
from sentinel.payload import encode_json

# The loopback address and its neighbours as browsers, C libraries and attackers write them. Also what only looks like another host.
HOSTS = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "127.1", "127.0.1", "0"),
    *("0.0.0.0", "00.0.0.0", "2130706433", "017700000001", "0x7f000001", "0X7F000001", "0x7f.1", "0x7f.0x0.0x0.0x1"),  # noqa: S104
    *("0177.0.0.1", "0177.0.0.01", "127.000.000.001", "0000127.0.0.1", "127.0.0.0x1", "4294967296"),
    *("①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.\uff10.\uff10.\uff11"),
    *("127。0。0。1", "127\uff0e0\uff0e0\uff0e1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "loc\u00adalhost"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::]", "[::127.0.0.1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::1%25lo]", "[::1%lo]"),
    *("[fe80::1%1]", "[fe80::1%25eth0]"),
    *("%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.1%00.example.com", "127.0.0.1%2f.example.com"),
    *("[::1", "::1", "[]"),
)  # fmt: skip
# Where a cloud, a cluster or an office keeps what nobody outside should reach.
ADDRESSES = (
    *(
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
    ),
    *("100.64.0.1", "198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"),
    *(
        "240.0.0.1",
        "192.88.99.1",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[2001:db8::1]",
    ),
    *(
        "[3fff::1]",
        "[5f00::1]",
        "[2002:a9fe:a9fe::]",
        "[64:ff9b::169.254.169.254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:10.0.0.1]",
    ),
    *("[2001:10::1]", "[4000::1]"),
)
# URLs in which one parser reads another host than the next one.
CONFUSING = (
    "https://receiver.example\\@127.0.0.1:{port}/",
    "https://receiver.example@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}@receiver.example/",
    "https://receiver.example:443@127.0.0.1:{port}/",
    "https://receiver.example#@127.0.0.1:{port}/",
    "https://receiver.example?@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\\.receiver.example/",
    "https://127.0.0.1:{port}#.receiver.example/",
    "https://receiver.example\t.127.0.0.1:{port}/",
    "https://127.0.0.1\n:{port}/",
    "https://127.0.0.1:{port}\r\nHost: receiver.example/",
    "https:\\\\127.0.0.1:{port}/",
    "https:/127.0.0.1:{port}/",
    "https:127.0.0.1:{port}/",
    "https:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    " https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port} @receiver.example/",
    "HTTPS://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_",
    "unix:/run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "javascript:alert(1)",
    "https://127.0.0.1:0{port}/",
    "https://127.0.0.1:+{port}/",
    "https://127.0.0.1:-1/",
    "https://127.0.0.1:99999/",
    "https://127.0.0.1:/",
    "https://receiver.example:22/",
    "https://receiver.example:25/",
    "http://receiver.example/",
)
# What a name resolves to, answer by answer; each must be refused before anything is connected to.
REBOUND: dict[str, list[list[str]]] = {
    "straight": [["127.0.0.1"]],
    "v6": [["::1"]],
    "mapped": [["::ffff:127.0.0.1"]],
    "NAT64": [["64:ff9b::7f00:1"]],
    "6to4": [["2002:7f00:1::1"]],
    "metadata": [["169.254.169.254"]],
    "zone": [["fe80::1%lo"]],
    "public first": [["93.184.215.14", "127.0.0.1"]],
    "inside first": [["127.0.0.1", "93.184.215.14"]],
    "many": [["93.184.215.14"] * 30 + ["10.0.0.1"]],
    "both kinds": [["2606:4700::1", "127.0.0.1"]],
    "unspecified": [["0.0.0.0"]],  # noqa: S104
    "nothing": [[]],
}

SYSTEM = socket.getaddrinfo
Script = Callable[[trio.SocketStream], Awaitable[None]]


@attrs.define(eq=False)
class Inside:
    """A network that must not be reached: listeners on every loopback address, and a note of each connection that was tried."""

    port: int
    connections: list[str] = attrs.field(factory=list)
    tried: list[str] = attrs.field(factory=list)
    script: Script | None = None

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections.append(stream.socket.getsockname()[0])
        if self.script is not None:
            await self.script(stream)


@pytest.fixture(autouse=True)
def _system_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever name server a test puts in the place of the system's is gone after it."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)


@attrs.define
class Names:
    """A hostile name server: the answers in turn, the last for ever. Numbers are read as the system reads them."""

    answers: list[list[str]]
    asked: int = 0

    def getaddrinfo(self, host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        with suppress(OSError):
            return SYSTEM(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        text = host.decode() if isinstance(host, bytes) else str(host)
        if not text.endswith(".example"):
            return SYSTEM(host, port, *arguments, **options)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kinds = {each: socket.AF_INET6 if ":" in each else socket.AF_INET for each in answer}
        return [(kind, socket.SOCK_STREAM, 6, "", (each, int(port))) for each, kind in kinds.items()]


@pytest.fixture
async def inside(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Listeners on a port of their own and, where that is allowed, on 443 and 8443; every attempt to connect is noted."""
    (first,) = await trio.open_tcp_listeners(0, host="0.0.0.0")  # noqa: S104
    made = Inside(first.socket.getsockname()[1])
    listeners = [first]
    for port, host in [(made.port, "::1"), *((port, host) for port in (443, 8443) for host in ("0.0.0.0", "::1"))]:  # noqa: S104
        with suppress(OSError):
            listeners += await trio.open_tcp_listeners(port, host=host)
    nursery.start_soon(trio.serve_listeners, made.serve, listeners)
    connect = httpcore2.TrioBackend.connect_tcp

    async def noted(self: Any, host: str, port: int, **options: Any) -> Any:
        made.tried.append(host)
        if is_public(host):
            raise httpcore2.ConnectError("there is no internet here")
        return await connect(self, host, port, **options)

    monkeypatch.setattr(httpcore2.TrioBackend, "connect_tcp", noted)
    socket.getaddrinfo = Names([["93.184.215.14"]]).getaddrinfo
    return made


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    async with open_outbound(2.0) as opened:
        yield opened


async def refuse(outbound: Outbound, inside: Inside, url: str) -> None:
    """Send it as a caller's URL: it fails, and nothing that is not public was connected to."""
    with pytest.raises((RefusedAddress, SendFailed)):
        await outbound.send(Outgoing(url, b"{}", guarded=True), (), "tenant")
    assert inside.connections == [], url
    assert all(is_public(address) for address in inside.tried), (url, inside.tried)


def urls() -> list[str]:
    """Every URL of the lists, for every scheme and port that makes a difference."""
    numbers = [
        f"{scheme}://{host}{port}/" for host in HOSTS for scheme, port in (("https", ""), ("https", ":8443"), ("http", ":{port}"))
    ]
    inside = [f"https://{address}/latest/meta-data" for address in ADDRESSES]
    return [*numbers, *inside, *CONFUSING]


async def test_no_url_leads_inside(inside: Inside, outbound: Outbound) -> None:
    """More than 80 ways to write an inside address, each refused, with no connection to any address that is not public."""
    assert len(HOSTS) + len(ADDRESSES) + len(CONFUSING) + len(REBOUND) >= 80
    for url in urls():
        await refuse(outbound, inside, url.replace("{port}", str(inside.port)))


@pytest.mark.parametrize("answers", REBOUND.values(), ids=REBOUND)
async def test_no_name_leads_inside(inside: Inside, outbound: Outbound, answers: list[list[str]]) -> None:
    """A name with an inside address among its answers is refused, on every port and by both schemes."""
    socket.getaddrinfo = Names(answers).getaddrinfo
    for url in ("https://receiver.example/", "https://receiver.example:8443/", f"http://receiver.example:{inside.port}/"):
        await refuse(outbound, inside, url)


async def test_rebinding_between_attempts(inside: Inside, outbound: Outbound) -> None:
    """A name is asked for once an attempt and checked at every attempt: what was public a moment ago may not be any more."""
    names = Names([["93.184.215.14"], ["127.0.0.1"], ["::1"]])
    socket.getaddrinfo = names.getaddrinfo
    for asked in (1, 2, 3):
        await refuse(outbound, inside, "https://receiver.example/")
        assert names.asked == asked
    assert inside.tried == ["93.184.215.14"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "http://[::1]:{port}/", "http://2130706433:{port}/"]
)
async def test_no_redirect_leads_inside(inside: Inside, outbound: Outbound, status: int, where: str) -> None:
    """A receiver that may be reached answers with a redirect to one that may not: the redirect is the answer, and no more."""

    async def redirect(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        location = where.replace("{port}", str(inside.port))
        await stream.send_all(
            f"HTTP/1.1 {status} Go\r\nlocation: {location}\r\nrefresh: 0;url={location}\r\ncontent-length: 0\r\n\r\n".encode()
        )

    inside.script = redirect
    answer = await outbound.send(Outgoing(f"http://127.0.0.9:{inside.port}/", b"{}", guarded=True), ("127.0.0.9/32",), "tenant")
    assert answer.status == status
    assert inside.connections == ["127.0.0.9"]


async def test_the_name_is_kept_where_it_belongs(inside: Inside, outbound: Outbound) -> None:
    """The connection goes to the address that was checked, and the TLS greeting asks for the name (SNI)."""
    greetings: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        greetings.append(await stream.receive_some())

    inside.script = listen
    socket.getaddrinfo = Names([["127.0.0.9"]]).getaddrinfo
    with pytest.raises(SendFailed):
        await outbound.send(Outgoing(f"https://receiver.example:{inside.port}/", b"{}", guarded=True), ("127.0.0.9/32",), "tenant")
    assert inside.tried == ["127.0.0.9"]
    assert b"receiver.example" in greetings[0]


def test_the_job_api_takes_no_url_that_would_never_be_called() -> None:
    """Where the text alone shows that a URL is not read in one way, the caller is told when submitting."""
    refused = 0
    for url in urls():
        given = url.replace("{port}", "8443")
        body = encode_json({"input": "x", "callback_url": given})
        if parse_url(given) is not None:
            assert parse_job_request(body).options["callback_url"] == given
            continue
        with pytest.raises(BadInput, match="callback_url"):
            parse_job_request(body)
        refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://receiver.example", ("https", "receiver.example", 443, "/")),
        ("HTTPS://Receiver.Example:8443/a?b=c", ("https", "receiver.example", 8443, "/a?b=c")),
        ("http://receiver.example?x", ("http", "receiver.example", 80, "/?x")),
        ("https://xn--bcher-kva.example/", ("https", "xn--bcher-kva.example", 443, "/")),
        ("https://a_b.example/", ("https", "a_b.example", 443, "/")),
        ("https://[2606:4700::1]:443/", ("https", "2606:4700::1", 443, "/")),
        ("https://8.8.8.8/", ("https", "8.8.8.8", 443, "/")),
        ("https://1e100.example/", ("https", "1e100.example", 443, "/")),
    ],
)
def test_what_is_a_url(url: str, parts: tuple[str, str, int, str]) -> None:
    """An ordinary URL is read as everybody reads it, and written again it is read the same."""
    target = parse_url(url)
    assert target is not None
    assert (target.scheme, target.host, target.port, target.path) == parts
    assert parse_url(target.url) == target


@pytest.mark.parametrize(
    ("url", "host"), [("https://a.example/x", "a.example"), ("https://A.example:8443?x", "a.example:8443"), ("nonsense", "")]
)
def test_who_counts_as_one_receiver(url: str, host: str) -> None:
    """Host and port, in lower case."""
    assert authority(url) == host
