"""Settings: what they are by default, which of two sources wins, and how a wrong one is named."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from sentinel.errors import SettingsError
from sentinel.secret import Secret
from sentinel.settings import Settings, environment_name, load_settings, without_password

# For every setting one value that is allowed as text, what it becomes, and values that are not.
SECONDS = ("0", "-1", "nan", "inf", "86401", "1e9", "soon", "1 s")
COUNTS = ("0", "-1", "1.5", "100000001", "9" * 5000, "many", "1_000", "\u0661", "\xb2", "0x10")
EXAMPLES = {
    "record": ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db", ("", "x.db", "sqlite:", "mysql://x", "SQLITE:x")),
    "redis": ("rediss://u:p@host:6380/1", "rediss://u:p@host:6380/1", ("host:6379", "redis://", "http://x")),
    "secret_key": (
        f"{'a' * 32}, {'b' * 40}",
        Secret(f"{'a' * 32},{'b' * 40}"),
        ("x" * 31, f"{'a' * 32},", ",".join(["a" * 32] * 3)),
    ),
    "spool": ("off", "off", ()),
    "bind": (
        "[::1]:80",
        "[::1]:80",
        ("8080", ":8080", "host", "host:", "host:x", "host:65536", "host:-1", "unix:", "fd://", "a:\xb2"),
    ),
    "tls_certificate": ("/etc/sentinel/tls.crt", "/etc/sentinel/tls.crt", ()),
    "tls_key": ("/etc/sentinel/tls.key", "/etc/sentinel/tls.key", ()),
    "admin_tls_certificate": ("/etc/sentinel/admin.crt", "/etc/sentinel/admin.crt", ()),
    "admin_tls_key": ("/etc/sentinel/admin.key", "/etc/sentinel/admin.key", ()),
    "admin_bind": ("off", "off", ("OFF", "8081", "host:x", "unix:")),
    "ack_budget": ("0.5", 0.5, SECONDS),
    "connections_max": ("1000", 1000, COUNTS),
    "connections_per_address_max": ("1000", 1000, COUNTS),
    "proxies": ("10.0.0.0/8, ::1/128", "10.0.0.0/8,::1/128", ("10.0.0.1/8", "x", "10.0.0.0/8,,", "10.0.0.0/33")),
    "body_bytes_max": ("1000", 1000, COUNTS),
    "bodies_bytes_max": ("1000", 1000, COUNTS),
    "body_seconds_max": ("3", 3.0, SECONDS),
    "requests_max": ("7", 7, COUNTS),
    "text_characters_max": ("7", 7, COUNTS),
    "intake_max": ("7", 7, COUNTS),
    "default_plan": ("jobs=5 user_rate=1/60", "jobs=5 user_rate=1/60", ("job=5", "jobs=many", "user_rate=1")),
    "model": ("fake:5", "fake:5", ()),
    "slots": ("2", 2, COUNTS),
    "model_key": ("secret", "secret", ()),
    "engine_threads": ("2", 2, ("0", "x")),
    "context_tokens": ("4096", 4096, ("0", "many")),
    "gpu_layers": ("0", 0, ("-1", "x")),
    "kv_type": ("q8_0", "q8_0", ("q3",)),
    "flash_attention": ("off", "off", ("maybe",)),
    "tokens_max": ("64", 64, COUNTS),
    "worker_nice": ("0", 0, ("-1", "20", "x", "1.0")),
    "generation_seconds_max": ("60", 60.0, SECONDS),
    "send_seconds_max": ("5", 5.0, SECONDS),
    "grace_seconds": ("2.5", 2.5, SECONDS),
    "retention_days": ("7", 7, (*COUNTS, "6")),
    "system_prompt": ("Be brief.", "Be brief.", ()),
    "tool_steps_max": ("2", 2, ("0",)),
    "tool_tokens_max": ("50", 50, ("0",)),
    "tool_seconds_max": ("0.5", 0.5, ("0",)),
    "tool_output_max": ("100", 100, ("0",)),
    "document_bytes_max": ("1000", 1000, ("0", "much")),
    "document_part_tokens_max": ("500", 500, ("0",)),
    "document_parts_max": ("7", 7, ("0",)),
    "document_seconds_max": ("60", 60.0, ("0", "long")),
    "memory_tokens_max": ("500", 500, ("0", "many")),
    "memory_days": ("1", 1, ("0", "-1")),
    "forgotten_text": ("Gone.", "Gone.", ()),
    "apology": ("Sorry.", "Sorry.", ()),
    "waiting_notice": ("Off", float("inf"), SECONDS),
    "waiting_text": ("#{number}", "#{number}", ()),
    "log_format": ("JSON", "json", ("xml",)),
    "log_level": ("Debug", "debug", ("loud",)),
    "processes": ("2", 2, COUNTS),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_setting_has_an_example() -> None:
    """This file knows every setting."""
    assert {field.name for field in attrs.fields(Settings)} <= EXAMPLES.keys()


def test_defaults() -> None:
    """Nothing has to be set, and what other programs rely on is as documented."""
    settings = load_settings({})
    assert settings == Settings()
    assert (settings.record, settings.bind, settings.ack_budget) == ("sqlite:sentinel.db", "127.0.0.1:8080", 1.0)
    assert (settings.model, settings.slots) == (None, None)


def test_defaults_are_allowed() -> None:
    """Every default could be set by hand."""
    defaults = {name: value for name, value in attrs.asdict(Settings()).items() if value is not None}
    assert load_settings({environment_name(name): str(value) for name, value in defaults.items()}) == Settings()


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Settings)])
def test_one_setting(name: str, folder: Path) -> None:
    """A setting is read from the environment and from the file, and the environment wins; a blank one counts as not set."""
    text, value, refused = EXAMPLES[name]
    variable = environment_name(name)
    assert variable == f"SENTINEL_{name.upper()}"
    assert getattr(load_settings({variable: f" {text} "}), name) == value
    assert load_settings({variable: " "}) == Settings()
    (folder / "sentinel.toml").write_text(f'{name} = "{text}"')
    assert getattr(load_settings({}), name) == value
    for wrong in filter(None, refused):
        with pytest.raises(SettingsError) as caught:
            load_settings({variable: wrong})
        assert variable in caught.value.detail
        assert re.search("must be", caught.value.detail)


def test_the_environment_wins(folder: Path) -> None:
    """What is in both places is taken from the environment, the rest from the file."""
    (folder / "sentinel.toml").write_text('slots = 3\ntokens_max = 9\nack_budget = 1.5\nlog_format = "json"\n')
    settings = load_settings({"SENTINEL_SLOTS": "5", "SENTINEL_UNKNOWN": "x", "OTHER": "y"})
    assert (settings.slots, settings.tokens_max, settings.ack_budget, settings.log_format) == (5, 9, 1.5, "json")


def test_a_wrong_value_in_the_file(folder: Path) -> None:
    """A wrong value in the file is named as the environment would name it, with what is allowed."""
    for line in ("slots = 0", "slots = true", "slots = 1.5", "slots = [1]", 'slots = ""'):
        (folder / "sentinel.toml").write_text(line)
        with pytest.raises(SettingsError, match=r"SENTINEL_SLOTS .*whole number"):
            load_settings({})


def test_an_unknown_name_in_the_file(folder: Path) -> None:
    """A name that is no setting is refused together with a list of those that are: a typo must not be a default."""
    for text in ("slot = 1", "[sentinel]\nslots = 1", "SLOTS = 1"):
        (folder / "sentinel.toml").write_text(text)
        with pytest.raises(SettingsError, match=r"which is no setting.*ack_budget.*slots"):
            load_settings({})


def test_another_file(folder: Path) -> None:
    """SENTINEL_SETTINGS names the file; one that is missing or no TOML is an error and not the defaults."""
    (folder / "sentinel.toml").write_text("slots = 1")
    (folder / "other.toml").write_text("slots = 2")
    assert load_settings({"SENTINEL_SETTINGS": "other.toml"}).slots == 2
    (folder / "broken.toml").write_text("slots = ")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\0")
    for name in ("missing.toml", "broken.toml", "binary.toml", "."):
        with pytest.raises(SettingsError, match="SENTINEL_SETTINGS"):
            load_settings({"SENTINEL_SETTINGS": name})


@pytest.mark.parametrize("name", ["record", "redis"])
def test_a_password_is_not_repeated(name: str) -> None:
    """Neither a refused URL nor the settings themselves show a password when they are printed."""
    with pytest.raises(SettingsError) as caught:
        load_settings({environment_name(name): "mysql://user:hunter2@host/db"})
    assert "hunter2" not in caught.value.detail
    schemes = {"record": "postgresql", "redis": "redis"}
    assert "hunter2" not in repr(load_settings({environment_name(name): f"{schemes[name]}://user:hunter2@host/db"}))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:a.db", "sqlite:a.db"),
        ("postgresql://user:p@ss@host:5432/db?password=x", "postgresql://host:5432/db"),
        ("redis://host", "redis://host"),
        ("rediss://:secret@host/0", "rediss://host/0"),
    ],
)
def test_a_url_that_may_be_shown(url: str, shown: str) -> None:
    """What is shown of a URL has neither user nor password nor options."""
    assert without_password(url) == shown


def test_settings_are_frozen() -> None:
    """Settings are read once; nothing changes them afterwards."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().slots = 3  # type: ignore[misc]
