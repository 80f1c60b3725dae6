"""Plans, subscriptions and usage, in every store: what is counted is counted once, with its job, in the month of its receipt."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from sentinel.edge.gcra import Rate
from sentinel.edge.plans import UNLIMITED, Terms
from sentinel.edge.quota import Account, Ledger, Used
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.model import Metering, State
from sentinel.records import Record, Reply
from tests.records.conftest import NOW, TENANT, Bench, new_job

MONTH = "2023-11"
PRO = Terms(jobs=100, tenant_rate=Rate(60, 60))
BOB = Account(TENANT, "telegram/bot/bob")


def usage(record: Record, month: str = MONTH) -> Mapping[Account, Used]:
    """What the store says was used."""
    return record.usage(month).used


def reply(bench: Bench, claim: Any, tokens: int) -> bool:
    """Store an answer that has cost so many tokens."""
    result = {"output_text": "Hi", "usage": {"total_tokens": tokens}}
    return bench.record.save_replies([Reply(claim.job.id, claim.lease_token, result, ["Hi"])], NOW)[0]


class TestPlans:
    def test_a_plan_is_kept_and_replaced(self, record: Record) -> None:
        """A plan's terms come back as they were given, and the last given are in force."""
        record.put_plan("pro", PRO, NOW)
        record.put_plan("free", UNLIMITED, NOW)
        record.put_plan("pro", attrs.evolve(PRO, jobs=200), NOW)
        assert record.plans() == {"free": UNLIMITED, "pro": attrs.evolve(PRO, jobs=200)}

    def test_a_change_is_seen(self, record: Record) -> None:
        """A new plan, a changed plan and a subscription change the directory's version."""
        versions = [record.directory_version()]
        for change in (
            lambda: record.put_plan("pro", PRO, NOW),
            lambda: record.put_plan("pro", UNLIMITED, NOW),
            lambda: record.put_subscription(Subscription(TENANT, "pro"), NOW),
            lambda: record.put_subscription(Subscription(TENANT, "pro", Status.ENDED), NOW),
        ):
            change()
            versions.append(record.directory_version())
        assert len(set(versions)) == len(versions)


class TestSubscriptions:
    def test_it_has_the_plans_terms_and_its_own(self, record: Record) -> None:
        """The directory has the subscription with its special terms in place of the plan's."""
        record.put_plan("pro", PRO, NOW)
        given = Subscription(TENANT, "pro", Status.TRIALING, NOW + 60, Terms(jobs=7), event_at=NOW)
        assert record.put_subscription(given, NOW)
        assert record.directory().subscriptions == {TENANT: attrs.evolve(given, terms=attrs.evolve(PRO, jobs=7))}

    @pytest.mark.parametrize(("tenant", "plan"), [("nobody", "pro"), (TENANT, "none")])
    def test_of_nobody_or_for_nothing(self, record: Record, tenant: str, plan: str) -> None:
        """Without its tenant or its plan there is no subscription."""
        record.put_plan("pro", PRO, NOW)
        assert not record.put_subscription(Subscription(tenant, plan), NOW)
        assert record.directory().subscriptions == {}

    def test_old_news_changes_nothing(self, record: Record) -> None:
        """What was true earlier does not replace what was true later, in whichever order it comes; the same twice is the same."""
        record.put_plan("pro", PRO, NOW)
        late, early = Subscription(TENANT, "pro", Status.ENDED, event_at=NOW), Subscription(TENANT, "pro", event_at=NOW - 1)
        assert [record.put_subscription(each, NOW) for each in (late, early, late)] == [True, False, True]
        assert record.directory().subscriptions[TENANT].status is Status.ENDED


class TestJobsAreCounted:
    def test_with_the_job(self, bench: Bench) -> None:
        """A job is counted for its tenant, and for its end user where it says so."""
        bench.accept(new_job(sender="bob"), new_job(sender="bob", metering=Metering.USER), new_job(metering=Metering.NONE))
        assert usage(bench.record) == {Account(TENANT): Used(2), BOB: Used(1)}

    @pytest.mark.parametrize("size", [1, 40])
    def test_once(self, bench: Bench, size: int) -> None:
        """A job that is accepted again, alone or among new ones, is not counted again; nor twice in one batch."""
        jobs = [new_job(sender="bob", metering=Metering.USER) for _ in range(size)]
        bench.accept(*jobs, jobs[0])
        bench.accept(*jobs)
        bench.accept(jobs[0], *(new_job(sender="bob", metering=Metering.USER) for _ in range(size)))
        assert usage(bench.record) == {Account(TENANT): Used(2 * size), BOB: Used(2 * size)}

    def test_a_withdrawn_job_is_not(self, bench: Bench) -> None:
        """What was withdrawn was not used."""
        ids = bench.accept(new_job(sender="bob", metering=Metering.USER), new_job(sender="bob", metering=Metering.USER))
        bench.record.withdraw(ids[:1])
        assert usage(bench.record) == {Account(TENANT): Used(1), BOB: Used(1)}

    def test_in_the_month_of_its_receipt(self, bench: Bench) -> None:
        """At the turn of the month (UTC) a job belongs to the month in which it was received, whenever it is written."""
        turn = 1_701_388_800.0  # 2023-12-01T00:00:00Z
        bench.accept(new_job(received_at=turn - 0.001), new_job(received_at=turn), now=turn + 60)
        assert usage(bench.record, "2023-11") == usage(bench.record, "2023-12") == {Account(TENANT): Used(1)}

    def test_pruning_keeps_the_count(self, bench: Bench) -> None:
        """Removing old jobs does not change what they used; of months that are over, end users are forgotten."""
        bench.accept(new_job(sender="bob", metering=Metering.USER))
        (claim,) = bench.claim()
        reply(bench, claim, 10)
        bench.end(claim, State.SUCCEEDED)
        bench.record.add_up_usage(seconds=0)
        assert bench.record.prune(NOW + 1) == 1
        assert usage(bench.record) == {Account(TENANT): Used(1, 10), BOB: Used(1, 10)}
        bench.record.prune(NOW + 40 * 86_400)
        assert usage(bench.record) == {Account(TENANT): Used(1, 10)}


