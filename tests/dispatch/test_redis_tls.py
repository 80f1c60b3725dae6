"""Redis by TLS and as a user of its own: what is trusted works, and what is not is refused in plain words."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.errors import Unavailable
from tests.certificates import new_authority
from tests.dispatch.conftest import users_command
from tests.secured import SecuredRedis, secured_redis

PATIENCE = 10.0  # handshakes take long on a machine that does much else


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[SecuredRedis]:
    with secured_redis(tmp_path / "authority") as made:
        yield made


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
    secured.present(days=0)
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
