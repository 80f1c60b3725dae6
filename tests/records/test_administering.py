"""The administering part of a record, on every store: keys, what is disabled, what is removed, and the audit."""

from types import SimpleNamespace

import attrs
import pytest

from sentinel.administration import Administrator, tenants
from sentinel.cli.jobs import ALL
from sentinel.model import Key, Source, State
from sentinel.records import JobFilter
from sentinel.records.directory import AuditEntry, AuditFilter
from tests.records.conftest import NOW, TENANT, new_job

SOURCE = Source(TENANT, "telegram", "bot", {"secret_token": "s"})
KEY = Key("key_1", TENANT, "snt_ab…", NOW)


def test_a_key_keeps_what_it_may_do(record):
    """Name, scopes, end and predecessor come back; a key can be made to end sooner, never later, and not when it is revoked."""
    key = attrs.evolve(KEY, name="ci", scopes=("admin",), expires_at=NOW + 100, replaces="key_0")
    record.add_key(key, "hash", NOW)
    assert record.directory().keys == {"hash": key}
    assert [record.expire_key("key_1", NOW + after) for after in (200, 50, 50)] == [False, True, False]
    assert record.keys() == [attrs.evolve(key, expires_at=NOW + 50)]
    record.revoke_key("key_1", NOW)
    assert not record.expire_key("key_1", NOW + 1)


def test_uses_of_keys(record):
    """The last use is kept, whatever order it comes in, for keys that exist; it is no change of the directory, a new hash is."""
    record.add_key(KEY, "hash", NOW)
    version = record.directory_version()
    record.note_key_uses({"key_1": NOW + 5, "gone": NOW}, {})
    record.note_key_uses({"key_1": NOW + 3}, {})
    assert [key.last_used_at for key in record.keys()] == [NOW + 5]  # noqa: SIM118  no mapping
    assert record.directory_version() == version
    record.note_key_uses({}, {"key_1": "better hash"})
    assert record.directory().keys.keys() == {"better hash"}
    assert record.directory_version() != version


def test_what_is_disabled(record):
    """A disabled tenant or source is said to be; disabling twice, or enabling what is not disabled, changes nothing."""
    record.put_source(SOURCE, NOW)
    for disable, name in ((record.disable_source, SOURCE), (record.disable_tenant, TENANT)):
        version = record.directory_version()
        assert [disable(name, at) for at in (None, NOW, NOW + 1)] == [False, True, False]
        assert record.directory_version() != version
    directory = record.directory()
    assert directory.sources["telegram", "bot"].disabled_at == NOW
    assert directory.disabled_tenants == {TENANT}
    assert [tenant.disabled_at for tenant in record.tenants()] == [NOW]
    record.put_source(SOURCE, NOW)
    assert record.directory().sources["telegram", "bot"].disabled_at == NOW
    assert [record.disable_source(SOURCE, None), record.disable_tenant(TENANT, None)] == [True, True]
    assert record.directory().disabled_tenants == frozenset()


def test_many_tenants_are_listed_in_one_walk(record):
    """However many tenants there are, sources and keys are walked through once for all of them, and networks are told apart."""
    for number in range(30):
        record.add_tenant(f"t{number}", NOW)
        record.put_source(attrs.evolve(SOURCE, tenant=f"t{number}", name=f"bot{number}"), NOW)
        record.add_key(attrs.evolve(KEY, id=f"key_{number}", tenant=f"t{number}"), f"hash {number}", NOW)
        record.allow_network(f"t{number}", f"10.0.{number}.0/24")
    directory = record.directory()
    assert directory.networks["t7"] == ["10.0.7.0/24"]
    counted = attrs.evolve(directory, sources=Walked(directory.sources), keys=Walked(directory.keys))
    seen = SimpleNamespace(directory=lambda: counted, tenants=record.tenants)
    listed = tenants.listing(Administrator(seen, "cli:ada", NOW))
    assert [tenant["sources"] + tenant["keys"] + len(tenant["networks"]) for tenant in listed] == [0] + [3] * 30
    assert (counted.sources.walks, counted.keys.walks) == (1, 1)


class Walked(dict):
    """Counts how often it was walked through."""

    walks = 0

    def values(self):
        self.walks += 1
        return super().values()


