"""What makes a store a record: every store passes all of this, or is none."""

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from sentinel.model import Claim, Key, Source, State
from sentinel.processes import process_name
from sentinel.records import (
    RESCUES_MAX,
    Ending,
    JobFilter,
    Lease,
    PartSettled,
    Progress,
    Record,
    Reply,
)
from sentinel.records.callbacks import CALLBACKS_PER_HOST, CALLBACKS_PER_TENANT, Attempt, CallbackState
from sentinel.records.queries import load_migrations
from sentinel.standard_webhooks import in_force
from tests.records.conftest import NOW, TENANT, Bench, new_job, open_store

ENDS = [State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUARANTINED]
CALLBACK = {"callback_url": "https://caller.example/hook"}
TEXTS = {
    "emoji": "🎉👩‍👩‍👧‍👦 ok",
    "right to left": "\u202eשלום\u202c مرحبا",  # noqa: RUF001  it is meant to look odd
    "separators": "a\u2028b\u2029c\x85d\r\ne\tf\x01\x7f",
    "beyond the BMP": "𐍈𝄞\U0010ffff",
    "not normalised": "e\u0301 é \ufeff\ufffe",
    "looks like something else": '{"a": "\\u0041\\n"} %s :id \'; DROP TABLE jobs; -- \\',
    "long": "ü" * 70_000,
}


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of the calls, made from one thread each, as near together as threads can."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def end_as(bench: Bench, state: State, dead_process: str, **changes: Any) -> str:
    """The id of a new job that ended in that state."""
    if state is State.QUARANTINED:
        (job_id,) = bench.accept(new_job(**changes))
        for _ in range(RESCUES_MAX):
            bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
            bench.record.reap(NOW)
    else:
        claim = bench.running(**changes)
        job_id = claim.job.id
        bench.end(claim, state, error=None if state is State.SUCCEEDED else "why")
    assert bench.state(job_id) is state
    return job_id


class TestAccept:
    def test_a_new_job_is_as_it_was_given(self, bench):
        """Everything that was accepted is read back, and the job is queued."""
        given = new_job(
            conversation="c",
            sender="Ada",
            reply_to={"chat_id": 5},
            options={"max_output_tokens": 9},
            fingerprint="f",
            priority=7,
            replay_of="x",
        )
        bench.accept(given)
        job = bench.job(given.id)
        same = {field.name for field in attrs.fields(type(given))} - {"verified_by", "run_at", "metering"}
        assert {name: getattr(job, name) for name in same} == {name: getattr(given, name) for name in same}
        assert (job.state, job.attempt, job.rescues, job.created_at, job.run_at) == (State.QUEUED, 0, 0, NOW, NOW)
        assert (job.started_at, job.finished_at, job.cancel_at, job.result, job.progress) == (None, None, None, None, 0)

    def test_the_same_batch_twice(self, bench):
        """A batch whose outcome was unknown is repeated without harm, and says that nothing in it was new."""
        jobs = [new_job() for _ in range(3)]
        assert bench.record.accept(jobs, NOW) == [True] * 3
        assert bench.record.accept([*jobs, new_job()], NOW) == [False] * 3 + [True]
        assert len(bench.record.list_jobs(JobFilter())) == 4

    def test_the_same_id_twice_in_a_batch(self, bench):
        """Of two jobs of one id in a batch the first is kept, and only it was new."""
        first, other = new_job(sender="first"), new_job()
        batch = [first, other, attrs.evolve(first, sender="second"), first]
        assert bench.record.accept(batch, NOW) == [True, True, False, False]
        assert bench.job(first.id).sender == "first"

    def test_after_the_end_it_is_still_known(self, bench):
        """A delivery that the platform repeats after the job has ended makes no new job."""
        job = new_job()
        bench.accept(job)
        bench.end(bench.claim()[0], State.SUCCEEDED)
        assert bench.record.accept([job], NOW) == [False]
        assert bench.state(job.id) is State.SUCCEEDED

    def test_two_connections_at_once(self, make_record):
        """Each of many ids that two connections accept at once is new for exactly one of them."""
        records = [make_record(), make_record()]
        batches = [[new_job() for _ in range(5)] for _ in range(20)]
        results = at_once(*[lambda record=record: [record.accept(batch, NOW) for batch in batches] for record in records])
        for one, other in zip(*results, strict=True):
            assert all(a != b for a, b in zip(one, other, strict=True))
        assert len(records[0].list_jobs(JobFilter(limit=1000))) == 100

    def test_quarantined_from_the_start(self, bench):
        """What was not understood is kept for a person, with the reason, and never claimed nor retried."""
        (job_id,) = bench.accept(new_job(state=State.QUARANTINED, last_error="no text", input=({"role": "raw", "content": "?"},)))
        job = bench.job(job_id)
        assert (job.state, job.last_error, job.finished_at) == (State.QUARANTINED, "no text", NOW)
        assert bench.claim() == []
        assert not bench.record.retry(job_id, NOW)

    @pytest.mark.parametrize("others", [0, 20])
    def test_ended_from_the_start(self, bench, others):
        """What was dropped is kept with the reason and never claimed, alone or in a big batch; a person can bring it back."""
        dropped = new_job(state=State.CANCELLED, last_error="dropped", conversation="c")
        bench.accept(dropped, *[new_job() for _ in range(others)])
        job = bench.job(dropped.id)
        assert (job.state, job.last_error, job.finished_at) == (State.CANCELLED, "dropped", NOW)
        assert dropped.id not in [claim.job.id for claim in bench.claim(others + 1)]
        assert bench.record.retry(dropped.id, NOW)
        assert [claim.job.id for claim in bench.claim(1)] == [dropped.id]

    def test_what_the_screening_found(self, bench):
        """The screening of a job is a step of its story, and only of its own: metadata that looks alike is none."""
        found = {"screening": {"score": 0.7, "reasons": ["forged_turn"]}}
        marked, alike = bench.accept(new_job(options=found), new_job(options={"metadata": found}))
        assert [step.step for step in bench.record.story(marked)] == ["received", "verified", "screened", "accepted"]
        assert "forged_turn" in bench.record.story(marked)[2].detail
        assert [step.step for step in bench.record.story(alike)] == ["received", "verified", "accepted"]

    def test_nothing(self, bench):
        """An empty batch is accepted."""
        assert bench.record.accept([], NOW) == []

    def test_one_that_cannot_be_written(self, bench):
        """A batch with a job that no store could keep raises, not as Unavailable, and leaves nothing behind."""
        good = new_job()
        with pytest.raises(Exception, match=r".") as caught:
            bench.record.accept([good, new_job(sender=None)], NOW)
        assert type(caught.value).__name__ != "Unavailable"
        assert bench.record.find_job(good.id) is None
        assert bench.record.accept([good], NOW) == [True]

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    def test_every_text_survives(self, bench, text):
        """Text comes back byte for byte, wherever it is kept."""
        claim = bench.running(
            input=({"role": "user", "content": text},),
            reply_to={"to": text},
            sender=text,
            conversation=text,
            external_id=text,
            options={"metadata": {text: text}},
        )
        bench.reply(claim, text, text="all: " + text)
        bench.settle(claim, 1, "pending", reason=text)
        job = bench.job(claim.job.id)
        assert (job.input[0]["content"], job.reply_to, job.sender) == (text, {"to": text}, text)
        assert (job.conversation, job.external_id, job.options) == (text, text, {"metadata": {text: text}})
        assert job.result == {"output_text": "all: " + text}
        assert [part.text for part in bench.record.pending_parts(job.id)] == [text]
        assert bench.record.list_jobs(JobFilter(external_id=text)) == [job]


class TestWithdraw:
    def test_only_what_nobody_has_begun(self, bench):
        """A queued job goes without a trace; a running one, and one that was given back after it was begun, stay."""
        running = bench.running()
        released = bench.running()
        bench.end(released, State.QUEUED, uncount=True)
        (queued,) = bench.accept(new_job())
        assert bench.record.withdraw([queued, running.job.id, released.job.id, "unknown"]) == 1
        assert bench.record.find_job(queued) is None
        assert bench.state(running.job.id) is State.RUNNING
        assert bench.state(released.job.id) is State.QUEUED

    def test_the_conversation_goes_on(self, bench):
        """The next message of a chat can be claimed once the one before it is withdrawn."""
        first, second = bench.accept(new_job(conversation="c"), new_job(conversation="c"))
        bench.record.withdraw([first])
        assert [claim.job.id for claim in bench.claim(2)] == [second]


