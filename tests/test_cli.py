"""The command line from outside: what it prints, what it keeps, and how it says no."""

from __future__ import annotations

import gc
import json
import re
import socket
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from sentinel import standard_webhooks
from sentinel.cli import main, processes
from sentinel.edge.keys import is_well_formed, keyed_hash
from sentinel.model import NewJob, State, job_id
from sentinel.records import Ending, open_record
from sentinel.records.callbacks import Attempt, CallbackState
from sentinel.records.directory import AuditFilter
from sentinel.records.spool import Spool
from tests.conftest import fresh_sqlite

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def unopened_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A record that the commands use, through the environment, and that is not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINEL_RECORD", f"sqlite:{tmp_path / 'cli.db'}")
    monkeypatch.setenv("SENTINEL_LOG_LEVEL", "error")
    return f"sqlite:{tmp_path / 'cli.db'}"


@pytest.fixture
def url(unopened_url: str) -> str:
    """A fresh record that the commands use."""
    return fresh_sqlite(Path(unopened_url.removeprefix("sqlite:")))


def run(*arguments: str) -> int:
    """The exit code of one command."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return int(done.value.code or 0)


def new_job(external_id: str, **changes: object) -> NewJob:
    values = {
        "tenant": "default",
        "channel": "telegram",
        "source": "bot",
        "received_at": time.time(),
        "verified_by": "test",
    } | changes
    return NewJob(id=job_id(external_id), external_id=external_id, input=({"role": "user", "content": "hi\u202e"},), **values)  # type: ignore[arg-type]


def test_help_names_every_command(url: str, capsys: Capture) -> None:
    """`sentinel --help` lists the commands of the contract, with a word about each."""
    assert run("--help") == 0
    text = capsys.readouterr().out
    for command in (
        "up",
        "serve",
        "worker",
        "demo",
        "doctor",
        "status",
        "chaos",
        "sources",
        "keys",
        "secrets",
        "jobs",
        "tenants",
        "audit",
        "callbacks",
        "plans",
        "subscriptions",
        "migrate",
        "version",
    ):
        assert re.search(rf"^    {command}\s", text, re.MULTILINE)


def test_a_key_is_shown_once_and_kept_as_a_hash(url: str, capsys: Capture) -> None:
    """`keys create --json` gives a well-formed key; the record has its keyed hash, the list its hint, and a revoked one is dead."""
    assert run("keys", "create", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    record = open_record(url)
    assert is_well_formed(made["key"])
    server_key = record.keyring.find(record.server_key_id())
    assert record.directory().keys[keyed_hash(made["key"], server_key)].id == made["id"]
    assert run("keys", "list") == 0
    assert made["key"] not in capsys.readouterr().out
    assert run("keys", "revoke", made["id"]) == 0
    assert run("keys", "revoke", made["id"]) == 1
    assert record.directory().keys == {}
    record.close()


def test_a_key_has_scopes_an_end_and_a_successor(url: str, capsys: Capture) -> None:
    """A key is made for what it is to do; rotated, two are valid until the old one ends, and no third one is made meanwhile."""
    assert run("tenants", "add", "acme") == 0
    assert run("keys", "create", "--tenant", "acme", "--scope", "admin", "--expires-in", "90d", "--name", "ci", "--json") == 0
    old = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert (old["scopes"], old["state"], old["name"]) == (["admin"], "live", "ci")
    assert run("keys", "rotate", old["id"], "--overlap", "1h", "--json") == 0
    new = json.loads(capsys.readouterr().out)
    assert new["key"] != old["key"]
    assert {name: new[name] for name in ("tenant", "scopes", "name", "expires_at", "replaces")} == {
        name: old[name] for name in ("tenant", "scopes", "name", "expires_at")
    } | {"replaces": old["id"]}
    for third in (new["id"], old["id"]):
        assert run("keys", "rotate", third) == 2
        assert "is being rotated already" in capsys.readouterr().err
    assert run("keys", "show", old["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["expires_at"] < old["expires_at"]
    assert run("keys", "revoke", old["id"]) == 0
    assert run("keys", "rotate", new["id"]) == 0
    shown = capsys.readouterr()
    assert "is valid until" in shown.err
    assert run("keys", "list", "--tenant", "acme", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [key["state"] for key in listed] == ["revoked", "live", "live"]
    assert not any(made["key"] in json.dumps(listed) for made in (old, new))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "--tenant", "nobody"), "sentinel tenants add nobody"),
        (("create", "--expires-in", "soon"), "no duration such as"),
        (("create", "--expires-in", "0d"), "expires_in_seconds"),
        (("create", "--name", "a\u202e"), "printable"),
        (("create", "--scope", "root"), "invalid choice"),
        (("show", "key_none"), "no key 'key_none'"),
        (("rotate", "key_none"), "no key 'key_none'"),
    ],
)
def test_a_wrong_key_command_is_refused_with_the_reason(url: str, capsys: Capture, arguments: tuple[str, ...], reason: str) -> None:
    """What is wrong is named, and nothing is kept."""
    assert run("keys", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert run("keys", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_tenant_is_disabled_before_it_is_removed(url: str, capsys: Capture) -> None:
    """A tenant stays until its live jobs have ended, then goes with its sources and keys; the default one never goes."""
    assert run("tenants", "add", "acme") == 0
    assert run("keys", "create", "--tenant", "acme") == 0
    record = open_record(url)
    record.accept([new_job("update-1", tenant="acme")], time.time())
    capsys.readouterr()
    assert run("tenants", "remove", "acme") == 2
    assert "sentinel tenants disable acme" in capsys.readouterr().err
    assert run("tenants", "disable", "acme", "--json") == 0
    assert json.loads(capsys.readouterr().out)["live_jobs"] == 1
    assert run("tenants", "remove", "acme") == 2
    assert "1 job(s) of tenant acme are alive" in capsys.readouterr().err
    assert run("jobs", "cancel", "update-1") == 0
    assert run("tenants", "remove", "acme") == 0
    assert run("tenants", "show", "acme") == 2
    assert record.keys() == []
    assert run("tenants", "remove", "default") == 2
    assert "always exists" in capsys.readouterr().err
    record.close()


def test_tenants_are_shown(url: str, capsys: Capture) -> None:
    """list and show say what a tenant has; disabling is undone by enabling."""
    assert run("tenants", "add", "acme", "--json") == 0
    assert json.loads(capsys.readouterr().out)["added"]
    assert run("callbacks", "allow", "10.0.0.0/8", "--tenant", "acme") == 0
    assert run("tenants", "disable", "acme") == 0
    assert run("tenants", "enable", "acme") == 0
    capsys.readouterr()
    assert run("tenants", "list", "--json") == 0
    acme, default = json.loads(capsys.readouterr().out)
    assert (acme["name"], acme["disabled_at"], acme["networks"]) == ("acme", None, ["10.0.0.0/8"])
    assert default["name"] == "default"
    assert run("tenants", "list") == run("tenants", "show", "acme") == 0
    assert "10.0.0.0/8" in capsys.readouterr().out


def test_a_source_reads_its_secrets_from_the_environment(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:NAME` stands for the variable's value; a missing variable is named; the list shows no secret."""
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=env:BOT_SECRET") == 2
    assert "BOT_SECRET" in capsys.readouterr().err
    monkeypatch.setenv("BOT_SECRET", "s3cret")
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=env:BOT_SECRET") == 0
    record = open_record(url)
    assert record.directory().sources["telegram", "bot"].setting("secret_token") == "s3cret"
    record.close()
    assert run("sources", "list", "--json") == 0
    assert "s3cret" not in capsys.readouterr().out
    assert run("sources", "remove", "bot", "--channel", "telegram") == 0
    assert run("sources", "remove", "bot", "--channel", "telegram") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bot", "--channel", "telegram", "--set", "color=red"), "no setting 'color'"),
        (("bot", "--channel", "telegram", "--set", "secret_token"), "KEY=VALUE"),
        (("bot", "--channel", "telegram"), "secret_token"),
        (("shop", "--channel", "generic", "--set", "secret=not base64!"), "base64"),
        (("shop", "--channel", "generic", "--set", "scheme=magic", "--set", "secret=x"), "scheme must be one of"),
        (("bo/t", "--channel", "telegram", "--set", "secret_token=x"), "name"),
        (("bot", "--channel", "telegram", "--tenant", "nobody", "--set", "secret_token=x"), "sentinel tenants add nobody"),
    ],
)
def test_a_wrong_source_is_refused_with_the_reason(url: str, capsys: Capture, arguments: tuple[str, ...], reason: str) -> None:
    """What is wrong with a source is said before anything is kept."""
    assert run("sources", "add", *arguments) == 2
    assert reason in capsys.readouterr().err


