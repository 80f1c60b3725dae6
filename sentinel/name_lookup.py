"""Host names to addresses, within a deadline: drivers are given addresses, so that no look-up can hold one of their threads.

A look-up cannot be interrupted. It runs in a thread of its own, one for each name at a time, for which nobody waits too long.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import attrs


class NameUnknown(OSError):
    """The addresses of a name are not known; the text says of which, and why."""


@attrs.define(eq=False)
class NameLookup:
    """Asks the system, and remembers: while the name service fails or hangs, what it said last of a name is believed."""

    ask: Callable[[str], list[Any]] = attrs.field(default=lambda host: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    _known: dict[str, list[str]] = attrs.field(factory=dict)
    _asked: dict[str, Future[list[str]]] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def addresses(self, host: str, seconds: float) -> list[str]:
        """
        The addresses of a host, in the system's order; a number is its own address.

        Raises NameUnknown, also if that was not found out within `seconds`.
        """
        if _is_address(host):
            return [host]
        try:
            return self._answer(host).result(seconds)
        except (OSError, UnicodeError) as error:
            if host in self._known:
                return self._known[host]
            why = "was not looked up in time" if isinstance(error, TimeoutError) else "is not known"
            raise NameUnknown(f"the name {host} {why}") from None

    def _answer(self, host: str) -> Future[list[str]]:
        """What comes of the look-up that is under way, or of a new one."""
        with self._lock:
            answer = self._asked.get(host)
            if answer is None:
                answer = self._asked[host] = Future()
                threading.Thread(target=self._look_up, args=(host, answer), name=f"look-up of {host}", daemon=True).start()
            return answer

    def _look_up(self, host: str, answer: Future[list[str]]) -> None:
        try:
            found = list(dict.fromkeys(entry[4][0] for entry in self.ask(host)))
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits
            self._forget(host)
            answer.set_exception(error)
        else:
            self._known[host] = found
            self._forget(host)
            answer.set_result(found)

    def _forget(self, host: str) -> None:
        with self._lock:
            del self._asked[host]


NAMES = NameLookup()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