class TestClaim:
    def test_a_claim_is_a_running_job_with_a_lease(self, bench):
        """A claimed job runs, counts an attempt, and its lease is the worker's."""
        claim = bench.running()
        assert claim.job == bench.job(claim.job.id)
        assert (claim.job.state, claim.job.attempt, claim.job.started_at) == (State.RUNNING, 1, NOW)
        assert bench.record.leases(bench.worker) == [Lease(claim.job.id, claim.lease_token, cancelled=False)]
        assert bench.claim() == []

    def test_a_claim_tells_all_of_its_job(self, bench):
        """What is claimed a second time comes as the record then shows it, with all that it was given and all that befell it."""
        given = {
            "conversation": "c", "sender": "Ada", "reply_to": {"chat_id": 5}, "options": {"watch": True}, "fingerprint": "f",
            "replay_of": "another", "priority": 7, "received_at": NOW - 9,
        }  # fmt: skip
        first = bench.running(**given)
        bench.reply(first, "Hi", text="Hi")
        bench.end(first, State.QUEUED, error="again", run_at=NOW)
        (claim,) = bench.claim(now=NOW + 1)
        assert claim.job == bench.job(first.job.id)
        assert (claim.job.started_at, claim.job.attempt, claim.job.progress, claim.job.last_error) == (NOW + 1, 2, 1.0, "again")

    def test_priority_then_age(self, bench):
        """The smaller priority comes first, and of one priority what came first."""
        late, early, urgent = bench.accept(new_job(priority=200), new_job(received_at=NOW - 2), new_job(priority=5))
        (second,) = bench.accept(new_job(received_at=NOW - 1))
        assert [claim.job.id for _ in range(4) for claim in bench.claim()] == [urgent, early, second, late]

    def test_claimed_together_in_order(self, bench):
        """What one claim brings is in order of priority and age, whatever else is in the jobs."""
        ids = bench.accept(
            new_job(priority=200, fingerprint="a"),
            new_job(fingerprint="d"),
            new_job(fingerprint="b"),
            new_job(priority=5, fingerprint="c"),
        )
        assert [claim.job.id for claim in bench.claim(4)] == [ids[3], ids[1], ids[2], ids[0]]

    def test_no_more_than_asked_for(self, bench):
        """A claim brings at most as many jobs as were asked for, each once."""
        ids = bench.accept(*[new_job(received_at=NOW + number) for number in range(5)])
        assert [claim.job.id for claim in [*bench.claim(2), *bench.claim(2), *bench.claim(2)]] == ids

    def test_fair_between_tenants(self, bench):
        """One job of a small tenant does not wait behind fifty of a big one."""
        bench.record.add_tenant("small", NOW)
        bench.accept(*[new_job() for _ in range(50)], new_job(tenant="small"))
        assert {claim.job.tenant for claim in bench.claim(2)} == {TENANT, "small"}

    def test_fair_with_one_slot(self, bench):
        """With more tenants than slots chance decides, so nobody is always last."""
        random.seed(1)
        for name in ("a", "b"):
            bench.accept(*[new_job(tenant=name) for _ in range(20)])
        first = [bench.claim()[0].job.tenant for _ in range(20)]
        assert {"a", "b"} == set(first)

    def test_one_tenant_may_have_it_all(self, bench):
        """Slots that no other tenant wants go to the one that has jobs."""
        bench.accept(*[new_job(tenant="a") for _ in range(5)], new_job(tenant="b"))
        assert sorted(claim.job.tenant for claim in bench.claim(4)) == ["a", "a", "a", "b"]

    def test_more_tenants_than_anyone_counts(self, bench):
        """No tenant is left out, however many there are."""
        bench.accept(*[new_job(tenant=f"t{number:04}") for number in range(1200)])
        assert len({claim.job.tenant for _ in range(4) for claim in bench.claim(300)}) == 1200

    def test_two_workers_at_once(self, make_record):
        """Jobs that two workers claim at once belong to one of them each."""
        records = [make_record(), make_record()]
        workers = [record.register("w", process_name(), 4, "ready", NOW) for record in records]
        records[0].accept([new_job() for _ in range(60)], NOW)

        def claim_all(record: Record, worker: int) -> list[str]:
            return [claim.job.id for _ in range(30) for claim in record.claim(worker, 2, NOW)]

        one, other = at_once(*[lambda p=pair: claim_all(*p) for pair in zip(records, workers, strict=True)])
        assert len(one + other) == len(set(one + other)) == 60

    def test_a_dead_worker_gets_nothing(self, bench):
        """Who was declared dead claims no jobs: they would only be taken back, and blamed for it."""
        bench.accept(new_job())
        bench.record.bury(bench.worker, NOW)
        assert bench.claim() == []
        assert bench.record.claim(12345, 1, NOW) == []

    def test_scheduled_jobs_become_due(self, bench):
        """A job that waits for its time is claimed then and not before."""
        claim = bench.running()
        bench.end(claim, State.QUEUED, run_at=NOW + 10, error="busy")
        assert bench.state(claim.job.id) is State.SCHEDULED
        assert bench.claim(now=NOW + 9.9) == []
        assert bench.claim(now=NOW + 10)[0].job.id == claim.job.id


class TestConversations:
    def test_one_at_a_time_and_in_order(self, bench):
        """The messages of a chat are claimed one by one, as they came, whatever their batch, while other chats go on."""
        ids = bench.accept(new_job(conversation="c"), new_job(conversation="c"), new_job(conversation="other"))
        ids += bench.accept(new_job(conversation="c"))
        first, other = bench.claim(4)
        assert [first.job.id, other.job.id] == [ids[0], ids[2]]
        assert bench.claim(4) == []
        bench.end(first, State.SUCCEEDED)
        (second,) = bench.claim(4)
        assert second.job.id == ids[1]
        bench.end(second, State.FAILED)
        assert [claim.job.id for claim in bench.claim(4)] == [ids[3]]

    def test_an_urgent_message_does_not_overtake(self, bench):
        """Within a chat the order of arrival is stronger than priority."""
        first, _second = bench.accept(new_job(conversation="c"), new_job(conversation="c", priority=1))
        assert [claim.job.id for claim in bench.claim(2)] == [first]

    def test_the_next_waits_for_a_scheduled_one(self, bench):
        """While the earlier message is to be tried again later, the next one waits too."""
        first = bench.running(conversation="c")
        (second,) = bench.accept(new_job(conversation="c"))
        bench.end(first, State.QUEUED, run_at=NOW + 60)
        assert bench.claim(2, NOW + 1) == []
        again = bench.claim(2, NOW + 60)
        assert [claim.job.id for claim in again] == [first.job.id]
        bench.end(again[0], State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(2)] == [second]

    @pytest.mark.parametrize("change", [{"tenant": "another"}, {"channel": "slack"}, {"source": "bot-2"}])
    def test_a_chat_belongs_to_its_source(self, bench, change):
        """The same conversation elsewhere is another conversation."""
        bench.accept(new_job(conversation="c"), new_job(conversation="c", **change))
        assert len(bench.claim(2)) == 2

    def test_jobs_without_a_conversation_do_not_wait(self, bench):
        """Jobs that belong to no chat run side by side."""
        bench.accept(new_job(), new_job())
        assert len(bench.claim(2)) == 2

    def test_cancelling_what_waits_lets_the_next_go(self, bench):
        """A cancelled message is no longer in the way, whether it was the first or in the middle."""
        ids = bench.accept(*[new_job(conversation="c") for _ in range(4)])
        bench.record.cancel(ids[1], TENANT, NOW)
        bench.record.cancel(ids[0], TENANT, NOW)
        (claim,) = bench.claim(4)
        assert claim.job.id == ids[2]
        bench.end(claim, State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(4)] == [ids[3]]

    def test_a_retried_message_does_not_run_beside_another(self, bench):
        """A message that is retried while a later one of its chat runs waits for it, and goes before the next."""
        first = bench.running(conversation="c")
        bench.end(first, State.FAILED)
        later = bench.running(conversation="c")
        (last,) = bench.accept(new_job(conversation="c"))
        bench.record.retry(first.job.id, NOW)
        assert bench.claim(4) == []
        bench.end(later, State.SUCCEEDED)
        (again,) = bench.claim(4)
        assert again.job.id == first.job.id
        bench.end(again, State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(4)] == [last]

    def test_a_message_cancelled_while_it_waited_can_be_retried(self, bench):
        """What was cancelled behind another comes back, and is claimed once it is its turn."""
        first, second = bench.accept(new_job(conversation="c"), new_job(conversation="c"))
        bench.record.cancel(second, TENANT, NOW)
        assert bench.record.retry(second, NOW)
        (claim,) = bench.claim(4)
        assert claim.job.id == first
        bench.end(claim, State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(4)] == [second]

    def test_a_quarantined_message_lets_the_next_go(self, bench, dead_process):
        """A message that killed its workers is out of its chat's way."""
        end_as(bench, State.QUARANTINED, dead_process, conversation="c")
        assert bench.running(conversation="c")

    @pytest.mark.parametrize("state", [State.QUARANTINED, State.CANCELLED])
    def test_what_came_with_one_that_nobody_runs(self, bench, state):
        """A message waits for none that was over when it came, not even for one that came with it."""
        _, second, third = bench.accept(*[new_job(conversation="c", state=one) for one in (state, State.QUEUED, State.QUEUED)])
        (claim,) = bench.claim(3)
        assert claim.job.id == second
        bench.end(claim, State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(3)] == [third]


