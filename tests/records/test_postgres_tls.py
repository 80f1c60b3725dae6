"""PostgreSQL by TLS with a private authority: what is trusted works, and what is not is refused in plain words."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sentinel.errors import Unavailable
from sentinel.records import open_bell, open_record
from tests.certificates import new_authority
from tests.records.conftest import fresh_database
from tests.secured import SecuredPostgres, secured_postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredPostgres]:
    with secured_postgres(tmp_path_factory.mktemp("tls") / "authority") as made:
        open_record(made.url()).close()
        yield made


def refused(url: str) -> str:
    """Why the record at that URL says that it cannot be reached."""
    with pytest.raises(Unavailable) as caught:
        open_record(url, 3.0)
    return caught.value.detail


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_each_mode(secured, mode):
    """With every mode that asks for TLS the record and its bell speak it."""
    url = secured.url(sslmode=mode) if mode != "require" else secured.url(sslmode=mode, sslrootcert="")
    with closing(open_record(url)) as record, closing(open_bell(url)) as bell:
        assert record.counts() == {}
        assert not bell.wait(0.01)
        assert (
            secured.server.run(
                "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'postgres'"
                " AND pid <> pg_backend_pid()"
            )
            == "t\n"
        )


def test_certificates_that_are_not_right(secured, tmp_path):
    """One that has expired, is for another name, or is signed by nobody we know is refused, and the reason says so."""
    stranger = new_authority(tmp_path / "stranger").certificate
    assert "has expired, or is not from an authority in sslrootcert" in refused(secured.url(sslrootcert=stranger))
    assert f'root certificate file "{tmp_path}/none" does not exist' in refused(secured.url(sslrootcert=tmp_path / "none"))
    assert 'does not match host name "127.0.0.1"' in refused(secured.url("127.0.0.1"))
    secured.present(days=0)
    assert "has expired" in refused(secured.url())
    secured.present("other.test")
    assert '"other.test" does not match host name "localhost"' in refused(secured.url())
    secured.present()
    open_record(secured.url(), 3.0).close()


def test_tls_where_there_is_none(tmp_path):
    """A server without TLS is not spoken to in the clear when TLS was asked for."""
    assert "does not support SSL" in refused(f"{fresh_database(tmp_path)}?sslmode=require")
