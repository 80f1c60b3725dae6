"""The server keys at hand: from the setting, or from a file that is made on first use. Hands them out; seals and hashes nothing.

Which key is in force, the record says; here are only those that this machine has.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import attrs

from sentinel.errors import SettingsError
from sentinel.sealing import ServerKey, new_key_text
from sentinel.secret import Secret

SETTING = "SENTINEL_SECRET_KEY"


@attrs.define(eq=False)
class Keyring:
    """
    The keys that `given` names, newest first, or else those in the file at `path`, one a line.

    `keys` are those that were needed so far: the file is not read before.
    """

    given: tuple[ServerKey, ...]
    path: Path
    keys: tuple[ServerKey, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.keys = self.given

    def find(self, key_id: str) -> ServerKey:
        """The key of that id. Raises SettingsError, in words for the operator, when it is not here."""
        if not self._has(key_id) and not self.given:
            self.keys = self._read()  # another process may have made it, or brought it here, since
        for key in self.keys:
            if key.id == key_id:
                return key
        raise SettingsError(
            f"The record's secrets are sealed with server key {key_id}, which is not here: "
            f"{f'{SETTING} names {self._names()}' if self.given else f'{self.path} has {self._names()}'}. "
            f"Give that key in {SETTING}, or bring the file that has it to {self.path}."
        )

    def newest(self) -> ServerKey:
        """The key to begin with; where none was given, a file is made with a fresh one."""
        if not self.keys:
            self.keys = self._read() or self._make((new_key_text(),), exclusive=True)
        return self.keys[0]

    def at_hand(self) -> tuple[ServerKey, ...]:
        """Every key that is here now, newest first."""
        if not self.given:
            self.keys = self._read()
        return self.keys

    def add(self) -> ServerKey:
        """A fresh key, now the newest in the file; the others stay there. Raises SettingsError where the keys are given."""
        if self.given:
            raise SettingsError(f"{SETTING} gives the server keys: put the new one first, before a comma and the old one.")
        self.keys = self._make((new_key_text(), *self._lines()), exclusive=False)
        return self.keys[0]

    def forget_all_but(self, key_ids: set[str]) -> None:
        """Keep only those keys in the file."""
        if not self.given:
            kept = tuple(line for line in self._lines() if ServerKey.of(line).id in key_ids)
            self.keys = self._make(kept, exclusive=False)

    def _has(self, key_id: str) -> bool:
        return any(key.id == key_id for key in self.keys)

    def _names(self) -> str:
        return ", ".join(key.id for key in self.keys) or "none"

    def _lines(self) -> tuple[str, ...]:
        try:
            return tuple(line.strip() for line in self.path.read_text().splitlines() if line.strip())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The server key's file {self.path} cannot be read ({error}); mend it, or give a key in {SETTING}."
            ) from None

    def _read(self) -> tuple[ServerKey, ...]:
        return tuple(map(ServerKey.of, self._lines()))

    def _make(self, lines: tuple[str, ...], *, exclusive: bool) -> tuple[ServerKey, ...]:
        """Write the file whole, for its owner only; if `exclusive`, one that is there already stays."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = _write_aside(self.path, "".join(f"{line}\n" for line in lines))
            if exclusive:
                with suppress(FileExistsError):
                    self.path.hardlink_to(fresh)
                fresh.unlink()
            else:
                fresh.replace(self.path)
        except OSError as error:
            raise SettingsError(
                f"The server key's file {self.path} cannot be written ({error}); give a key in {SETTING}."
            ) from None
        return self._read()


def _write_aside(path: Path, text: str) -> Path:
    """Write a new file, for its owner only, beside `path` and to the disk itself: what a lost key sealed stays sealed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(descriptor, "w") as file:  # noqa: PTH123  a descriptor, not a path
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return Path(name)


def open_keyring(record_url: str, secret_key: Secret | None = None) -> Keyring:
    """The keys in the setting; without one, those of the file beside an SQLite record, or in the user's configuration folder."""
    given = tuple(ServerKey.of(text.strip()) for text in secret_key.reveal().split(",")) if secret_key else ()
    return Keyring(given, _default_path(record_url))


def _default_path(record_url: str) -> Path:
    scheme, _, rest = record_url.partition(":")
    if scheme == "sqlite":
        return Path(f"{rest}.key").absolute()
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser().absolute() / "sentinel" / "secret.key"