class TestMerge:
    def test_later_messages_become_part_of_the_first(self, bench):
        """What came later in the chat joins the running job, in order, and has ended; the answer goes where the last came from."""
        jobs = [new_job(conversation="c", input=({"role": "user", "content": str(n)},), reply_to={"message": n}) for n in range(4)]
        bench.accept(*jobs[:2], new_job(conversation="other"))
        claims = {claim.job.conversation: claim for claim in bench.claim(5)}
        bench.accept(*jobs[2:])
        claim = claims["c"]
        merged = bench.record.merge(claim, NOW + 1)
        assert merged == bench.job(claim.job.id)
        assert ([message["content"] for message in merged.input], merged.reply_to) == (["0", "1", "2", "3"], {"message": 3})
        for job in jobs[1:]:
            assert (bench.state(job.id), bench.job(job.id).result) == (State.SUCCEEDED, {"merged_into": claim.job.id})
            assert bench.last_step(job.id).step == "merged"
        assert bench.last_step(claim.job.id).detail == "3 later message(s) of the chat"
        bench.end(claim, State.SUCCEEDED)
        assert bench.claim(5) == []
        (later,) = bench.accept(new_job(conversation="c"))
        assert [claim.job.id for claim in bench.claim(5)] == [later]

    def test_nothing_to_merge(self, bench):
        """A job that nothing came after stays as it is, and one without a conversation merges with nobody."""
        for claim in (bench.running(conversation="c"), bench.running()):
            bench.accept(new_job())
            assert bench.record.merge(claim, NOW) == claim.job == bench.job(claim.job.id)
            bench.end(claim, State.SUCCEEDED)
            bench.end(bench.claim()[0], State.SUCCEEDED)

    def test_what_was_begun_stays_itself(self, bench):
        """A message that was begun before, or ended, is not merged, nor anything by a stale claim."""
        first = bench.running(conversation="c")
        bench.end(first, State.QUEUED)
        (cancelled,) = bench.accept(new_job(conversation="c"))
        bench.record.cancel(cancelled, TENANT, NOW)
        (waiting,) = bench.accept(new_job(conversation="c"))
        bench.claim()
        assert bench.record.merge(first, NOW).input == first.job.input
        assert bench.state(cancelled) is State.CANCELLED
        assert bench.state(waiting) is State.QUEUED

    def test_a_message_waits_for_others(self, bench):
        """A job that is accepted for later is claimed when its time has come."""
        bench.accept(
            new_job(state=State.SCHEDULED, run_at=NOW + 5, conversation="c"),
            *[new_job(state=State.SCHEDULED, run_at=NOW + 6) for _ in range(20)],
        )
        assert bench.claim(30, NOW + 4) == []
        assert len(bench.claim(30, NOW + 5)) == 1
        assert len(bench.claim(30, NOW + 6)) == 20


class TestFencing:
    @pytest.fixture
    def stale(self, bench) -> Claim:
        """A claim that was given back; the same job runs again under another lease."""
        stale = bench.running()
        bench.end(stale, State.QUEUED)
        (current,) = bench.claim()
        bench.reply(current, "one", "two")
        assert current.lease_token != stale.lease_token
        return stale

    @pytest.mark.parametrize(
        "write",
        [
            lambda bench, stale: bench.reply(stale, "forged", text="forged"),
            lambda bench, stale: bench.settle(stale, 1, "sent", reply_to={"to": "forged"}),
            lambda bench, stale: bench.settle(stale, 2, "failed", reason="forged"),
            lambda bench, stale: (
                bench.record.heartbeat(bench.worker, 4, "ready", [Progress(stale.job.id, stale.lease_token, 0.1)], NOW) and False
            ),
        ],
        ids=["save_replies", "settle_parts sent", "settle_parts failed", "progress"],
    )
    def test_a_stale_lease_writes_nothing(self, bench, stale, write):
        """A write that shows an old lease says so and changes nothing: no job, no part, no step."""
        job_id = stale.job.id
        before = bench.job(job_id), bench.record.pending_parts(job_id), bench.record.story(job_id)
        assert not write(bench, stale)
        assert (bench.job(job_id), bench.record.pending_parts(job_id), bench.record.story(job_id)) == before

    def test_no_two_leases_are_alike(self, bench):
        """Jobs that are claimed together have a token each, and others when they are claimed again."""
        bench.accept(*[new_job() for _ in range(20)])
        first = bench.claim(20)
        bench.record.end([Ending(claim.job.id, claim.lease_token, State.QUEUED) for claim in first], NOW)
        again = bench.claim(20)
        assert len({claim.lease_token for claim in (*first, *again)}) == 40

    @pytest.mark.parametrize("state", [*ENDS, State.QUEUED])
    def test_a_stale_end_is_only_told(self, bench, stale, state):
        """An end that shows an old lease changes nothing but leaves a step in the story."""
        before = bench.job(stale.job.id)
        assert not bench.end(stale, state, error="late", uncount=True)
        assert bench.job(stale.job.id) == before
        assert (bench.last_step(stale.job.id).step, bench.last_step(stale.job.id).detail) == ("stale_finish", "late")

    def test_after_the_end_the_lease_is_nothing(self, bench):
        """Nobody can end a job twice, nor write to it after its end."""
        claim = bench.running()
        assert bench.end(claim, State.SUCCEEDED)
        assert not bench.end(claim, State.FAILED)
        assert not bench.reply(claim, "late")
        assert not bench.settle(claim, 1, "sent")
        assert bench.state(claim.job.id) is State.SUCCEEDED

    def test_one_stale_write_does_not_spoil_the_batch(self, bench, stale):
        """In one batch the good writes are written and the stale ones are refused, each told apart."""
        (good,) = [lease for lease in bench.record.leases(bench.worker) if lease.job_id == stale.job.id]
        parts = [
            PartSettled(stale.job.id, stale.lease_token, 1, "sent"),
            PartSettled(good.job_id, good.lease_token, 1, "sent"),
        ]
        assert bench.record.settle_parts(parts, NOW) == [False, True]
        ends = [
            Ending(stale.job.id, stale.lease_token, State.FAILED),
            Ending(good.job_id, good.lease_token, State.SUCCEEDED),
            Ending("unknown", "token", State.FAILED),
        ]
        assert bench.record.end(ends, NOW) == [False, True, False]
        replies = [Reply("unknown", "token", {}), Reply(stale.job.id, stale.lease_token, {})]
        assert bench.record.save_replies(replies, NOW) == [False, False]

    def test_progress_with_the_lease(self, bench):
        """The holder's progress is written."""
        claim = bench.running()
        assert bench.record.heartbeat(bench.worker, 4, "ready", [Progress(claim.job.id, claim.lease_token, 0.25)], NOW)
        assert bench.job(claim.job.id).progress == 0.25


class TestEnd:
    def test_the_end_is_written(self, bench):
        """An ended job has its time and reason and no lease."""
        claim = bench.running()
        assert bench.end(claim, State.FAILED, error="too long", now=NOW + 5)
        job = bench.job(claim.job.id)
        assert (job.state, job.last_error, job.finished_at, job.attempt) == (State.FAILED, "too long", NOW + 5, 1)
        assert bench.record.leases(bench.worker) == []

    def test_attempts_and_rescues_are_counted_apart(self, bench, dead_process):
        """A claim that failed by itself counts as an attempt, one whose worker died as a rescue, and neither as both."""
        claim = bench.running()
        bench.end(claim, State.QUEUED, error="it broke")
        bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
        assert bench.record.reap(NOW) == 1
        job = bench.job(claim.job.id)
        assert (job.attempt, job.rescues) == (1, 1)
        assert bench.claim()[0].job.attempt == 2

    def test_a_release_gives_the_attempt_back(self, bench):
        """A job that is given back without fault has as many attempts as before."""
        claim = bench.running()
        bench.end(claim, State.QUEUED, uncount=True)
        job = bench.job(claim.job.id)
        assert (job.state, job.attempt, job.rescues, job.last_error) == (State.QUEUED, 0, 0, None)
        assert bench.last_step(job.id).step == "released"
        assert bench.claim()[0].job.attempt == 1

    def test_again_later(self, bench):
        """A job that goes round again keeps its attempt, its time and the reason."""
        claim = bench.running()
        bench.end(claim, State.QUEUED, error="it broke", run_at=NOW + 7)
        job = bench.job(claim.job.id)
        assert (job.state, job.attempt, job.run_at, job.last_error) == (State.SCHEDULED, 1, NOW + 7, "it broke")
        assert (bench.last_step(job.id).step, bench.last_step(job.id).detail) == ("retry_planned", "it broke")

    @pytest.mark.parametrize("uncount", [False, True])
    def test_a_cancelled_job_does_not_go_round_again(self, bench, uncount):
        """A running job that was cancelled ends when its worker would try it again or give it back, and its story says so."""
        claim = bench.running()
        bench.record.cancel(claim.job.id, TENANT, NOW)
        assert bench.end(claim, State.QUEUED, error="it broke", run_at=NOW + 60, uncount=uncount)
        job = bench.job(claim.job.id)
        assert (job.state, job.finished_at, job.last_error) == (State.CANCELLED, NOW, "cancelled")
        assert bench.last_step(job.id).step == "cancelled"
        assert bench.record.ended([job.id]) == {job.id}

    def test_ended_asks_for_many(self, bench, dead_process):
        """Of many ids those are named whose jobs have ended, in whatever way."""
        done = {end_as(bench, state, dead_process) for state in ENDS}
        running = bench.running()
        queued = bench.accept(new_job())
        assert bench.record.ended([*done, running.job.id, *queued, "unknown"]) == done
        assert bench.record.ended([]) == set()


