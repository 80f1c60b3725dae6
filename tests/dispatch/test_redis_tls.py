"""Redis by TLS and as a user of its own: what is trusted works, and what is not is refused in plain words."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from sentinel.chaos.servers import RedisServer, free_port, new_redis
from sentinel.errors import Unavailable
from tests.certificates import Authority, new_authority
from tests.dispatch.conftest import users_command

PATIENCE = 10.0  # handshakes take long on a machine that does much else


@attrs.frozen
class Secured:
    """A Redis that speaks TLS, and whoever signs its certificates."""

    server: RedisServer
    authority: Authority
    port: int

    def present(self, **certificate: object) -> None:
        """From now on it shows this certificate."""
        self.authority.issue(self.server.folder, **certificate)
        files = [str(self.server.folder / file) for file in ("server.crt", "server.key")]
        assert self.server.ask("CONFIG", "SET", "tls-cert-file", files[0], "tls-key-file", files[1]).startswith("+OK")

    def url(self, host: str = "localhost", user: str = "", **options: object) -> str:
        given = {"ssl_ca_certs": self.authority.certificate} | options
        return f"rediss://{user}{host}:{self.port}/0?" + "&".join(f"{name}={value}" for name, value in given.items())


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    made = Secured(new_redis(), new_authority(tmp_path / "authority"), free_port())
    try:
        made.server.start()
        made.present()
        made.server.ask("CONFIG", "SET", "tls-auth-clients", "no")
        assert made.server.ask("CONFIG", "SET", "tls-port", str(made.port)).startswith("+OK")
        yield made
    finally:
        made.server.remove()


def test_tls_and_a_user(secured, connect):
    """By rediss://, with a private authority, as the user that the manual tells to make: everything works."""
    assert secured.server.ask(*users_command("sesame")).startswith("+OK")
    dispatch = connect(secured.url(user="sentinel:sesame@"), PATIENCE)
    assert dispatch.rebuild([])
    assert dispatch.wait(0.01) is False
    assert dispatch.policy_warning() is None
    assert connect(secured.url(ssl_cert_reqs="none", ssl_check_hostname="false"), PATIENCE).waiting() == 0
    with pytest.raises(Unavailable, match="refuses the user or the password"):
        connect(secured.url(user="sentinel:open@"), PATIENCE).waiting()


def test_certificates_that_are_not_right(secured, connect, tmp_path):
    """One that has expired, is for another name, or is signed by nobody we know is refused, and the reason says which it is."""
    good = secured.url()
    assert connect(good, PATIENCE).rebuild([])
    stranger = new_authority(tmp_path / "stranger")
    for url in (secured.url(ssl_ca_certs=stranger.certificate), f"rediss://localhost:{secured.port}/0"):
        with pytest.raises(Unavailable, match=r"certificate is not trusted \(.*(issuer|self-signed)"):
            connect(url, PATIENCE).waiting()
    with pytest.raises(Unavailable, match=r"not trusted .*mismatch.*127.0.0.1"):
        connect(secured.url("127.0.0.1"), PATIENCE).waiting()
    secured.present(days=-1)
    with pytest.raises(Unavailable, match=r"not trusted \(certificate has expired\)"):
        connect(good, PATIENCE).waiting()
    secured.present(name="other.test")
    with pytest.raises(Unavailable, match=r"not trusted .*mismatch.*localhost"):
        connect(good, PATIENCE).waiting()
    secured.present()
    assert connect(good, PATIENCE).waiting() == 0


def test_tls_where_there_is_none(secured, connect):
    """A port that does not speak TLS, and one that speaks nothing else, end in an error in time."""
    with pytest.raises(Unavailable, match=r"does not speak TLS|in time"):  # Redis waits for the end of what it takes for a line
        connect(f"rediss://localhost:{secured.server.port}/0", 0.2).waiting()
    with pytest.raises(Unavailable, match=r"hung up|cannot be reached|not expected"):
        connect(f"redis://localhost:{secured.port}/0").waiting()
