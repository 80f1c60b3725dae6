"""Every setting, read once at the start from the environment and a TOML file, checked, and then only passed along.

A setting NAME is `SENTINEL_NAME` in the environment and `name` in the file; the environment wins. `docs/settings.md` lists them,
and a test compares the two.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs

from sentinel.edge.plans import parse_line
from sentinel.errors import BadInput, SettingsError
from sentinel.processes import SIBLINGS
from sentinel.sealing import KEY_CHARACTERS_MIN
from sentinel.secret import Secret
from sentinel.stop import SUPERVISED

PREFIX = "SENTINEL_"
FILE = "sentinel.toml"
ADMIN_BIND = "127.0.0.1:8081"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise ValueError
    return value


def _seconds_or_off(text: str) -> float:
    return math.inf if text.lower() == "off" else _seconds(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 100_000_000:
        raise ValueError
    return int(text)


def _whole(text: str) -> int:
    return 0 if text.strip("0") == "" and text else _count(text)


def _nice(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 19:
        raise ValueError
    return int(text)


def _terms(text: str) -> str:
    try:
        parse_line(text)
    except BadInput as error:
        raise ValueError from error
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError
        return text.lower()

    return convert


def _url(*schemes: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if not any(text.startswith(scheme) and len(text) > len(scheme) for scheme in schemes):
            raise ValueError
        return text

    return convert


def _networks(text: str) -> str:
    return ",".join(str(ip_network(part.strip())) for part in text.split(","))


def _secret_key(text: str) -> Secret:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2 or any(len(part) < KEY_CHARACTERS_MIN for part in parts):
        raise ValueError
    return Secret(",".join(parts))


def _bind(text: str) -> str:
    if text.startswith(("unix:", "fd://")) and text.partition(":")[2].strip("/"):
        return text
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError
    return text


def _admin_bind(text: str) -> str:
    return text if text == "off" else _bind(text)


def _setting(default: Any, convert: Callable[[str], Any], allowed: str, help_text: str, *, secret: bool = False) -> Any:
    """A setting. A `secret` one may hold a password, so no message repeats it."""
    metadata = {"convert": convert, "allowed": allowed, "help": help_text, "secret": secret}
    return attrs.field(default=default, metadata=metadata, repr=not secret)


@attrs.frozen(kw_only=True)
class Settings:
    """What an operator can choose. Times are in seconds, sizes in bytes."""

    record: str = _setting(
        "sqlite:sentinel.db",
        _url("sqlite:", "postgresql://", "postgres://"),
        "sqlite:PATH or a postgresql:// URL",
        "where the jobs are kept",
        secret=True,
    )
    secret_key: Secret | None = _setting(  # noqa: RUF009  an attrs field, like the others
        None,
        _secret_key,
        "one or two texts of at least 32 characters, separated by a comma",
        "server key: seals the secrets in the record and hashes API keys; by default a file is made (docs/keys.md)",
        secret=True,
    )
    redis: str | None = _setting(
        None,
        _url("redis://", "rediss://"),
        "a redis:// or rediss:// URL",
        "hands out the jobs; without it workers claim from the record",
        secret=True,
    )
    spool: str = _setting(
        "sentinel-spool", str, "a folder, or off", "keeps webhooks while PostgreSQL cannot; not used with an SQLite record"
    )
    bind: str = _setting("127.0.0.1:8080", _bind, "HOST:PORT, unix:PATH or fd://N", "where the gateway listens")
    tls_certificate: str | None = _setting(
        None, str, "the path of a PEM file", "certificate and chain: with it the gateway speaks TLS; read again when it changes"
    )
    tls_key: str | None = _setting(
        None, str, "the path of a PEM file", "the certificate's key, unencrypted; by default in the same file"
    )
    admin_bind: str = _setting(
        ADMIN_BIND, _admin_bind, "HOST:PORT, unix:PATH, fd://N, or off", "where `sentinel serve` offers the admin API"
    )
    admin_tls_certificate: str | None = _setting(
        None, str, "the path of a PEM file", "the same as above for the admin API, which without it has no TLS"
    )
    admin_tls_key: str | None = _setting(
        None, str, "the path of a PEM file", "the key of the admin API's certificate, unencrypted; by default in the same file"
    )
    processes: int = _setting(1, _count, "a whole number, at least 1", "gateway processes on one address")
    ack_budget: float = _setting(
        1.0, _seconds, "seconds, more than 0 and at most 86400", "every webhook is answered within this time"
    )
    connections_max: int = _setting(15_000, _count, "a whole number, at least 1", "connections at a time; more get 503")
    connections_per_address_max: int = _setting(
        512, _count, "a whole number, at least 1", "connections of one address at a time; more get 503"
    )
    proxies: str = _setting(
        "127.0.0.0/8,::1/128",
        _networks,
        "networks (CIDR), separated by commas",
        "load balancers and reverse proxies: believed when they name the client, and not limited per address",
    )
    body_bytes_max: int = _setting(1_048_576, _count, "a whole number of bytes, at least 1", "larger request bodies get 413")
    bodies_bytes_max: int = _setting(
        67_108_864, _count, "a whole number of bytes, at least 1", "all bodies on their way; more get 503"
    )
    body_seconds_max: float = _setting(
        10.0, _seconds, "seconds, more than 0 and at most 86400", "a body that takes longer to arrive gets 408"
    )
    text_characters_max: int = _setting(
        65_536, _count, "a whole number, at least 1", "characters of one message in a chat; a longer one waits for a person"
    )
    requests_max: int = _setting(
        12_000, _count, "a whole number, at least 1", "requests taken at a time; more get 503 with Retry-After"
    )
    intake_max: int = _setting(10_000, _count, "a whole number, at least 1", "webhooks waiting for their commit; more get 503")
    default_plan: str = _setting(
        "",
        _terms,
        "TERM=VALUE ..., as for `sentinel plans set`",
        "what a tenant without a subscription may use; by default all it wants",
    )
    model: str | None = _setting(
        None, str, "the path of a GGUF file, http://SERVER#MODEL, or fake:MILLISECONDS", "the model; by default the bundled one"
    )
    model_key: str | None = _setting(None, str, "text", "the key of the model's server, if it wants one", secret=True)
    slots: int | None = _setting(
        None, _count, "a whole number, at least 1", "sequences that the engine runs at a time; by default chosen for it"
    )
    engine_threads: int | None = _setting(
        None,
        _count,
        "a whole number, at least 1",
        "threads that compute; by default all cores, and fewer while other programs need them",
    )
    context_tokens: int | None = _setting(
        None,
        _count,
        "a whole number, at least 1",
        "tokens that all sequences have room for together; by default 2048 each, at most 8192 in all; halved once if memory lacks",
    )
    gpu_layers: int | None = _setting(
        None, _whole, "a whole number, at least 0", "layers of the model on a GPU; by default all where there is one"
    )
    kv_type: str = _setting(
        "auto",
        _one_of("auto", "f16", "q8_0", "q4_0"),
        "auto, f16, q8_0 or q4_0",
        "how the context is kept: q8_0 takes half the memory of f16; auto is f16, but q8_0 for the values on a CPU",
    )
    flash_attention: str = _setting("auto", _one_of("auto", "on", "off"), "auto, on or off", "how attention is computed")
    tokens_max: int = _setting(256, _count, "a whole number, at least 1", "tokens of one answer, unless the job asks for fewer")
    worker_nice: int = _setting(10, _nice, "a whole number from 0 to 19", "how far a worker steps back for others on its cores")
    generation_seconds_max: float = _setting(
        600.0, _seconds, "seconds, more than 0 and at most 86400", "a generation that takes longer has failed"
    )
    send_seconds_max: float = _setting(
        20.0, _seconds, "seconds, more than 0 and at most 86400", "one delivery attempt, from connect to the last byte"
    )
    grace_seconds: float = _setting(
        10.0, _seconds, "seconds, more than 0 and at most 86400", "how long running work may go on after SIGTERM"
    )
    retention_days: int = _setting(30, _count, "a whole number of days, at least 7", "how long finished jobs are kept")
    system_prompt: str = _setting(
        "You are a helpful assistant. Answer briefly and in plain text.", str, "text", "for sources that have none of their own"
    )
    tool_steps_max: int = _setting(4, _count, "a whole number, at least 1", "tools called for one answer")
    tool_tokens_max: int = _setting(1000, _count, "a whole number, at least 1", "tokens that a job may spend on choosing tools")
    tool_seconds_max: float = _setting(
        20.0, _seconds, "seconds, more than 0 and at most 86400", "a tool that takes longer has failed"
    )
    tool_output_max: int = _setting(4000, _count, "a whole number, at least 1", "characters of a tool's result that the model sees")
    document_bytes_max: int = _setting(
        524_288, _count, "a whole number of bytes, at least 1", "a larger document in a job of the API gets 400"
    )
    document_part_tokens_max: int = _setting(
        2048,
        _count,
        "a whole number, at least 1",
        "tokens of one part of a long document with all that is asked and answered about it; never more than the context",
    )
    document_parts_max: int = _setting(200, _count, "a whole number, at least 1", "a document that has more parts has failed")
    document_seconds_max: float = _setting(
        3600.0, _seconds, "seconds, more than 0 and at most 86400", "one attempt at a job with a document; another goes on there"
    )
    memory_tokens_max: int = _setting(
        1024,
        _count,
        "a whole number, at least 1",
        "tokens of a chat's last turns in a prompt; older ones are summarised",
    )
    memory_days: int = _setting(30, _count, "a whole number of days, at least 1", "how long turns, summaries and notes are kept")
    forgotten_text: str = _setting("I have forgotten what we said here.", str, "text", "the answer to /forget")
    apology: str = _setting(
        "Sorry, I could not answer that. Please try again later.",
        str,
        "text, or off",
        "said after the last failed attempt",
    )
    waiting_notice: float = _setting(
        30.0,
        _seconds_or_off,
        "seconds, more than 0 and at most 86400, or off",
        "a chat that waits longer for its answer is told how long",
    )
    waiting_text: str = _setting(
        "You are number {number} in the queue. The answer will take about {time}.",
        str,
        "text",
        "what such a chat is told",
    )
    log_format: str = _setting("text", _one_of("text", "json"), "text or json", "how log lines look")
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "debug, info, warning, error", "the least to log"
    )


def without_password(url: str) -> str:
    """The URL as it may be shown: no password, no options."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def environment_name(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The `SENTINEL_…` variables that nothing reads: a typing error, or a setting of another version."""
    known = {environment_name(field.name) for field in attrs.fields(Settings)} | {
        environment_name("settings"),
        SUPERVISED,
        SIBLINGS,
    }
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """
    The settings from `environ` and from the file that `SENTINEL_SETTINGS` names, or `sentinel.toml` here if there is one.

    Raises:
        SettingsError: for a value that is not allowed or a name in the file that is no setting; it says what is.
    """
    given = {name: str(value) for name, value in _read_file(environ).items()}
    known = {field.name for field in attrs.fields(Settings)}
    if unknown := sorted(given.keys() - known):
        raise SettingsError(f"The settings file has {unknown[0]!r}, which is no setting. There are: {', '.join(sorted(known))}.")
    for name in known:
        if value := environ.get(environment_name(name), "").strip():
            given[name] = value
    settings = Settings(**{name: _convert(name, text) for name, text in given.items()})
    if settings.retention_days < 7:
        raise SettingsError("SENTINEL_RETENTION_DAYS must be at least 7: platforms send again for up to 7 days.")
    return settings


def _read_file(environ: Mapping[str, str]) -> dict[str, Any]:
    named = environ.get(environment_name("settings"))
    path = Path(named or FILE)
    if not named and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"SENTINEL_SETTINGS: {path} cannot be read as TOML: {error}") from None


def _convert(name: str, text: str) -> Any:
    metadata = getattr(attrs.fields(Settings), name).metadata
    try:
        return metadata["convert"](text)
    except ValueError:
        given = "set to something else" if metadata["secret"] else f"{text!r}"
        raise SettingsError(f"{environment_name(name)} is {given}, but must be {metadata['allowed']}.") from None