class TestEndsTogether:
    def test_each_ends_in_its_own_way(self, bench):
        """Of endings that are written together each has its own state, and only the one without a lease is refused."""
        ids = bench.accept(*[new_job() for _ in range(4)])
        claims = bench.claim(4)
        states = [State.SUCCEEDED, State.FAILED, State.SUCCEEDED, State.QUEUED]
        endings = [Ending(claim.job.id, claim.lease_token, state) for claim, state in zip(claims, states, strict=True)]
        endings[2] = attrs.evolve(endings[2], lease_token=endings[1].lease_token)
        assert bench.record.end(endings, NOW) == [True, True, False, True]
        assert [bench.state(job_id) for job_id in ids] == [State.SUCCEEDED, State.FAILED, State.RUNNING, State.QUEUED]
        assert bench.last_step(ids[2]).step == "stale_finish"


class TestCancel:
    def test_a_queued_job_ends(self, bench):
        """A job that nobody runs ends at once, and asking again changes nothing."""
        (job_id,) = bench.accept(new_job())
        job = bench.record.cancel(job_id, TENANT, NOW + 1)
        assert (job.state, job.cancel_at, job.finished_at) == (State.CANCELLED, NOW + 1, NOW + 1)
        assert bench.record.cancel(job_id, TENANT, NOW + 2) == job
        assert bench.steps(job_id)[3:] == ["cancelled"]
        assert bench.claim() == []

    def test_a_scheduled_job_ends(self, bench):
        """A job that waits for its time ends at once."""
        claim = bench.running()
        bench.end(claim, State.QUEUED, run_at=NOW + 60)
        assert bench.record.cancel(claim.job.id, TENANT, NOW).state is State.CANCELLED
        assert bench.claim(now=NOW + 61) == []

    def test_a_running_job_is_asked_to_stop(self, bench):
        """A running job goes on until its worker sees the request in its leases; asking again changes nothing."""
        claim = bench.running()
        job = bench.record.cancel(claim.job.id, TENANT, NOW + 1)
        assert (job.state, job.cancel_at) == (State.RUNNING, NOW + 1)
        assert bench.record.cancel(claim.job.id, TENANT, NOW + 2) == job
        assert bench.steps(job.id)[4:] == ["cancel_requested"]
        assert [lease.cancelled for lease in bench.record.leases(bench.worker)] == [True]
        assert bench.end(claim, State.CANCELLED)

    def test_an_answer_that_was_faster_stays(self, bench):
        """A job that succeeds in spite of the request has succeeded."""
        claim = bench.running()
        bench.record.cancel(claim.job.id, TENANT, NOW)
        assert bench.end(claim, State.SUCCEEDED)
        assert bench.state(claim.job.id) is State.SUCCEEDED

    @pytest.mark.parametrize("state", ENDS)
    def test_an_ended_job_stays_as_it_is(self, bench, dead_process, state):
        """Cancelling what has ended gives the job and changes nothing."""
        job_id = end_as(bench, state, dead_process)
        before, story = bench.job(job_id), bench.record.story(job_id)
        assert bench.record.cancel(job_id, TENANT, NOW + 9) == before
        assert bench.record.story(job_id) == story

    def test_another_tenant_finds_nothing(self, bench):
        """A tenant cannot cancel, nor even find, another one's job."""
        (job_id,) = bench.accept(new_job())
        assert bench.record.cancel(job_id, "another", NOW) is None
        assert bench.record.find_job(job_id, "another") is None
        assert bench.state(job_id) is State.QUEUED
        assert bench.record.cancel("unknown", TENANT, NOW) is None


class TestRetry:
    @pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.QUARANTINED])
    def test_what_went_wrong_can_be_retried(self, bench, dead_process, state):
        """A job that failed, was cancelled or quarantined is queued again with all counts new."""
        job_id = end_as(bench, state, dead_process)
        assert bench.record.retry(job_id, NOW + 3)
        job = bench.job(job_id)
        assert (job.state, job.attempt, job.rescues, job.run_at) == (State.QUEUED, 0, 0, NOW + 3)
        assert (job.finished_at, job.cancel_at, job.last_error) == (None, None, None)
        assert bench.last_step(job_id).step == "retried_by_hand"
        assert bench.claim()[0].job.id == job_id

    def test_what_is_well_is_not_retried(self, bench):
        """A job that waits, runs or has succeeded is left alone."""
        claim = bench.running()
        (queued,) = bench.accept(new_job())
        assert not bench.record.retry(claim.job.id, NOW)
        assert not bench.record.retry(queued, NOW)
        bench.end(claim, State.SUCCEEDED)
        assert not bench.record.retry(claim.job.id, NOW)
        assert not bench.record.retry("unknown", NOW)

    def test_only_failed_parts_are_sent_again(self, bench):
        """A retry after a failed delivery reopens what failed, leaves what was sent, and keeps the answer."""
        claim = bench.running()
        bench.reply(claim, "one", "two", "three")
        bench.settle(claim, 1, "sent")
        bench.settle(claim, 2, "failed", reason="blocked")
        bench.end(claim, State.FAILED, error="delivery refused")
        assert bench.record.retry(claim.job.id, NOW)
        assert [(part.number, part.attempts) for part in bench.record.pending_parts(claim.job.id)] == [(2, 0), (3, 0)]
        assert bench.claim()[0].job.result == {"output_text": "Hi"}


class TestReap:
    def test_a_dead_process(self, bench, dead_process):
        """The jobs of a worker whose process has ended are taken back at once."""
        (job_id,) = bench.accept(new_job())
        bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
        assert [worker.name for worker in bench.record.workers()] == ["here:1"]
        assert bench.record.reap(NOW) == 1
        job = bench.job(job_id)
        assert (job.state, job.rescues, job.last_error) == (State.QUEUED, 1, "its worker died")
        assert bench.last_step(job_id).step == "rescued"
        assert bench.record.reap(NOW) == 0

    def test_a_silent_worker(self, bench):
        """The jobs of a worker that was found to be silent are taken back, and its lease is worth nothing."""
        claim = bench.running()
        assert bench.record.reap(NOW, {bench.worker: NOW}) == 1
        assert not bench.end(claim, State.SUCCEEDED)
        assert not bench.record.heartbeat(bench.worker, 4, "ready", [], NOW + 50)
        assert bench.record.workers() == []

    def test_never_a_living_one(self, bench):
        """A worker that was heard after it was thought to be silent keeps its jobs, and so does one whose clock is hours behind."""
        claim = bench.running()
        assert bench.record.heartbeat(bench.worker, 4, "ready", [], NOW - 40)
        assert bench.record.reap(NOW, {bench.worker: NOW}) == 0
        assert bench.record.reap(NOW + 10_000) == 0
        assert bench.end(claim, State.SUCCEEDED)

    def test_the_innocent_are_not_blamed(self, bench, dead_process):
        """Of jobs that were there at two deaths a worker runs one at a time, so only the one that kills it is quarantined."""
        killer, *innocent = bench.accept(*[new_job() for _ in range(4)])
        for _ in range(2):
            bench.record.claim(bench.record.register("dying", dead_process, 4, "ready", NOW), 4, NOW)
            bench.record.reap(NOW)
        (other,) = bench.accept(new_job())
        (first, second) = bench.claim(4)
        assert {first.job.id, second.job.id} == {killer, other}
        assert bench.claim(4) == []
        assert len(bench.record.claim(bench.record.register("another", dead_process, 4, "ready", NOW), 4, NOW)) == 1
        bench.record.reap(NOW)
        assert bench.state(innocent[0]) is State.QUARANTINED
        bench.end(first, State.SUCCEEDED)
        assert [claim.job.id for claim in bench.claim(4)] == [innocent[1]]

    def test_the_third_death_quarantines(self, bench, dead_process):
        """A job that three workers died of waits for a person."""
        (job_id,) = bench.accept(new_job())
        for rescues in range(1, RESCUES_MAX + 1):
            bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
            bench.record.reap(NOW + rescues)
            assert bench.job(job_id).rescues == rescues
        job = bench.job(job_id)
        assert (job.state, job.finished_at) == (State.QUARANTINED, NOW + RESCUES_MAX)
        assert bench.last_step(job_id).step == "quarantined"
        assert bench.claim() == []

    @pytest.mark.parametrize("by_hand", [True, False])
    def test_a_chat_goes_on_without_the_one_that_waits_for_a_person(self, bench, dead_process, by_hand):
        """When a job is set aside, or quarantined for its workers' deaths, the next of its chat, already passed by, is ready."""
        first, second = bench.accept(new_job(conversation="c"), new_job(conversation="c"))
        for _ in range(1 if by_hand else RESCUES_MAX):
            dead = bench.record.register("dying", dead_process, 1, "ready", NOW)
            assert [claim.job.id for claim in bench.record.claim(dead, 2, NOW)] == [first]
            assert bench.claim(2) == []
            bench.record.reap(NOW)
        if by_hand:
            assert bench.record.set_aside(first, "odd", NOW)
        assert bench.state(first) is State.QUARANTINED
        assert [claim.job.id for claim in bench.claim(2)] == [second]

    def test_a_cancelled_one_ends(self, bench, dead_process):
        """A job that was asked to stop when its worker died does not run again."""
        (job_id,) = bench.accept(new_job())
        bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
        bench.record.cancel(job_id, TENANT, NOW)
        bench.record.reap(NOW)
        assert (bench.state(job_id), bench.last_step(job_id).step) == (State.CANCELLED, "cancelled")

    def test_who_left_is_not_waited_for(self, bench):
        """After a worker is buried it is heard no more, and what it still ran is taken back at the next look."""
        claim = bench.running()
        bench.record.bury(bench.worker, NOW)
        assert not bench.record.heartbeat(bench.worker, 4, "ready", [], NOW)
        assert bench.record.workers() == []
        assert bench.record.reap(NOW) == 1
        assert bench.state(claim.job.id) is State.QUEUED

    def test_a_reply_survives_its_worker(self, bench, dead_process):
        """What was written and sent before a worker died is not made nor sent again."""
        (job_id,) = bench.accept(new_job())
        (claim,) = bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
        bench.reply(claim, "one", "two")
        bench.settle(claim, 1, "sent")
        bench.record.reap(NOW)
        assert bench.claim()[0].job.result == {"output_text": "Hi"}
        assert [part.number for part in bench.record.pending_parts(job_id)] == [2]

    def test_workers_say_how_they_are(self, bench):
        """A living worker is shown as it last described itself."""
        bench.record.heartbeat(bench.worker, 2, "no model", [], NOW + 1)
        (worker,) = bench.record.workers()
        assert (worker.name, worker.slots, worker.status, worker.last_seen) == ("here:1", 2, "no model", NOW + 1)