class TestTokensAreCounted:
    def test_with_the_answer_and_once(self, bench: Bench) -> None:
        """An answer's tokens are counted when it is stored; storing it again, or with a lost lease, counts nothing."""
        claim = bench.running(sender="bob", metering=Metering.USER)
        assert reply(bench, claim, 30)
        assert reply(bench, claim, 30)
        bench.end(claim, State.FAILED)
        assert not reply(bench, claim, 99)
        assert usage(bench.record) == {Account(TENANT): Used(1, 30), BOB: Used(1, 30)}

    def test_not_again_for_a_job_that_is_retried(self, bench: Bench) -> None:
        """A job whose delivery is tried again by hand has its answer, and costs no more."""
        claim = bench.running()
        reply(bench, claim, 30)
        bench.end(claim, State.FAILED)
        bench.record.retry(claim.job.id, NOW)
        (again,) = bench.claim()
        bench.end(again, State.SUCCEEDED)
        assert usage(bench.record) == {Account(TENANT): Used(1, 30)}

    def test_not_for_what_is_not_metered(self, bench: Bench) -> None:
        """A job that is nobody's use costs nobody anything."""
        reply(bench, bench.running(metering=Metering.NONE), 30)
        assert usage(bench.record) == {}


class TestFollowing:
    def test_adding_up_changes_no_sum(self, bench: Bench) -> None:
        """What is used is the same before and after it was added up, and adding up twice adds nothing."""
        for _ in range(3):
            bench.accept(new_job(sender="bob", metering=Metering.USER))
            before = usage(bench.record)
            bench.record.add_up_usage(seconds=0)
            bench.record.add_up_usage(seconds=0)
            assert usage(bench.record) == before

    def test_what_has_not_changed_since_is_left_out(self, bench: Bench) -> None:
        """A look with the mark of an earlier one gets who has used something meanwhile, and not those of long before."""
        people = [Account(TENANT, f"telegram/bot/{number}") for number in range(20)]
        for account in people:
            bench.accept(new_job(sender=account.end_user.rpartition("/")[2], metering=Metering.USER))
        look = bench.record.usage(MONTH)
        assert look.used.keys() == {Account(TENANT), *people}
        bench.accept(new_job(sender="19", metering=Metering.USER))
        found = bench.record.usage(MONTH, look.mark)
        told = {end_user for _, end_user, _, _ in found.rows} | {each for _, end_users, _, _ in found.more for each in end_users}
        assert {"", people[19].end_user} <= told
        assert people[0].end_user not in told

    @pytest.mark.parametrize("seconds", [0.0, 60.0])
    def test_whoever_follows_knows_what_is_used(self, bench: Bench, seconds: float) -> None:
        """Jobs that come, are answered and are withdrawn between the looks, with nothing or all added up: each is known once."""
        chance, ledger, mark = random.Random(1), Ledger(month=MONTH), None
        for _ in range(30):
            what = chance.choice(["accept", "accept", "reply", "withdraw", "add up"])
            senders = [chance.choice(["ada", "bob", "cem"]) for _ in range(chance.choice([1, 3, 40]))]
            jobs = [new_job(sender=sender, metering=Metering.USER) for sender in senders]
            if what == "accept":
                bench.accept(*jobs)
            elif what == "reply":
                for claim in bench.claim():
                    reply(bench, claim, 7)
                    bench.end(claim, State.SUCCEEDED)
            elif what == "withdraw":
                bench.record.withdraw(bench.accept(*jobs)[:2])
            else:
                bench.record.add_up_usage(seconds)
                mark = mark if seconds else None
            if chance.random() < 0.7:
                look = bench.record.usage(MONTH, mark)
                ledger.learn(MONTH, look.rows, 1, look.more)
                mark = look.mark
                for (tenant, end_user), used in usage(bench.record).items():
                    tally = ledger.tally(tenant, end_user)
                    assert Used(tally.jobs, tally.tokens) == used


class TestGateways:
    def test_each_knows_how_many_there_are(self, record: Record) -> None:
        """A gateway is counted from its first word to its last."""
        assert [record.see_gateway(name) for name in ("a", "b", "a", "c")] == [1, 2, 2, 3]
        record.forget_gateway("b")
        assert record.see_gateway("a") == 2
