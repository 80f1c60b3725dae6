"""Masks what a job's answer must not carry, before it is stored: in its text and in every other text of its result. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from sentinel.channels import find_channel
from sentinel.edge.output import MASKS, SECRET_CHARACTERS_MIN, check_output
from sentinel.model import Source


@attrs.frozen
class OutputCheck:
    """What to look for in the answers of one source, beside what is looked for in all."""

    secrets: Collection[str] = attrs.field(default=(), repr=False)
    inside_hosts: Collection[str] = ()

    def masked(self, result: Mapping[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
        """The result as it may be kept, shown and sent; and how often something was masked, by kind."""
        found: Counter[str] = Counter()
        return {key: self._mask(value, found) for key, value in result.items()}, found

    def _mask(self, value: Any, found: Counter[str]) -> Any:
        if isinstance(value, str):
            checked = check_output(value, self.secrets, self.inside_hosts)
            found.update(checked.masked)
            return checked.text
        if isinstance(value, Mapping):
            return {key: self._mask(each, found) for key, each in value.items()}
        return [self._mask(each, found) for each in value] if isinstance(value, list) else value


def output_check(source: Source | None, callback_secrets: str) -> OutputCheck:
    """The check for a source, or for the job API; `callback_secrets` are the tenant's, as the directory has them."""
    secrets = [text for text in callback_secrets.split(" ") if text]
    if source is None:
        return OutputCheck(secrets)
    secrets += own_secrets(source)
    return OutputCheck(secrets, frozenset(host.strip().lower() for host in source.setting("inside_hosts").split(",")))


def own_secrets(source: Source) -> list[str]:
    """Every secret of a source, the previous ones of a rotation too."""
    settings = [setting.key for setting in find_channel(source.channel).settings if setting.secret]
    return [secret for key in settings for secret in source.secrets(key)]


def without_secrets(body: bytes, source: Source) -> bytes:
    """A platform's answer without the source's own secrets, should it repeat them: its words are logged and shown."""
    for secret in own_secrets(source):
        if len(secret) >= SECRET_CHARACTERS_MIN:
            body = body.replace(secret.encode("utf-8", "surrogatepass"), MASKS["secret"].encode())
    return body
