"""The gateway's certificate and the admin API's: read from files, said to be wrong where they are, read again on change."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import attrs
import trio
from cryptography import x509

from sentinel.errors import SettingsError
from sentinel.logs import log
from sentinel.settings import Settings

LOOK_SECONDS = 2.0
PROTOCOLS, ADMIN_PROTOCOLS = ("h2", "http/1.1"), ("http/1.1",)
Stamp = tuple[tuple[int, int, int], ...]  # what tells a file from its successor: inode, size, time


@attrs.define(eq=False)
class Certificate:
    """
    A certificate with its chain and its key, in PEM, and what TLS makes of them.

    `context` is for new connections; it is replaced as a whole, so that those that stand keep theirs. `ends_at` is seconds since
    the epoch. Raises SettingsError, with the names of the `settings`, if the files cannot be used; one that has expired can.
    """

    certificate: Path
    key: Path
    settings: str
    protocols: Sequence[str]
    context: ssl.SSLContext = attrs.field(init=False)
    ends_at: float = attrs.field(init=False)
    _read: Stamp = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Read the files; when they cannot be used, everything stays as it was. Raises SettingsError."""
        try:
            stamp = self._stamp()
            ends_at = _ends_at(self.certificate)
            self.context = _context(self.certificate, self.key, self.protocols)
        except _Unusable as error:
            raise SettingsError(f"{self.settings}: {error}.") from None
        self.ends_at, self._read = ends_at, stamp

    async def look(self) -> None:
        """Read the files again when they have changed, for ever."""
        tried = seen = self._read
        while True:
            await trio.sleep(LOOK_SECONDS)
            try:
                before, seen = seen, self._stamp()
            except _Unusable:  # they are being replaced
                continue
            if before == seen not in (tried, self._read):  # two looks alike: nobody is in the middle of writing
                tried = seen
                self.renew()

    def renew(self) -> None:
        """Read the files again now; the log tells what came of it."""
        try:
            self.read()
        except SettingsError as error:
            log.error("certificate.not_renewed", reason=error.detail)
        else:
            log.info("certificate.read", file=str(self.certificate), ends=_date(self.ends_at))
            self.warn_if_expired()

    def warn_if_expired(self) -> None:
        """A line in the log if clients will refuse it."""
        if self.ends_at < time.time():
            log.error("certificate.expired", file=str(self.certificate), ended=_date(self.ends_at))

    def _stamp(self) -> Stamp:
        try:
            stats = [path.stat() for path in (self.certificate, self.key)]
        except OSError as error:
            _refuse(f"{error.filename} cannot be read ({error.strerror})")
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


async def follow(certificates: Sequence[Certificate]) -> None:
    """Keep them as their files are: looked at again and again, and at once on SIGHUP. Belongs in the server's nursery."""
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async with trio.open_nursery() as nursery:
            for certificate in certificates:
                nursery.start_soon(certificate.look)
            async for _ in hangups:
                for certificate in certificates:
                    certificate.renew()


def open_certificate(settings: Settings) -> Certificate | None:
    """The gateway's certificate that the settings name, or None for none. Raises SettingsError."""
    return _open(settings.tls_certificate, settings.tls_key, "SENTINEL_TLS", PROTOCOLS)


def open_admin_certificate(settings: Settings) -> Certificate | None:
    """The admin API's, whose listener speaks nothing but HTTP/1.1. Raises SettingsError."""
    return _open(settings.admin_tls_certificate, settings.admin_tls_key, "SENTINEL_ADMIN_TLS", ADMIN_PROTOCOLS)


def _open(certificate: str | None, key: str | None, prefix: str, protocols: Sequence[str]) -> Certificate | None:
    if certificate is None:
        if key is not None:
            raise SettingsError(f"{prefix}_KEY is of no use without {prefix}_CERTIFICATE.")
        return None
    return Certificate(Path(certificate), Path(key or certificate), f"{prefix}_CERTIFICATE, {prefix}_KEY", protocols)


class _Unusable(Exception):
    """What is wrong with a file."""


def _ends_at(path: Path) -> float:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc.timestamp()
    except OSError as error:
        _refuse(f"{path} cannot be read ({error.strerror})")
    except ValueError:
        _refuse(f"{path} has no certificate in PEM")


def _context(certificate: Path, key: Path, protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(certificate, key, password=_ask_nobody)
    except ssl.SSLError as error:
        wrong = "is not the certificate's" if error.reason == "KEY_VALUES_MISMATCH" else "is no key in PEM, or its chain is none"
        _refuse(f"the key in {key} {wrong}")
    except OSError as error:
        _refuse(f"{key} cannot be read ({error.strerror})")
    return context


def _ask_nobody() -> NoReturn:
    """OpenSSL would ask at the terminal."""
    _refuse("the key is encrypted; take its password away (openssl pkey -in KEY -out KEY)")


def _refuse(reason: str) -> NoReturn:
    raise _Unusable(reason) from None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