def test_a_tenant_is_removed_with_what_it_has(record):
    """Sources, keys and networks go with their tenant, and nobody else's; its jobs stay."""
    record.add_tenant("t", NOW)
    record.put_source(attrs.evolve(SOURCE, tenant="t"), NOW)
    record.add_key(attrs.evolve(KEY, tenant="t"), "hash", NOW)
    record.note_key_uses({"key_1": NOW}, {})
    record.allow_network("t", "10.0.0.0/8")
    record.allow_network(TENANT, "10.0.0.0/8")
    record.accept([new_job(tenant="t")], NOW)
    version = record.directory_version()
    assert [record.remove_tenant("t"), record.remove_tenant("t")] == [True, False]
    directory = record.directory()
    assert (directory.tenants, directory.sources, directory.keys) == (frozenset({TENANT}), {}, {})
    assert directory.networks == {TENANT: ["10.0.0.0/8"]}
    assert record.directory_version() != version
    assert [job.tenant for job in record.list_jobs(JobFilter())] == ["t"]


def test_live_jobs(bench):
    """Jobs that will still do something are counted for a tenant and for one of its sources."""
    first, *_ = bench.accept(new_job(), new_job(), new_job(tenant="t"), new_job(source="other"))
    bench.record.cancel(first, TENANT, NOW)
    assert bench.record.set_aside(bench.accept(new_job())[0], "odd", NOW)
    assert bench.record.live_jobs(TENANT) == 2
    bench.claim(3)
    assert bench.record.live_jobs(TENANT) == 2
    assert [bench.record.live_jobs(TENANT, "telegram", name) for name in ("bot", "other", "none")] == [1, 1, 0]
    assert [bench.record.live_jobs(name) for name in ("t", "nobody")] == [1, 0]


def test_audit(record):
    """What was done is listed newest first, a page at a time; an entry cannot be changed or removed, not by SQL either."""
    entries = [
        AuditEntry(NOW + n, "cli:ada", action, f"key key_{n}", tenant, {"scopes": ["admin"]})
        for n, (action, tenant) in enumerate([("key.created", "a"), ("key.revoked", "a"), ("key.created", "b")])
    ]
    for entry in entries:
        record.write_audit(entry)
    listed = record.audit(AuditFilter())
    assert [attrs.evolve(entry, sequence=0) for entry in listed] == entries[::-1]
    assert [entry.subject for entry in record.audit(AuditFilter(before=listed[0].sequence, limit=1))] == ["key key_1"]
    assert [entry.subject for entry in record.audit(AuditFilter(tenant="a", action="key.created"))] == ["key key_0"]
    for statement in ("UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="audit rows are never"):
            execute(record, statement)
    assert record.audit(AuditFilter()) == listed


def test_several_moves_in_one_transaction(record):
    """What is called in a transaction happens as a whole, or not at all."""
    with pytest.raises(RuntimeError), record.transaction():
        assert record.add_tenant("t", NOW)
        record.put_source(attrs.evolve(SOURCE, tenant="t"), NOW)
        raise RuntimeError
    assert record.directory().tenants == {TENANT}
    with record.transaction():
        record.add_tenant("t", NOW)
        record.write_audit(AuditEntry(NOW, "cli:ada", "tenant.added", "tenant t", "t"))
        assert "t" in record.directory().tenants
    assert record.directory().tenants == {TENANT, "t"}
    assert len(record.audit(AuditFilter())) == 1


def test_set_aside(bench):
    """A job that nobody has begun can be quarantined for a person, who may put it back; a running or ended one cannot."""
    waiting, running = bench.accept(new_job())[0], None
    assert bench.record.set_aside(waiting, "looks odd", NOW)
    assert not bench.record.set_aside(waiting, "again", NOW)
    job = bench.job(waiting)
    assert (job.state, job.last_error, job.finished_at) == (State.QUARANTINED, "looks odd", NOW)
    assert bench.last_step(waiting).detail == "looks odd"
    assert bench.claim() == []
    assert bench.record.retry(waiting, NOW)
    (claim,) = bench.claim()
    running = claim.job.id
    assert (running, bench.record.set_aside(running, "late", NOW)) == (waiting, False)
    assert not bench.record.set_aside("nothing", "x", NOW)


def test_what_is_set_aside_lets_the_next_of_its_chat_go(bench):
    """A quarantined message holds nobody up."""
    first, second = bench.accept(new_job(conversation="c"), new_job(conversation="c"))
    bench.record.set_aside(first, "odd", NOW)
    assert [claim.job.id for claim in bench.claim(2)] == [second]


def execute(record, statement):
    """Run SQL as somebody with a shell would."""
    if hasattr(record, "_file"):
        record._file.connection.execute(statement)
    else:
        record._execute(statement)


def test_all_jobs_are_listed(record):
    """What `sentinel jobs list --json` asks for, every store can give."""
    record.accept([new_job(), new_job()], NOW)
    assert len(record.list_jobs(JobFilter(limit=ALL))) == 2