class TestOutbox:
    def test_a_reply_and_its_parts(self, bench):
        """The answer is in the job before anything is sent, and its parts wait in order."""
        claim = bench.running()
        assert bench.reply(claim, "one", "two")
        job = bench.job(claim.job.id)
        assert (job.result, job.progress) == ({"output_text": "Hi"}, 1)
        assert [(part.number, part.text, part.attempts) for part in bench.record.pending_parts(job.id)] == [
            (1, "one", 0),
            (2, "two", 0),
        ]
        assert bench.last_step(job.id).detail == "2 part(s) to send"

    def test_a_reply_twice(self, bench):
        """A reply whose outcome was unknown is written again without opening a part that was sent."""
        claim = bench.running()
        bench.reply(claim, "one", "two")
        bench.settle(claim, 1, "sent")
        assert bench.reply(claim, "one", "two")
        assert [part.number for part in bench.record.pending_parts(claim.job.id)] == [2]

    @pytest.mark.parametrize("state", ["pending", "failed", "sent"])
    def test_what_was_sent_stays_sent(self, bench, state):
        """No later word about a part that was sent changes it, and repeating it adds nothing to the story."""
        claim = bench.running()
        bench.reply(claim, "one")
        bench.settle(claim, 1, "sent")
        story = bench.record.story(claim.job.id)
        assert bench.settle(claim, 1, state, reason="late")
        assert bench.record.pending_parts(claim.job.id) == []
        assert bench.record.story(claim.job.id) == story

    def test_postponed(self, bench):
        """A part that is to be tried again keeps its place and counts the try; a new address is kept."""
        claim = bench.running(reply_to={"chat_id": 1})
        bench.reply(claim, "one")
        assert bench.settle(claim, 1, "pending", reason="wait", reply_to={"chat_id": -100})
        assert [(part.number, part.attempts) for part in bench.record.pending_parts(claim.job.id)] == [(1, 1)]
        assert bench.job(claim.job.id).reply_to == {"chat_id": -100}
        assert (bench.last_step(claim.job.id).step, bench.last_step(claim.job.id).detail) == (
            "delivery_postponed",
            "part 1: wait",
        )


class TestCallbacks:
    @pytest.mark.parametrize("state", ENDS)
    def test_opened_by_each_end_and_not_before(self, bench, dead_process, state):
        """A job with a callback URL has a callback from its end on, whichever end it is."""
        running = bench.running(options=CALLBACK)
        bench.end(running, State.QUEUED, run_at=NOW + 99)
        assert bench.record.find_callback(running.job.id) is None
        assert bench.record.claim_callbacks(9, 30, NOW + 50) == []
        job_id = end_as(bench, state, dead_process, options=CALLBACK)
        assert bench.record.find_callback(job_id) == CallbackState("pending", 0, None)
        (callback,) = bench.record.claim_callbacks(9, 30, NOW + 50)
        assert (callback.job_id, callback.tenant, callback.url) == (job_id, TENANT, CALLBACK["callback_url"])

    def test_opened_by_cancelling_what_waits(self, bench):
        """Cancelling a queued job is an end like any other."""
        (job_id,) = bench.accept(new_job(options=CALLBACK))
        bench.record.cancel(job_id, TENANT, NOW)
        assert bench.record.find_callback(job_id) == CallbackState("pending", 0, None)

    def test_opened_when_a_cancelled_job_ends(self, bench, dead_process):
        """A job that ends as cancelled, by its worker's hand or by its death, has its callback."""
        claim = bench.running(options=CALLBACK)
        bench.record.cancel(claim.job.id, TENANT, NOW)
        bench.end(claim, State.QUEUED)
        (other,) = bench.accept(new_job(options=CALLBACK))
        bench.record.claim(bench.record.register("dying", dead_process, 1, "ready", NOW), 1, NOW)
        bench.record.cancel(other, TENANT, NOW)
        bench.record.reap(NOW)
        assert {callback.job_id for callback in bench.record.claim_callbacks(9, 30, NOW)} == {claim.job.id, other}

    def test_none_without_a_url(self, bench):
        """A job that asked for no callback has none."""
        claim = bench.running()
        bench.end(claim, State.SUCCEEDED)
        assert bench.record.find_callback(claim.job.id) is None

    def test_a_dead_senders_can_be_retried_by_hand(self, bench, dead_process):
        """A callback whose sender has died can be sent again by hand once its lease is over."""
        job_id = end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        (old,) = bench.record.claim_callbacks(9, 30, NOW)
        assert not bench.record.retry_callback(job_id, NOW + 29)
        assert bench.record.retry_callback(job_id, NOW + 30)
        assert not bench.record.settle_callback(old, Attempt("delivered"), NOW + 31)
        (again,) = bench.record.claim_callbacks(9, 30, NOW + 31)
        assert (again.job_id, again.attempts) == (job_id, 1)

    def test_leased_then_back(self, bench, dead_process):
        """A claimed callback is nobody else's until its lease is over; then the old claim is worth nothing."""
        job_id = end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        (first,) = bench.record.claim_callbacks(9, 30, NOW)
        assert first.attempts == 1
        assert bench.record.claim_callbacks(9, 30, NOW + 29) == []
        (second,) = bench.record.claim_callbacks(9, 30, NOW + 30)
        assert second.attempts == 2
        story = bench.record.story(job_id)
        assert not bench.record.settle_callback(first, Attempt("delivered"), NOW + 31)
        assert bench.record.story(job_id) == story
        assert bench.record.settle_callback(second, Attempt("delivered"), NOW + 31)
        assert not bench.record.settle_callback(second, Attempt("failed", "late"), NOW + 32)
        assert bench.record.find_callback(job_id) == CallbackState("delivered", 2, None)
        assert bench.last_step(job_id).step == "callback_delivered"
        assert bench.record.claim_callbacks(9, 30, NOW + 9999) == []

    def test_next_at_is_honoured(self, bench, dead_process):
        """A callback that is to be tried again is due at the time that was said."""
        job_id = end_as(bench, State.FAILED, dead_process, options=CALLBACK)
        (callback,) = bench.record.claim_callbacks(9, 30, NOW)
        assert bench.record.settle_callback(callback, Attempt("pending", "503", NOW + 300), NOW + 1)
        assert bench.record.find_callback(job_id) == CallbackState("pending", 1, "503")
        assert bench.record.claim_callbacks(9, 30, NOW + 299) == []
        (again,) = bench.record.claim_callbacks(9, 30, NOW + 300)
        assert bench.record.settle_callback(again, Attempt("failed", "410"), NOW + 301)
        assert [step for step in bench.steps(job_id) if "callback" in step] == ["callback_postponed", "callback_failed"]

    def test_no_more_than_asked_for(self, bench, dead_process):
        """Callbacks are claimed a few at a time, the longest due first."""
        ids = [end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK) for _ in range(3)]
        claimed = [callback.job_id for _ in range(2) for callback in bench.record.claim_callbacks(2, 30, NOW)]
        assert sorted(claimed) == sorted(ids)

    def test_no_tenant_takes_all(self, bench, dead_process):
        """A claim holds a bounded share of one tenant's callbacks, and none of a busy one's."""
        for number in range(CALLBACKS_PER_TENANT + 2):
            end_as(bench, State.SUCCEEDED, dead_process, options={"callback_url": f"https://{number}.example/"})
        assert bench.record.claim_callbacks(99, 30, NOW, [TENANT]) == []
        assert len(bench.record.claim_callbacks(99, 30, NOW)) == CALLBACKS_PER_TENANT
        assert len(bench.record.claim_callbacks(99, 30, NOW)) == 2

    def test_no_receiver_takes_all(self, bench, dead_process):
        """Of a tenant's receivers each has a bounded share of a claim, whoever was first; a busy one has none."""
        slow, fast = "https://Slow.example:8443?secret=1", "https://fast.example/hook"
        for url in [slow] * (CALLBACKS_PER_HOST + 3) + [fast] * 2:
            end_as(bench, State.SUCCEEDED, dead_process, options={"callback_url": url})
        busy = [f"{TENANT} slow.example:8443"]
        assert [callback.host for callback in bench.record.claim_callbacks(1, 30, NOW, busy)] == ["fast.example"]
        claimed = [callback.host for callback in bench.record.claim_callbacks(99, 30, NOW)]
        assert sorted(claimed) == ["fast.example"] + ["slow.example:8443"] * CALLBACKS_PER_HOST

    def test_what_was_not_tried_is_no_attempt(self, bench, dead_process):
        """A callback that was claimed and not sent is due again when that was said, with its attempts as they were."""
        job_id = end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        (callback,) = bench.record.claim_callbacks(9, 30, NOW)
        assert bench.record.settle_callback(callback, Attempt("pending", "resting", NOW + 5, tried=False), NOW)
        assert bench.record.find_callback(job_id) == CallbackState("pending", 0, "resting")
        assert bench.record.attempts(job_id) == []
        assert bench.record.claim_callbacks(9, 30, NOW + 4) == []
        assert bench.record.claim_callbacks(9, 30, NOW + 5)[0].attempts == 1

    def test_every_attempt_is_logged(self, bench, dead_process):
        """Each attempt leaves a line: the message's id, when, how long, and what came of it; the list tells how things are."""
        job_id = end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        for place, attempt in enumerate(
            (Attempt("pending", "HTTP 503", NOW, 503, 0.25), Attempt("delivered", None, None, 204, 0.5))
        ):
            (callback,) = bench.record.claim_callbacks(9, 30, NOW + place)
            assert bench.record.settle_callback(callback, attempt, NOW + place)
        logged = bench.record.attempts(job_id)
        assert [
            (line.webhook_id, line.attempt, line.at, line.seconds, line.status, line.outcome, line.error) for line in logged
        ] == [
            (job_id, 1, NOW, 0.25, 503, "pending", "HTTP 503"),
            (job_id, 2, NOW + 1, 0.5, 204, "delivered", None),
        ]
        (entry,) = bench.record.list_callbacks(TENANT, "delivered", 10)
        assert (entry.job_id, entry.host, entry.attempts, entry.settled_at) == (job_id, "caller.example", 2, NOW + 1)
        assert bench.record.list_callbacks(None, "failed", 10) == bench.record.list_callbacks("nobody", None, 10) == []

    def test_a_receiver_that_is_gone(self, bench, dead_process):
        """After 410 a receiver's other callbacks know that it is gone, another tenant's do not, and a retry by hand forgets it."""
        bench.record.add_tenant("other", NOW)
        first, second = (end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK) for _ in range(2))
        end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK, tenant="other")
        (callback,) = bench.record.claim_callbacks(1, 30, NOW)
        assert bench.record.settle_callback(callback, Attempt("failed", "410", None, 410, gone=True), NOW + 1)
        claimed = {callback.tenant: callback for callback in bench.record.claim_callbacks(9, 30, NOW + 2)}
        assert (claimed[TENANT].gone_at, claimed["other"].gone_at) == (NOW + 1, None)
        other_job = {first, second} - {callback.job_id}
        assert {claimed[TENANT].job_id} == other_job
        assert not bench.record.retry_callback(*other_job, NOW + 3), "it is being sent"
        assert bench.record.retry_callback(callback.job_id, NOW + 3)
        assert bench.last_step(callback.job_id).step == "callback_retried_by_hand"
        (again,) = bench.record.claim_callbacks(9, 30, NOW + 3)
        assert (again.job_id, again.attempts, again.gone_at) == (callback.job_id, 1, None)
        assert not bench.record.retry_callback("no job", NOW)

    def test_a_rerun_is_another_message(self, bench, dead_process):
        """All attempts of one run have one webhook-id; the result of a job that was run again by hand has another."""
        job_id = end_as(bench, State.FAILED, dead_process, options=CALLBACK)
        assert [bench.record.claim_callbacks(9, 30, NOW + later)[0].webhook_id for later in (0, 30)] == [job_id] * 2
        for number in (2, 3):
            bench.record.retry(job_id, NOW)
            bench.end(bench.claim()[0], State.FAILED, error="why")
            (callback,) = bench.record.claim_callbacks(9, 30, NOW + 100)
            assert callback.webhook_id == f"{job_id}-{number}"

    def test_secrets_are_rotated(self, bench):
        """A rotated secret is in force at once, and the one before it until its time is over; the first needs no rotation."""
        old = bench.record.callback_secret(TENANT, "whsec_old")
        bench.record.rotate_callback_secret(TENANT, "whsec_new", NOW + 60)
        assert bench.record.callback_secret(TENANT, "whsec_other") == "whsec_new"
        known = bench.record.directory().callback_secrets[TENANT]
        assert in_force(known, NOW + 59) == ["whsec_new", old]
        assert in_force(known, NOW + 60) == ["whsec_new"]
        bench.record.add_tenant("fresh", NOW)
        bench.record.rotate_callback_secret("fresh", "whsec_first", NOW)
        assert bench.record.callback_secret("fresh", "whsec_other") == "whsec_first"

    def test_a_retry_opens_a_new_one(self, bench, dead_process):
        """A job that is retried tells its caller again when it ends again."""
        job_id = end_as(bench, State.FAILED, dead_process, options=CALLBACK)
        (old,) = bench.record.claim_callbacks(9, 30, NOW)
        bench.record.retry(job_id, NOW)
        assert bench.record.find_callback(job_id) is None
        assert not bench.record.settle_callback(old, Attempt("delivered"), NOW)
        bench.end(bench.claim()[0], State.SUCCEEDED)
        assert bench.record.find_callback(job_id) == CallbackState("pending", 0, None)