def test_another_tenants_source_is_not_replaced(url: str, capsys: Capture) -> None:
    """A name that another tenant has on the channel is refused."""
    assert run("tenants", "add", "acme") == 0
    assert run("sources", "add", "bot", "--channel", "telegram", "--tenant", "acme", "--set", "secret_token=x") == 0
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=y") == 2
    assert "Another tenant" in capsys.readouterr().err


def test_the_callback_secret_stays_the_same(url: str, capsys: Capture) -> None:
    """The secret is made on first use and verifies what is signed with it."""
    run("callbacks", "secret", "--json")
    first = json.loads(capsys.readouterr().out)["secret"]
    run("callbacks", "secret", "--json")
    assert json.loads(capsys.readouterr().out)["secret"] == first
    assert standard_webhooks.sign(first, "id", 1, b"x").startswith("v1,")
    assert run("callbacks", "allow", "127.0.0.1/32") == 0
    assert run("callbacks", "allow", "localhost") == 2


def test_deliveries_are_listed_and_sent_again(url: str, capsys: Capture) -> None:
    """The list has every callback without its URL, one job's list every attempt, and retry puts it back unless it is under way."""
    record = open_record(url)
    record.accept([new_job("a", channel="api", options={"callback_url": "https://caller.example/hook?key=s3cret"})], time.time())
    worker = record.register("w", "1:?", 1, "ready", time.time())
    (claim,) = record.claim(worker, 1, time.time())
    record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], time.time())
    (callback,) = record.claim_callbacks(1, 30, time.time())
    assert run("deliveries", "retry", claim.job.id) == 2
    assert "being sent" in capsys.readouterr().err
    record.settle_callback(callback, Attempt("failed", "the receiver answered 410", None, 410, gone=True), time.time())
    assert run("deliveries", "list", "--state", "failed") == 0
    shown = capsys.readouterr().out
    assert "caller.example" in shown
    assert "s3cret" not in shown
    assert run("deliveries", "list", claim.job.id, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == 410
    assert run("deliveries", "retry", claim.job.id) == 0
    assert record.find_callback(claim.job.id) == CallbackState("pending", 0, None)
    assert run("deliveries", "retry", "nothing") == 2
    assert [entry.action for entry in record.audit(AuditFilter())] == ["delivery.retried"]
    record.close()


def test_a_callback_secret_is_rotated(url: str, capsys: Capture) -> None:
    """The new secret is shown and is the one that is shown from now on; a grace that is none is refused."""
    run("callbacks", "secret", "--json")
    old = json.loads(capsys.readouterr().out)["secret"]
    assert run("callbacks", "rotate", "--grace", "1h", "--json") == 0
    new = json.loads(capsys.readouterr().out)["secret"]
    run("callbacks", "secret", "--json")
    assert json.loads(capsys.readouterr().out)["secret"] == new != old
    assert run("callbacks", "rotate", "--grace", "soon") == 2
    assert run("callbacks", "rotate", "--grace", "31d") == 2


def test_jobs_are_listed_shown_and_helped_along(url: str, capsys: Capture) -> None:
    """list, show, cancel, retry and replay act on a job by its id or the platform's."""
    record = open_record(url)
    record.accept([new_job("update-1"), new_job("update-2")], time.time())
    assert run("jobs", "list") == 0
    assert "update-1" in capsys.readouterr().out
    assert run("jobs", "cancel", "update-1") == 0
    assert run("jobs", "retry", "update-1") == 0
    worker = record.register("w", "1:?", 1, "ready", time.time())
    (claim,) = record.claim(worker, 1, time.time())
    record.end([Ending(claim.job.id, claim.lease_token, State.FAILED, "no luck")], time.time())
    capsys.readouterr()
    assert run("jobs", "show", "update-1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["last_error"]) == ("failed", "no luck")
    assert [event["step"] for event in shown["events"]][-2:] == ["claimed", "failed"]
    assert run("jobs", "replay", "update-1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["replay_of"] == shown["id"]
    assert run("jobs", "show", "nothing") == 2
    record.close()


def test_control_characters_are_shown_not_obeyed(url: str, capsys: Capture) -> None:
    """What a user wrote cannot steer the operator's terminal."""
    record = open_record(url)
    record.accept([new_job("update-1")], time.time())
    record.close()
    run("jobs", "show", "update-1")
    text = capsys.readouterr().out
    assert "\u202e" not in text
    assert "\\u202e" in text


def test_what_was_never_understood_cannot_be_retried(url: str, capsys: Capture) -> None:
    """A quarantined body that is no message is kept for a person and never reaches the model."""
    record = open_record(url)
    raw = ({"role": "raw", "content": "{}"},)
    record.accept([attrs.evolve(new_job("odd", state=State.QUARANTINED, last_error="no text"), input=raw)], time.time())
    record.close()
    assert run("jobs", "retry", "odd") == 2
    assert run("jobs", "replay", "odd") == 2
    assert "never understood" in capsys.readouterr().err


def test_the_doctor_names_weak_points(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a promise rests on and an operator has changed is a warning of the doctor's."""
    monkeypatch.setattr("sentinel.records.sqlite.SqliteRecord.weak_points", lambda _record, _now: ["fsync is off: oh"])
    run("migrate")
    capsys.readouterr()
    run("doctor", "--json")
    assert {"what": "record", "verdict": "warning", "detail": "fsync is off: oh"} in json.loads(capsys.readouterr().out)


def test_the_doctor_says_what_is_wrong(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing model is wrong, a missing worker a warning; both are named, and the exit code tells."""
    open_record(url).close()
    monkeypatch.setenv("SENTINEL_MODEL", "/nowhere/model.gguf")
    assert run("doctor", "--json") == 1
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert "does not exist" in findings["model"]["detail"]
    assert findings["worker"]["verdict"] == "warning"
    monkeypatch.setenv("SENTINEL_MODEL", "fake:10")
    assert run("doctor") == 0


def test_the_status_says_how_things_are(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each part has a line in plain words: what waits, who works, what is spooled, and what cannot be reached."""
    open_record(url).close()
    assert run("status", "--json") == 0
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["record"]["detail"].endswith("nothing waits")
    assert findings["gateway"]["verdict"] == findings["worker"]["verdict"] == "warning"
    assert findings.keys() == {"gateway", "record", "worker"}

    monkeypatch.setenv("SENTINEL_RECORD", "postgresql://user:hunter2@127.0.0.1:1/db")
    monkeypatch.setenv("SENTINEL_REDIS", "redis://:hunter2@127.0.0.1:1")
    monkeypatch.setenv("SENTINEL_SPOOL", str(tmp_path / "spool"))
    with closing(Spool(tmp_path / "spool", 1.0)) as spool:
        spool.keep([new_job("one"), new_job("two")], time.time() - 12)
    assert run("status") == 1
    text = capsys.readouterr().out
    assert re.search(r"2 spooled, the oldest 1[2-9] s ago", text)
    assert "Workers claim from the record meanwhile" in text
    assert re.search(r"record +wrong +The record cannot be written or read now", text)
    assert "hunter2" not in text


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_look_changes_nothing(
    unopened_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    """Who only asks how things are makes no record where there is none, and migrates none; what is missing is said."""
    monkeypatch.setenv("SENTINEL_MODEL", "fake:10")
    assert run(command) == 0
    assert "there is no such file yet" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with closing(open_record(unopened_url, prepared=False)) as record:
        assert run(command) == 0
        assert re.search(r"lacks 0001_jobs.sql, .*: run sentinel migrate", capsys.readouterr().out)
        assert record.missing_migrations()[0] == "0001_jobs.sql"
    assert run("migrate") == 0
    assert "applied 0001_jobs.sql" in capsys.readouterr().out
    assert run(command) == 0
    assert "nothing waits" in capsys.readouterr().out


def test_the_status_names_a_spool_that_cannot_be(
    url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A spool's folder that cannot be made is wrong, before a gateway is started with it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SENTINEL_RECORD", "postgresql://user@127.0.0.1:1/db")
    monkeypatch.setenv("SENTINEL_SPOOL", str(tmp_path / "file" / "spool"))
    assert run("status", "--json") == 1
    (spool,) = [finding for finding in json.loads(capsys.readouterr().out) if finding["what"] == "spool"]
    assert spool["verdict"] == "wrong"
    assert "cannot be written" in spool["detail"]


def test_the_status_asks_a_socket_file(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A gateway behind a socket file is asked like any other; one that is gone is told from one that answers."""
    monkeypatch.setenv("SENTINEL_BIND", f"unix:{tmp_path / 'gateway.sock'}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "gateway.sock"))
        listener.listen()

        def answer() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(1000)
                body = b'{"checks": {"record": "ok", "spool": "3 spooled for 2 s: it is full"}}'
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        gateway = threading.Thread(target=answer)
        gateway.start()
        run("status")
        gateway.join(5)
    assert "spool: 3 spooled for 2 s: it is full" in capsys.readouterr().out
    run("status")
    assert "nobody answers at unix:" in capsys.readouterr().out


def test_a_wrong_setting_is_named(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value stops every command with the variable's name."""
    monkeypatch.setenv("SENTINEL_ACK_BUDGET", "soon")
    assert run("jobs", "list") == 2
    assert "SENTINEL_ACK_BUDGET" in capsys.readouterr().err


def test_migrate_can_be_run_twice(unopened_url: str, tmp_path: Path) -> None:
    """`sentinel migrate` makes the schema, and again changes nothing."""
    assert run("migrate") == 0
    assert run("migrate") == 0
    connection = sqlite3.connect(tmp_path / "cli.db")
    assert connection.execute("SELECT count(*) FROM job_overview").fetchone() == (0,)
    connection.close()


def test_a_variable_that_nothing_reads_is_named(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped SENTINEL_ variable is warned of, so that nobody believes it is in force."""
    monkeypatch.setenv("SENTINEL_ACKBUDGET", "2")
    monkeypatch.setenv("SENTINEL_LOG_LEVEL", "warning")
    assert run("jobs", "list") == 0
    assert "SENTINEL_ACKBUDGET" in capsys.readouterr().err


def test_the_server_key_is_shown_by_its_name_and_rotated(url: str, capsys: Capture, tmp_path: Path) -> None:
    """`secrets rotate` makes a fresh key and seals all with it; `secrets show` tells which seals what, and shows no key."""
    assert run("secrets", "show") == 0
    assert "no server key yet" in capsys.readouterr().out
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=canary") == 0
    capsys.readouterr()
    assert run("secrets", "show", "--json") == 0
    (before,) = json.loads(capsys.readouterr().out)["server_keys"]
    assert before | {"server_key": ""} == {"server_key": "", "in_force": True, "here": True, "used_by": 1}
    assert run("secrets", "rotate", "--json") == 0
    (after,) = json.loads(capsys.readouterr().out)["server_keys"]
    assert after == before | {"server_key": after["server_key"]}
    assert after["server_key"] != before["server_key"]
    record = open_record(url)
    assert record.directory().sources["telegram", "bot"].setting("secret_token") == "canary"
    record.close()
    assert (tmp_path / "cli.db.key").stat().st_mode & 0o777 == 0o600


def test_a_record_without_its_server_key_is_refused_plainly(url: str, capsys: Capture, tmp_path: Path) -> None:
    """Commands that need the secrets say which key is missing and where to bring it."""
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=canary") == 0
    (tmp_path / "cli.db.key").unlink()
    capsys.readouterr()
    assert run("sources", "list") == 2
    assert "SENTINEL_SECRET_KEY" in capsys.readouterr().err


def test_conversations_are_held_released_and_erased(url: str, capsys: Capture) -> None:
    """A held chat is listed until it is released, and what is kept of a chat or a person is erased at once."""
    place = ("--channel", "telegram", "--source", "bot")
    assert run("conversations", "hold", "7", *place) == 0
    capsys.readouterr()
    assert run("conversations", "list", "--json") == 0
    assert [held["conversation"] for held in json.loads(capsys.readouterr().out)] == ["7"]
    assert run("conversations", "release", "7") == 0
    assert run("conversations", "release", "7") == 1
    with closing(open_record(url)) as record:
        jobs = [new_job("one", conversation="7"), new_job("two", sender="ada")]
        record.accept(jobs, time.time())
        capsys.readouterr()
        assert run("conversations", "erase", "7") == 0
        assert run("conversations", "erase", "--user", "ada") == 0
        assert capsys.readouterr().out == "Erased 1 jobs.\nErased 1 jobs.\n"
        found = [record.find_job(job.id) for job in jobs]
        assert [job.state for job in found if job] == [State.CANCELLED] * 2
        assert "hi" not in str([job.input for job in found if job])


def test_plans_and_subscriptions(url: str, capsys: Capture) -> None:
    """A tenant gets a plan with special terms until a time; what it may use and has used is shown; then it is ended."""
    assert run("plans", "set", "pro", "jobs=100", "tenant_rate=60/60") == 0
    assert run("subscriptions", "set", "--plan", "pro", "--status", "trialing", "--valid-until", "2999-12-31", "jobs=7") == 0
    assert "2999-12-31T00:00:00.000Z" in capsys.readouterr().out
    with closing(open_record(url)) as record:
        record.accept([NewJob("j", "default", "api", "api", "", ({"role": "user", "content": "x"},), time.time())], time.time())
    assert run("subscriptions", "show", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["terms"], shown["standing"]) == ({"jobs": "7", "tenant_rate": "60/60"}, "good")
    assert (shown["used"]["jobs"], shown["used"]["tokens"]) == (1, 0)
    assert run("subscriptions", "end") == 0
    assert run("subscriptions", "list") == 0
    assert "ended" in capsys.readouterr().out
    assert run("plans", "list") == 0
    assert "jobs=100 tenant_rate=60/60" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("plans", "set", "pro", "job=1"), "no term 'job'"),
        (("plans", "set", "pro", "jobs"), "jobs must be"),
        (("plans", "set", "a b"), "plan name"),
        (("subscriptions", "set", "--plan", "none"), "no plan 'none'"),
        (("subscriptions", "set", "--plan", "pro", "--tenant", "nobody"), "no tenant 'nobody'"),
        (("subscriptions", "set", "--plan", "pro", "--valid-until", "soon"), "must be a time"),
        (("subscriptions", "show"), "has no subscription"),
        (("subscriptions", "end"), "has no subscription"),
    ],
)
def test_a_wrong_subscription_is_refused_with_the_reason(
    url: str, capsys: Capture, arguments: tuple[str, ...], reason: str
) -> None:
    """What is wrong with a plan or a subscription is said."""
    if "none" not in arguments and arguments[0] == "subscriptions":
        run("plans", "set", "pro")
    assert run(*arguments) == 2
    assert reason in capsys.readouterr().err


def test_a_sources_secret_is_rotated(url: str, capsys: Capture) -> None:
    """`sources rotate` changes what is named and keeps the rest; the old secret is accepted until `--end`."""
    assert run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=one", "--set", "bot_token=1:a") == 0
    record = open_record(url)
    bot = ("bot", "--channel", "telegram")
    assert run("sources", "rotate", *bot, "--set", "secret_token=two", "--set", "bot_token=1:b") == 0
    assert "Two are accepted of: secret_token" in capsys.readouterr().out
    source = record.directory().sources["telegram", "bot"]
    assert source.secrets("secret_token") == ("two", "one")
    assert source.secrets("bot_token") == ("1:b",)
    assert run("sources", "rotate", *bot, "--set", "secret_token=three") == 2
    assert "is being rotated already" in capsys.readouterr().err
    assert run("sources", "show", *bot, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rotating"], shown["live_jobs"]) == (["secret_token"], 0)
    assert run("sources", "rotate", *bot, "--end", "--set", "secret_token=x") == 2
    assert run("sources", "rotate", *bot, "--end") == 0
    assert record.directory().sources["telegram", "bot"].settings == {"secret_token": "two", "bot_token": "1:b"}
    assert run("sources", "rotate", *bot, "--end") == 2
    assert run("sources", "rotate", *bot) == 2
    assert run("sources", "rotate", "nobody", "--channel", "telegram", "--set", "secret_token=x") == 2
    record.close()


def test_a_source_with_live_jobs_stays(url: str, capsys: Capture) -> None:
    """A source is disabled first and removed when its jobs have ended: their replies need it."""
    bot = ("bot", "--channel", "telegram")
    assert run("sources", "add", *bot, "--set", "secret_token=one") == 0
    record = open_record(url)
    record.accept([new_job("update-1")], time.time())
    capsys.readouterr()
    assert run("sources", "remove", *bot) == 2
    assert "disable it first" in capsys.readouterr().err
    assert run("sources", "disable", *bot) == 0
    assert "1 job(s) of it are alive" in capsys.readouterr().out
    assert run("sources", "enable", *bot) == run("sources", "disable", *bot, "--json") == 0
    assert run("jobs", "cancel", "update-1") == run("sources", "remove", *bot, "--json") == 0
    assert record.directory().sources == {}
    record.close()


def test_the_audit_tells_who_did_what_and_no_secret(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change by a command is a line with user, action and subject, and no secret; what changed nothing has none."""
    monkeypatch.setenv("LOGNAME", "ada")
    record = open_record(url)
    record.accept([new_job("update-1")], time.time())
    bot = ("bot", "--channel", "telegram")
    for command in (
        ("tenants", "add", "acme"),
        ("tenants", "add", "acme"),
        ("tenants", "disable", "acme"),
        ("tenants", "enable", "acme"),
        ("tenants", "enable", "acme"),
        ("sources", "add", *bot, "--set", "secret_token=canary-1"),
        ("sources", "rotate", *bot, "--set", "secret_token=canary-2"),
        ("sources", "rotate", *bot, "--end"),
        ("keys", "create", "--name", "ci"),
        ("callbacks", "allow", "10.0.0.0/8"),
        ("callbacks", "secret"),
        ("jobs", "quarantine", "update-1", "--reason", "odd"),
        ("jobs", "retry", "update-1"),
        ("jobs", "replay", "update-1"),
        ("jobs", "cancel", "update-1"),
        ("secrets", "rotate"),
    ):
        assert run(*command) == 0, command
    assert run("jobs", "retry", "nothing") == run("tenants", "remove", "acme") == 2
    shown = capsys.readouterr().out
    assert run("audit", "list", "--json") == 0
    text = capsys.readouterr().out
    entries = json.loads(text)
    assert [entry["action"] for entry in reversed(entries)] == [
        *("tenant.added", "tenant.disabled", "tenant.enabled", "source.put", "source.rotated", "source.rotation_ended"),
        *("key.created", "network.allowed", "callback_secret.shown"),
        *("job.quarantined", "job.retried", "job.replayed", "job.cancelled", "server_key.rotated"),
    ]
    assert {entry["actor"] for entry in entries} == {"cli:ada"}
    (secret,) = re.findall("whsec_[^ \n]+", shown)
    (key,) = re.findall("snt_[0-9A-Za-z]{49}", shown)
    assert not [word for word in ("canary", secret, key) if word in text]
    assert run("audit", "list", "--action", "key.created") == 0
    assert re.search(r"cli:ada +key.created +key key_\w+ ", capsys.readouterr().out)
    record.close()


def test_the_audit_tells_of_plans_and_chats_and_names_no_person(url: str, capsys: Capture) -> None:
    """Plans, subscriptions, held chats and erasures are lines too; whose chat it was is not in them, since they stay."""
    assert run("plans", "set", "basic", "jobs=10") == 0
    assert run("subscriptions", "set", "--plan", "basic") == run("subscriptions", "end") == 0
    chat = ("ada-lovelace", "--channel", "telegram", "--source", "bot")
    assert (
        run("conversations", "hold", *chat) == run("conversations", "release", *chat) == run("conversations", "erase", *chat) == 0
    )
    capsys.readouterr()
    assert run("audit", "list", "--json") == 0
    text = capsys.readouterr().out
    assert [entry["action"] for entry in reversed(json.loads(text))] == [
        *("plan.put", "subscription.put", "subscription.put"),
        *("conversation.held", "conversation.released", "erasure.requested"),
    ]
    assert "lovelace" not in text


def test_a_worker_seldom_looks_for_cycles(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of a few hundred jobs does not make the worker's garbage collector run several times."""
    monkeypatch.setattr(processes.os, "nice", lambda _increment: 0)
    monkeypatch.setattr(processes.trio, "run", lambda _work: thresholds.append(gc.get_threshold()[0]))
    thresholds: list[int] = []
    before = gc.get_threshold()
    try:
        run("worker")
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    (threshold,) = thresholds
    assert threshold >= 10_000