class TestReading:
    def test_the_story(self, bench):
        """The story tells every step in the order in which it happened, with its attempt, even if all happened at one time."""
        claim = bench.running()
        job_id = claim.job.id
        bench.reply(claim, "one", "two")
        bench.settle(claim, 1, "sent")
        bench.settle(claim, 2, "pending", reason="wait")
        bench.end(claim, State.QUEUED, error="postponed", uncount=True)
        (again,) = bench.claim()
        bench.settle(again, 2, "sent")
        bench.end(again, State.SUCCEEDED)
        assert [(step.step, step.detail) for step in bench.record.story(job_id)] == [
            ("received", "telegram/bot"),
            ("verified", "secret token"),
            ("accepted", None),
            ("claimed", f"worker {bench.worker}"),
            ("generated", "2 part(s) to send"),
            ("delivered", "part 1"),
            ("delivery_postponed", "part 2: wait"),
            ("released", "postponed"),
            ("claimed", f"worker {bench.worker}"),
            ("delivered", "part 2"),
            ("succeeded", None),
        ]
        assert bench.record.story("unknown") == []

    def test_every_claim_of_a_job_that_goes_round_is_told(self, bench, dead_process):
        """A job that was released, tried again, rescued, failed and put back by hand tells of each claim and of what came of it."""
        (job_id,) = bench.accept(new_job())
        told = []
        for ending, step, attempt in (
            ({"state": State.QUEUED, "uncount": True}, "released", (1, 0)),
            ({"state": State.QUEUED, "error": "it broke"}, "retry_planned", (1, 1)),
            ({"state": State.FAILED, "error": "for good"}, "failed", (2, 2)),
        ):
            bench.end(*bench.claim(), **ending)
            told += [("claimed", attempt[0], f"worker {bench.worker}"), (step, attempt[1], ending.get("error"))]
        bench.record.retry(job_id, NOW)
        dead = bench.record.register("dead:1", dead_process, 1, "ready", NOW)
        bench.record.claim(dead, 1, NOW)
        assert bench.record.reap(NOW) == 1
        bench.end(*bench.claim(), State.SUCCEEDED)
        told += [("retried_by_hand", 0, None), ("claimed", 1, f"worker {dead}"), ("rescued", 0, "its worker died")]
        told += [("claimed", 1, f"worker {bench.worker}"), ("succeeded", 1, None)]
        assert [(step.step, step.attempt, step.detail) for step in bench.record.story(job_id)[3:]] == told

    def test_a_clock_that_goes_back_does_not_shuffle_the_story(self, bench):
        """Steps stay in the order of writing when the machine's clock is corrected."""
        claim = bench.running()
        bench.end(claim, State.SUCCEEDED, now=NOW - 3600)
        assert bench.steps(claim.job.id)[3:] == ["claimed", "succeeded"]

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({}, "edcba"),
            ({"tenant": "t"}, "edb"),
            ({"states": [State.QUEUED]}, "edcb"),
            ({"states": [State.QUEUED, State.QUARANTINED]}, "edcba"),
            ({"states": []}, ""),
            ({"channel": "slack"}, "cb"),
            ({"external_id": "x"}, "db"),
            ({"external_id": "x", "tenant": "t", "channel": "slack"}, "b"),
            ({"external_id": "x", "states": [State.QUARANTINED]}, ""),
            ({"external_id": "x", "limit": 1}, "d"),
            ({"limit": 2}, "ed"),
            ({"states": [State.QUARANTINED]}, "a"),
            ({"states": [State.QUEUED], "tenant": "t", "limit": 2}, "ed"),
            ({"states": [State.QUEUED, State.RUNNING], "channel": "slack"}, "cb"),
            ({"states": [State.FAILED, State.CANCELLED]}, ""),
        ],
    )
    def test_list_filters(self, bench, wanted, expected):
        """Only jobs that match everything asked for are listed, newest first."""
        bench.accept(
            new_job(sender="a", state=State.QUARANTINED),
            new_job(sender="b", tenant="t", channel="slack", external_id="x"),
            new_job(sender="c", channel="slack"),
            new_job(sender="d", tenant="t", external_id="x"),
            new_job(sender="e", tenant="t"),
        )
        assert "".join(job.sender for job in bench.record.list_jobs(JobFilter(**wanted))) == expected

    def test_each_state_is_listed(self, bench, dead_process):
        """A job is listed by the state that it is in, whatever that is, and by no other."""
        bench.running()
        for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUARANTINED):
            end_as(bench, state, dead_process)
        bench.accept(new_job(conversation="c"), new_job(conversation="c"), new_job(state=State.SCHEDULED, run_at=NOW + 60))
        bench.claim()
        states = [job.state for job in bench.record.list_jobs(JobFilter())]
        assert set(states) == set(State)
        for state in State:
            assert [job.state for job in bench.record.list_jobs(JobFilter(states=[state]))] == [state] * states.count(state)

    @pytest.mark.parametrize("wanted", [{}, {"external_id": "x"}, {"states": [State.QUEUED]}])
    def test_paging(self, bench, wanted):
        """Going on from the last job of a page shows every job once, though new ones arrive meanwhile."""
        ids = bench.accept(*[new_job(external_id="x") for _ in range(7)])
        seen, before = [], None
        while page := bench.record.list_jobs(JobFilter(**wanted, before=before, limit=3)):
            seen += [job.id for job in page]
            before = page[-1].sequence
            bench.accept(new_job(external_id="x"))
        assert seen == ids[::-1]

    def test_what_may_be_claimed(self, bench):
        """Whoever fills a dispatch is told of each chat only whose turn it is, a page at a time, and not what is not due."""
        chat, other, lone = new_job(conversation="c"), new_job(conversation="d"), new_job()
        bench.accept(new_job(conversation="r"))
        (running,) = bench.claim(1)
        bench.accept(new_job(conversation="r"), chat, new_job(conversation="c"), other, lone)

        def pages(limit: int) -> list[str]:
            hints, after = bench.record.ready(0, limit, NOW + 1)
            while after is not None:
                page, after = bench.record.ready(after, limit, NOW + 1)
                hints += page
            return [hint.job_id for hint in hints]

        wanted = [chat.id, other.id, lone.id]
        assert pages(1) == pages(2) == pages(100) == wanted
        assert bench.record.ready(0, 100, NOW - 1) == ([], None)
        bench.end(running, State.SUCCEEDED)
        assert len(pages(100)) == 4

    def test_queue_position(self, bench):
        """A job's position is how many are queued before it, by priority and age."""
        claim = bench.running()
        first, second, urgent = bench.accept(new_job(), new_job(), new_job(priority=1))
        assert [bench.record.queue_position(bench.job(job_id)) for job_id in (urgent, first, second)] == [0, 1, 2]
        bench.end(claim, State.SUCCEEDED)

    def test_counts(self, bench, dead_process):
        """What has not ended is counted by state, and so is what waits for a person."""
        assert bench.record.counts() == {}
        end_as(bench, State.QUARANTINED, dead_process)
        end_as(bench, State.SUCCEEDED, dead_process)
        bench.end(bench.running(), State.QUEUED, run_at=NOW + 60)
        bench.running()
        bench.accept(new_job(), new_job())
        assert bench.record.counts() == {"quarantined": 1, "scheduled": 1, "running": 1, "queued": 2}


class TestPrune:
    def test_what_is_old_goes_with_all_that_belongs_to_it(self, bench, dead_process):
        """Jobs that ended long ago are removed with their steps, parts and callbacks."""
        claim = bench.running(options=CALLBACK)
        bench.reply(claim, "one")
        bench.end(claim, State.FAILED)
        job_id = claim.job.id
        assert bench.record.prune(NOW) == 0
        assert bench.record.prune(NOW + 1) == 1
        assert bench.record.find_job(job_id) is None
        assert bench.record.story(job_id) == []
        assert bench.record.pending_parts(job_id) == []
        assert bench.record.find_callback(job_id) is None

    def test_what_is_needed_stays(self, bench, dead_process):
        """Quarantined, waiting, running and recently ended jobs are kept."""
        kept = [end_as(bench, State.QUARANTINED, dead_process)]
        recent = bench.running()
        bench.end(recent, State.SUCCEEDED, now=NOW + 100)
        retried = end_as(bench, State.FAILED, dead_process)
        bench.record.retry(retried, NOW)
        bench.claim()
        kept += [recent.job.id, retried, *bench.accept(new_job())]
        assert bench.record.prune(NOW + 50) == 0
        assert all(bench.record.find_job(job_id) for job_id in kept)

    def test_gone_receivers_are_forgotten(self, bench, dead_process):
        """A receiver that answered 410 is known as gone for the retention; then one callback may ask again."""
        for _ in range(2):
            end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        (callback,) = bench.record.claim_callbacks(1, 30, NOW)
        bench.record.settle_callback(callback, Attempt("failed", "410", None, 410, gone=True), NOW + 60)
        bench.record.prune(NOW)
        (other,) = bench.record.claim_callbacks(1, 30, NOW)
        assert other.gone_at == NOW + 60
        bench.record.settle_callback(other, Attempt("pending", "later", NOW, tried=False), NOW)
        bench.record.prune(NOW + 61)
        end_as(bench, State.SUCCEEDED, dead_process, options=CALLBACK)
        (later,) = bench.record.claim_callbacks(1, 30, NOW + 61)
        assert later.gone_at is None

    def test_a_thousand_at_a_time(self, bench):
        """One call removes no more than a thousand, so that nobody waits long for it."""
        ids = bench.accept(*[new_job() for _ in range(1005)])
        claims = bench.claim(1005)
        bench.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED) for claim in claims], NOW)
        assert [bench.record.prune(NOW + 1) for _ in range(3)] == [1000, 5, 0]
        assert bench.record.ended(ids) == set()

    def test_the_dead_are_forgotten(self, bench):
        """A worker that died before that time is removed; the living are not, and no number is given twice."""
        gone = bench.record.register("gone", process_name(), 1, "ready", NOW)
        bench.record.bury(gone, NOW)
        bench.record.prune(NOW + 1)
        assert [worker.id for worker in bench.record.workers()] == [bench.worker]
        assert bench.record.register("next", process_name(), 1, "ready", NOW) > gone


class TestDirectory:
    KEY = Key("key_1", TENANT, "snt_ab…wxyz", NOW)
    SOURCE = Source(TENANT, "telegram", "bot", {"secret_token": "s", "text": "ü"})

    def test_every_change_is_noticed(self, record):
        """The version changes with each administrative write, and with nothing else."""
        versions = [record.directory_version()]
        for change in (
            lambda: record.add_tenant("t", NOW),
            lambda: record.put_source(self.SOURCE, NOW),
            lambda: record.put_source(attrs.evolve(self.SOURCE, settings={"secret_token": "new"}), NOW),
            lambda: record.remove_source(self.SOURCE),
            lambda: record.add_key(self.KEY, "hash", NOW),
            lambda: record.revoke_key("key_1", NOW),
            lambda: record.callback_secret("t", "whsec_x"),
            lambda: record.allow_network("t", "10.0.0.0/8"),
        ):
            change()
            versions.append(record.directory_version())
        assert len(set(versions)) == len(versions)
        record.add_tenant("t", NOW)
        record.allow_network("t", "10.0.0.0/8")
        record.callback_secret("t", "whsec_y")
        record.accept([new_job()], NOW)
        assert record.directory_version() == versions[-1]

    def test_a_fresh_one(self, record):
        """A fresh record has the default tenant and nothing else."""
        directory = record.directory()
        assert (directory.tenants, directory.sources, directory.keys) == (frozenset({TENANT}), {}, {})
        assert (directory.networks, directory.callback_secrets) == ({}, {})

    def test_tenants(self, record):
        """A tenant is added once."""
        assert [record.add_tenant("t", NOW), record.add_tenant("t", NOW)] == [True, False]
        assert record.directory().tenants == {TENANT, "t"}

    def test_sources(self, record):
        """A source is found by channel and name; its settings can be replaced by its tenant alone."""
        record.add_tenant("t", NOW)
        assert record.put_source(self.SOURCE, NOW)
        changed = attrs.evolve(self.SOURCE, settings={"a": "b"})
        assert record.put_source(changed, NOW)
        assert not record.put_source(attrs.evolve(self.SOURCE, tenant="t", settings={}), NOW)
        assert record.directory().sources == {("telegram", "bot"): changed}
        assert not record.remove_source(attrs.evolve(self.SOURCE, tenant="t"))
        assert [record.remove_source(self.SOURCE), record.remove_source(self.SOURCE)] == [True, False]

    def test_keys(self, record):
        """A key is found by its hash until it is revoked, and listed for ever."""
        record.add_key(self.KEY, "hash", NOW)
        assert record.directory().keys == {"hash": self.KEY}
        assert [record.revoke_key("key_1", NOW + 1), record.revoke_key("key_1", NOW + 2)] == [True, False]
        assert record.directory().keys == {}
        assert record.keys() == [attrs.evolve(self.KEY, revoked_at=NOW + 1)]

    def test_networks(self, record):
        """Allowed networks are a tenant's own, each once."""
        record.add_tenant("t", NOW)
        for tenant, network in (("t", "10.0.0.0/8"), ("t", "::1/128"), ("t", "10.0.0.0/8"), (TENANT, "127.0.0.1/32")):
            record.allow_network(tenant, network)
        assert record.directory().networks == {"t": ["10.0.0.0/8", "::1/128"], TENANT: ["127.0.0.1/32"]}

    def test_the_callback_secret_is_stable(self, record):
        """The first secret stays, whoever proposes another."""
        assert [record.callback_secret(TENANT, secret) for secret in ("whsec_a", "whsec_b")] == ["whsec_a"] * 2
        assert record.directory().callback_secrets == {TENANT: "whsec_a"}

    @pytest.mark.parametrize(
        "write",
        [
            lambda record: record.put_source(Source("nobody", "telegram", "bot"), NOW),
            lambda record: record.add_key(Key("key_1", "nobody", "", NOW), "hash", NOW),
            lambda record: record.allow_network("nobody", "10.0.0.0/8"),
        ],
        ids=["put_source", "add_key", "allow_network"],
    )
    def test_nothing_belongs_to_nobody(self, record, write):
        """What names a tenant that was never added is refused, and not as something to try again."""
        with pytest.raises(Exception, match=r".") as caught:
            write(record)
        assert type(caught.value).__name__ != "Unavailable"
        assert record.directory().tenants == {TENANT}


class TestMigrate:
    def test_twice(self, record):
        """Migrating what is up to date applies nothing."""
        assert record.migrate() == []

    def test_two_at_once(self, unopened_url):
        """Two processes that open a store without a schema at once both get it, whole."""
        for _ in range(5):
            url = unopened_url()
            one, other = at_once(lambda url=url: open_store(url), lambda url=url: open_store(url))
            assert one.directory() == other.directory()
            assert one.accept([new_job()], NOW) == [True]
            assert len(other.list_jobs(JobFilter())) == 1
            one.close()
            other.close()


@attrs.define
class Expected:
    """What the model below knows of a job."""

    order: int
    conversation: str | None
    state: State = State.QUEUED
    run_at: float = NOW
    attempt: int = 0
    rescues: int = 0
    token: str | None = None
    begun: bool = False
    cancelled: bool = False

    @property
    def lives(self) -> bool:
        return not self.state.ended

    def finish(self, state: State) -> None:
        self.state, self.token = state, None


class Machine(RuleBasedStateMachine):
    """Any sequence of what gateway, workers and people do, next to a model that is too simple to be wrong."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.record = open_store(url)
        self.now = NOW
        self.jobs: dict[str, Expected] = {}
        self.stale: list[tuple[str, str]] = []
        self.worker = 0
        self.order = itertools.count()

    def teardown(self) -> None:
        self.record.close()

    @initialize()
    def start(self) -> None:
        self.worker = self.record.register("w", process_name(), 4, "ready", self.now)

    def some(self, data: st.DataObject, *states: State) -> str | None:
        ids = [job_id for job_id, job in self.jobs.items() if not states or job.state in states]
        return data.draw(st.sampled_from(ids)) if ids else None

    @rule(conversations=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=4), again=st.booleans())
    def accept(self, conversations: list[str | None], again: bool) -> None:
        jobs = [new_job(conversation=conversation) for conversation in conversations]
        for job in jobs:
            self.jobs[job.id] = Expected(next(self.order), job.conversation)
        assert self.record.accept(jobs, self.now) == [True] * len(jobs)
        if again:
            assert self.record.accept(jobs, self.now) == [False] * len(jobs)

    @rule(seconds=st.sampled_from([1, 10]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        assert self.record.heartbeat(self.worker, 4, "ready", [], self.now)

    def claimable(self, job: Expected) -> bool:
        due = job.state is State.QUEUED or (job.state is State.SCHEDULED and job.run_at <= self.now)
        mates = [other for other in self.jobs.values() if other.conversation == job.conversation is not None and other.lives]
        return due and not any(mate.order < job.order or mate.state is State.RUNNING for mate in mates)

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        possible = {job_id for job_id, job in self.jobs.items() if self.claimable(job)}
        suspects = {job_id for job_id in possible if self.jobs[job_id].rescues >= RESCUES_MAX - 1}
        one_runs = any(job.state is State.RUNNING and job.rescues >= RESCUES_MAX - 1 for job in self.jobs.values())
        claims = self.record.claim(self.worker, count, self.now)
        assert len(claims) == min(count, len(possible - suspects) + bool(suspects and not one_runs))
        for claim in claims:
            assert claim.job.id in possible
            job = self.jobs[claim.job.id]
            job.state, job.token, job.begun, job.attempt = State.RUNNING, claim.lease_token, True, job.attempt + 1
            assert claim.job.attempt == job.attempt
        for job in self.jobs.values():
            if job.state is State.SCHEDULED and job.run_at <= self.now:
                job.state = State.QUEUED

    @rule(data=st.data(), to=st.sampled_from([*ENDS, State.QUEUED]), seconds=st.sampled_from([0, 5]), uncount=st.booleans())
    def end(self, data: st.DataObject, to: State, seconds: int, uncount: bool) -> None:
        job_id = self.some(data, State.RUNNING)
        if job_id is None:
            return
        job = self.jobs[job_id]
        assert job.token
        self.stale.append((job_id, job.token))
        assert self.record.end([Ending(job_id, job.token, to, run_at=self.now + seconds, uncount=uncount)], self.now) == [True]
        if to is State.QUEUED:
            job.attempt -= uncount
            to = State.CANCELLED if job.cancelled else State.SCHEDULED if seconds else State.QUEUED
            job.run_at = self.now + seconds
        job.finish(to)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def write_with_a_stale_lease(self, data: st.DataObject) -> None:
        job_id, token = data.draw(st.sampled_from(self.stale))
        assert self.record.end([Ending(job_id, token, State.SUCCEEDED)], self.now) == [False]
        assert self.record.save_replies([Reply(job_id, token, {}, ["forged"])], self.now) == [False]
        assert self.record.pending_parts(job_id) == []

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = self.some(data)
        if job_id is None:
            return
        job = self.jobs[job_id]
        if job.state is State.RUNNING:
            job.cancelled = True
        elif job.lives:
            job.finish(State.CANCELLED)
        found = self.record.cancel(job_id, TENANT, self.now)
        assert found is not None
        assert found.state is job.state

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job_id = self.some(data)
        if job_id is None:
            return
        job = self.jobs[job_id]
        possible = job.state in (State.FAILED, State.CANCELLED, State.QUARANTINED)
        assert self.record.retry(job_id, self.now) is possible
        if possible:
            job.state, job.attempt, job.rescues, job.cancelled = State.QUEUED, 0, 0, False

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        job_id = self.some(data)
        if job_id is None:
            return
        job = self.jobs[job_id]
        possible = job.state is State.QUEUED and not job.begun
        assert self.record.withdraw([job_id]) == int(possible)
        if possible:
            del self.jobs[job_id]
            self.stale = [pair for pair in self.stale if pair[0] != job_id]

    @rule()
    def die(self) -> None:
        self.record.bury(self.worker, self.now)
        self.worker = self.record.register("w", process_name(), 4, "ready", self.now)
        running = [(job_id, job) for job_id, job in self.jobs.items() if job.state is State.RUNNING]
        assert self.record.reap(self.now) == len(running)
        for job_id, job in running:
            assert job.token
            self.stale.append((job_id, job.token))
            job.rescues, job.attempt = job.rescues + 1, job.attempt - 1
            if job.cancelled:
                job.finish(State.CANCELLED)
            else:
                job.finish(State.QUARANTINED if job.rescues >= RESCUES_MAX else State.QUEUED)

    @invariant()
    def record_and_model_agree(self) -> None:
        kept = {job.id: job for job in self.record.list_jobs(JobFilter(limit=1000))}
        assert kept.keys() == self.jobs.keys()
        for job_id, job in self.jobs.items():
            assert (kept[job_id].state, kept[job_id].attempt, kept[job_id].rescues) == (job.state, job.attempt, job.rescues)
            assert (kept[job_id].finished_at is None) == job.lives
        leases = {lease.job_id: (lease.lease_token, lease.cancelled) for lease in self.record.leases(self.worker)}
        running = {job_id: job for job_id, job in self.jobs.items() if job.state is State.RUNNING}
        assert leases == {job_id: (job.token, job.cancelled) for job_id, job in running.items()}


@pytest.mark.parametrize("dialect", ["postgres", "sqlite", "spool"])
def test_migrations_have_numbers_of_their_own(dialect):
    """A number that stands twice would be applied once, and one that is missing would be looked for in vain."""
    numbers = [number for number, _, _ in load_migrations(dialect)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_history(fresh_url, request):
    """After any history each accepted job is in the one state that the rules say, and no lease outlives its claim."""
    run_state_machine_as_test(
        lambda: Machine(fresh_url()),
        settings=settings(
            max_examples=40 if "sqlite" in request.node.name else 15,  # each begins with a database of its own
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
