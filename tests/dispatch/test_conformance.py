"""The contract of a dispatch, and a model that says in Python what the scripts must do."""

import itertools
import threading
import time
from collections import Counter

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import sentinel.dispatch.redis
from sentinel.dispatch import Stale, open_dispatch
from sentinel.dispatch.redis import RedisDispatch
from sentinel.errors import SettingsError, Unavailable
from sentinel.model import Hint
from tests.dispatch.conftest import PREFIX, hint, hints

LEASE = 15.0


def test_a_hint_is_there_once(dispatch):
    """Enqueueing again changes nothing while the hint waits; when it is done, it is new again."""
    assert dispatch.enqueue(hints("a1 a2")) == 2
    assert dispatch.enqueue(hints("a1 a2 a1 a3")) == 1
    assert dispatch.waiting() == 3
    assert dispatch.take(1, LEASE) == ["a1"]
    dispatch.done(["a1"])
    assert dispatch.enqueue(hints("a1")) == 1


def test_offered_again_while_somebody_looks(dispatch):
    """A hint that is offered while it is leased rings and waits again, and the end of that lease does not take it away."""
    dispatch.enqueue(hints("a1 a2"))
    assert dispatch.take(2, LEASE) == ["a1", "a2"]
    assert dispatch.enqueue(hints("a1")) == 0
    assert dispatch.wait(1)
    dispatch.done(["a1", "a2"])
    assert dispatch.waiting() == 1
    assert dispatch.take(2, LEASE) == ["a1"]


def chat(text: str) -> list[Hint]:
    """As `hints`, all of one chat."""
    return [attrs.evolve(one, chat="c1") for one in hints(text)]


def test_a_chat_is_handed_out_one_at_a_time(dispatch):
    """Of new hints of a chat the first waits, and the next when that job has ended; whatever else is there is not concerned."""
    dispatch.offer([*chat("a1 a2"), hint("a3", "a", chat="c2"), hint("a4", "a")])
    dispatch.offer(chat("a5"))
    assert dispatch.waiting() == 5
    assert dispatch.take(9, LEASE) == ["a1", "a3", "a4"]
    dispatch.done(["a1", "a3", "a4"])
    assert dispatch.take(9, LEASE) == []
    assert dispatch.ended(["a1"]) == []
    assert dispatch.wait(1)
    assert dispatch.take(9, LEASE) == ["a2"]
    dispatch.done(["a2"])
    assert dispatch.ended(["a3", "a2"]) == ["a3"]
    assert dispatch.take(9, LEASE) == ["a5"]
    dispatch.done(["a5"])
    assert dispatch.ended(["a5"]) == ["a5"]
    assert dispatch.waiting() == 0


def test_a_chat_goes_in_order_of_arrival(dispatch):
    """Within a chat neither priority counts nor when a message was received; between chats it does."""
    wanted = [hint("a4", "a", 5, "c1"), hint("a2", "a", 9, "c1"), hint("a3", "a", 0, "c1"), hint("a1", "a", 6, "c2")]
    dispatch.offer([attrs.evolve(one, since=1.0) for one in wanted])
    order = []
    while taken := dispatch.take(1, LEASE):
        order += taken
        dispatch.done(taken)
        dispatch.ended(taken)
    assert order == ["a4", "a1", "a2", "a3"]


def test_ended_before_it_is_done(dispatch):
    """A job may end before its hint is said to be followed: the next of its chat waits then, and stays."""
    dispatch.offer(chat("a1 a2"))
    dispatch.take(1, LEASE)
    assert dispatch.ended(["a1"]) == []
    dispatch.done(["a1"])
    assert dispatch.take(9, LEASE) == ["a2"]


def test_a_job_that_ended_elsewhere(dispatch):
    """The hint of a job that somebody claimed from the record and has ended is forgotten, and its chat goes on."""
    dispatch.offer(chat("a1 a2"))
    assert dispatch.ended(["a1"]) == []
    assert dispatch.take(9, LEASE) == ["a2"]
    assert dispatch.ended(["never seen"]) == ["never seen"]


def test_two_of_a_chat_end_at_once(dispatch):
    """However many jobs of a chat end in one word, one hint of it waits then."""
    dispatch.offer(chat("a1 a2 a3 a4"))
    dispatch.take(1, LEASE)
    assert dispatch.ended(["a2", "a1", "never seen"]) == ["never seen"]
    assert dispatch.take(9, LEASE) == ["a3"]


def test_a_miss_in_a_chat(dispatch):
    """If a job of a chat was not to be had, its chat is forgotten, and goes on with whoever is told then."""
    dispatch.offer(chat("a1 a2 a3"))
    dispatch.take(1, LEASE)
    dispatch.done([], ["a1"])
    assert dispatch.waiting() == 0
    assert dispatch.ended(["a1"]) == ["a1"]
    assert dispatch.enqueue(chat("a2")) == 1
    dispatch.offer(chat("a4"))
    assert dispatch.take(9, LEASE) == ["a2"]


def test_a_miss_that_was_offered_again(dispatch):
    """What was offered again while somebody looked in vain stays, and so does its chat."""
    dispatch.offer(chat("a1 a2"))
    dispatch.take(1, LEASE)
    dispatch.enqueue(chat("a1"))
    dispatch.done([], ["a1"])
    assert dispatch.take(9, LEASE) == ["a1"]
    assert dispatch.waiting() == 1


def test_the_record_knows_better(dispatch):
    """What the record says may be claimed waits at once, though others of its chat are known: a word that they ended was lost."""
    dispatch.offer(chat("a1 a2 a3"))
    dispatch.done(dispatch.take(1, LEASE))
    assert dispatch.enqueue(chat("a2")) == 0
    assert dispatch.take(9, LEASE) == ["a2"]
    dispatch.done(["a2"])
    assert dispatch.enqueue(chat("a0")) == 1
    assert dispatch.take(9, LEASE) == ["a0"]


def test_a_chat_that_nobody_speaks_of_any_more(dispatch, monkeypatch):
    """A job of whose end no word comes is handed out again after a while: a look at it in vain puts its chat right."""
    monkeypatch.setattr(sentinel.dispatch.redis, "RUN_MS", 20)
    dispatch.offer(chat("a1 a2"))
    dispatch.done(dispatch.take(1, LEASE))
    assert dispatch.take(9, LEASE) == []
    time.sleep(0.03)
    assert dispatch.take(9, LEASE) == ["a1"]


def test_a_chat_of_thousands(dispatch, server):
    """A flooded chat goes on, and is forgotten whole, in as few steps as any."""
    dispatch.offer([attrs.evolve(hint(f"a{number}"), chat="c1") for number in range(12_000)])
    assert dispatch.take(9, LEASE) == ["a0"]
    dispatch.done([], ["a0"])
    assert dispatch.waiting() == 0
    assert server.ask("EXISTS", f"{PREFIX}c:c1").strip() == ":0"


def test_a_hint_of_before_there_were_chats(dispatch, server):
    """What an earlier Sentinel has left in Redis is handed out, comes back after its lease, and is forgotten when it is done."""
    dispatch.enqueue(hints("a1"))
    server.ask("HSET", f"{PREFIX}ids", "a1", "100:a")
    assert dispatch.take(1, 0.02) == ["a1"]
    time.sleep(0.03)
    assert dispatch.take(1, LEASE) == ["a1"]
    dispatch.done(["a1"])
    assert dispatch.enqueue(hints("a1")) == 1


def test_twice_in_one_call(dispatch):
    """A hint that is in one call twice counts once."""
    assert dispatch.enqueue(hints("a1 a1")) == 1
    assert dispatch.take(5, LEASE) == ["a1"]


def test_nothing_to_do(dispatch):
    """Empty calls are answered, and an empty dispatch gives nothing."""
    assert dispatch.enqueue([]) == 0
    assert dispatch.take(0, LEASE) == []
    assert dispatch.take(10, LEASE) == []
    dispatch.done([])
    dispatch.done(["never seen"])
    assert dispatch.waiting() == 0


def test_tenants_take_turns(dispatch):
    """A tenant with many jobs does not hold up one with few."""
    dispatch.enqueue(hints("a1 a2 a3 a4 b1 c1"))
    assert dispatch.take(4, LEASE) == ["a1", "b1", "c1", "a2"]
    assert dispatch.take(9, LEASE) == ["a3", "a4"]


def test_turns_go_on_from_take_to_take(dispatch):
    """Fairness holds over many small takes as over one large one."""
    dispatch.enqueue(hints("a1 a2 a3 b1 b2 b3"))
    assert [dispatch.take(1, LEASE)[0][0] for _ in range(6)] in (list("ababab"), list("babaab"), list("abbaab"))


def test_no_hoarded_credit(dispatch):
    """A tenant that was away gets its share from now on, not what it did not use."""
    dispatch.enqueue([hint(tenant="a") for _ in range(100)])
    dispatch.take(50, LEASE)
    dispatch.enqueue(hints("b1 b2 b3 b4 b5"))
    taken = dispatch.take(6, LEASE)
    assert len([job_id for job_id in taken if job_id.startswith("b")]) == 3


def test_one_at_a_time_is_no_trick(dispatch):
    """A tenant that always has exactly one job waiting does not starve the others."""
    dispatch.enqueue([hint(f"b{number}", "b") for number in range(20)])
    taken = Counter()
    for number in range(20):
        dispatch.enqueue([hint(f"a{number}", "a")])
        (job_id,) = dispatch.take(1, LEASE)
        taken[job_id[0]] += 1
    assert abs(taken["a"] - taken["b"]) <= 1


def test_priority_then_order(dispatch):
    """Within a tenant the smaller priority is first, then the older job; however extreme the numbers."""
    wanted = [("late", 1000), ("first", 5), ("second", 5), ("urgent", 0), ("below", -7), ("beyond", 10**9)]
    for job_id, priority in wanted:
        dispatch.enqueue([hint(job_id, priority=priority)])
    assert dispatch.take(9, LEASE) == ["urgent", "below", "first", "second", "late", "beyond"]


def test_a_late_word_takes_its_place(dispatch):
    """A job that is hinted late is not behind all that came after it."""
    old, young = hint("old"), hint("young")
    dispatch.enqueue([young])
    dispatch.enqueue([old])
    assert dispatch.take(2, LEASE) == ["old", "young"]


def test_a_lease_expires(dispatch):
    """What is taken and not done is waiting again after its lease, at its old place."""
    dispatch.enqueue(hints("a1 a2"))
    assert dispatch.take(1, 0.05) == ["a1"]
    assert dispatch.waiting() == 1
    time.sleep(0.06)
    assert dispatch.waiting() == 2
    assert dispatch.take(2, LEASE) == ["a1", "a2"]


def test_done_ends_a_lease(dispatch):
    """What is done does not come back."""
    dispatch.enqueue(hints("a1"))
    dispatch.done(dispatch.take(1, 0.01))
    time.sleep(0.02)
    assert dispatch.take(1, LEASE) == []


def test_done_without_having_taken(dispatch):
    """Only what is leased is forgotten: what waits may have been offered since."""
    dispatch.enqueue(hints("a1 b1 b2"))
    dispatch.done(["a1", "b1"])
    assert dispatch.take(5, LEASE) == ["a1", "b1", "b2"]


def test_many(dispatch):
    """Thousands in one call come back complete and without doubles."""
    ids = [f"{number:032x}" for number in range(3_500)]
    assert dispatch.enqueue([Hint(job_id, f"tenant-{number % 7}", 100, number) for number, job_id in enumerate(ids)]) == 3_500
    taken = [job_id for _ in range(4) for job_id in dispatch.take(1_000, LEASE)]
    assert sorted(taken) == ids
    dispatch.done(taken)
    assert dispatch.enqueue([hint(ids[0])]) == 1


def test_a_tenant_may_be_called_anything(dispatch):
    """Names are not part of any syntax."""
    names = ["a:b", "{x}", "*", "ü ber", "12:34", "ring"]
    dispatch.enqueue([Hint(f"job-of-{number}", name, 1, number) for number, name in enumerate(names)])
    assert len(dispatch.take(9, 0.01)) == len(names)
    time.sleep(0.02)
    assert len(dispatch.take(9, LEASE)) == len(names)


def test_two_do_not_get_the_same(dispatch, server, connect):
    """A hint is handed out once while its lease holds."""
    dispatch.enqueue([hint() for _ in range(50)])
    other = connect(server.url)
    taken = [job_id for _ in range(5) for taker in (dispatch, other) for job_id in taker.take(5, LEASE)]
    assert len(taken) == len(set(taken)) == 50


# Waiting


def test_the_bell_wakes(dispatch):
    """Who waits is woken by an enqueue from elsewhere, long before its time is over."""
    heard = []
    waiter = threading.Thread(target=lambda: heard.append(dispatch.wait(10)))
    began = time.monotonic()
    waiter.start()
    time.sleep(0.05)
    dispatch.enqueue(hints("a1"))
    waiter.join(5)
    assert heard == [True]
    assert time.monotonic() - began < 2


def test_nobody_rings(dispatch):
    """Waiting ends when its time is over."""
    began = time.monotonic()
    assert not dispatch.wait(0.05)
    assert not dispatch.wait(0)
    assert time.monotonic() - began < 0.5


def test_offered_and_taken_on_other_connections(dispatch):
    """What is offered is enqueued, and who was woken takes it, whatever the first connection is doing."""
    dispatch.enqueue(hints("a1"))
    dispatch.offer(hints("a1 a2"))
    assert dispatch.wait(1)
    assert dispatch.take_next(5, LEASE) == ["a1", "a2"]
    dispatch.done(["a1", "a2"])
    assert dispatch.waiting() == 0


def test_the_bell_is_quiet_when_all_is_taken(dispatch):
    """An old ring does not make anybody look for what is gone."""
    dispatch.enqueue(hints("a1 a2 a3"))
    dispatch.take(3, LEASE)
    assert not dispatch.wait(0.02)


def test_the_bell_rings_on(dispatch, server):
    """However many wait, all are woken one by one while something is left; and the list of rings stays short."""
    dispatch.enqueue([hint() for _ in range(100)])
    assert server.ask("LLEN", f"{PREFIX}bell").strip() == ":16"
    for _ in range(100):
        assert dispatch.wait(1)
        assert len(dispatch.take(1, LEASE)) == 1
    assert not dispatch.wait(0.02)


def test_nothing_grows(dispatch, server):
    """However many tenants come and go, Redis keeps nothing of them."""
    dispatch.enqueue([hint(tenant="steady") for _ in range(300)])
    for number in range(200):
        dispatch.offer([hint(tenant=f"tenant-{number}", chat=f"{number:x}")])
        dispatch.done(taken := dispatch.take(2, LEASE))
        dispatch.ended(taken)
    assert server.ask("ZCARD", f"{PREFIX}served").strip() in (":0", ":1", ":2")
    assert int(server.ask("DBSIZE")[1:]) < 10


def test_what_is_there_again_rings_nothing(dispatch):
    """Enqueueing what waits already wakes nobody."""
    dispatch.enqueue(hints("a1"))
    assert dispatch.wait(1)
    dispatch.enqueue(hints("a1"))
    assert not dispatch.wait(0.02)


def test_waiting_holds_up_nobody(dispatch):
    """While one thread waits, another goes on."""
    waiter = threading.Thread(target=dispatch.wait, args=(0.5,))
    waiter.start()
    began = time.monotonic()
    assert dispatch.waiting() == 0
    assert time.monotonic() - began < 0.3
    dispatch.enqueue(hints("a1"))
    waiter.join(5)


# Leading


def test_one_leads(dispatch, server, connect):
    """One leads, stays it by asking again, and is followed by another when it no longer asks."""
    other = connect(server.url)
    assert dispatch.lead(10)
    assert not other.lead(10)
    assert dispatch.lead(0.02)
    time.sleep(0.03)
    assert other.lead(10)
    assert not dispatch.lead(10)


# Epochs


def every_call(dispatch):
    return [
        lambda: dispatch.enqueue(hints("a1")),
        lambda: dispatch.take(1, LEASE),
        lambda: dispatch.offer(hints("a1")),
        lambda: dispatch.take_next(1, LEASE),
        lambda: dispatch.done(["a1"]),
        dispatch.waiting,
        lambda: dispatch.lead(1),
    ]


def test_an_empty_one_is_stale(server, connect):
    """Nobody uses a dispatch that was never filled, nor learns otherwise by asking again."""
    dispatch = connect(server.url)
    for call in every_call(dispatch) * 2:
        with pytest.raises(Stale):
            call()


def test_emptied_while_in_use(dispatch, server):
    """After everything was removed all calls say so, until it is rebuilt."""
    dispatch.enqueue(hints("a1"))
    server.ask("FLUSHALL")
    for call in every_call(dispatch) * 2:
        with pytest.raises(Stale):
            call()
    assert dispatch.rebuild([hints("a1 a2"), hints("b1")])
    assert dispatch.take(5, LEASE) == ["a1", "b1", "a2"]


def test_a_new_one_joins(dispatch, server, connect):
    """A process that knows nothing yet goes on with the filling that is there."""
    dispatch.enqueue(hints("a1"))
    assert connect(server.url).take(1, LEASE) == ["a1"]


@pytest.mark.parametrize("number", range(7))
def test_refilled_by_another(dispatch, server, connect, number):
    """Whatever call comes first after another has refilled says Stale, once; then all goes on."""
    server.ask("FLUSHALL")
    assert connect(server.url).rebuild([hints("b1")])
    with pytest.raises(Stale):
        every_call(dispatch)[number]()
    assert dispatch.take(1, LEASE) == ["b1"]


def test_older_than_known(dispatch, server, connect):
    """When the tick has gone back, who knew better says Stale until it is rebuilt; who knew less goes on."""
    before = server.ask("GET", f"{PREFIX}tick").split()[1]
    dispatch.enqueue(hints("a1 a2"))
    server.ask("SET", f"{PREFIX}tick", before)
    for call in every_call(dispatch) * 2:
        with pytest.raises(Stale):
            call()
    assert connect(server.url).take(1, LEASE) == ["a1"]
    assert dispatch.rebuild([hints("a1 a2")])
    assert dispatch.waiting() == 2


# Rebuilding


def test_rebuild_removes_the_rest(dispatch, server):
    """Nothing of before is left, whatever it was, and keys of others are left alone."""
    dispatch.enqueue([hint(tenant=f"tenant-{number}") for number in range(50)])
    dispatch.take(10, LEASE)
    server.ask("SET", f"{PREFIX}something", "odd")
    server.ask("SET", "sentinel:theirs", "1")
    assert dispatch.rebuild([])
    keys = server.ask("KEYS", "*")
    assert {word for word in keys.split() if not word.startswith(("*", "$"))} == {
        f"{PREFIX}epoch",
        f"{PREFIX}tick",
        "sentinel:theirs",
    }


def test_others_wait_for_the_end_of_a_rebuild(dispatch, server, connect):
    """While one rebuilds, the others get Stale, do not rebuild too, and afterwards go on."""
    other = connect(server.url)
    other.waiting()

    def pages():
        yield hints("a1")
        for call in every_call(other):
            with pytest.raises(Stale):
                call()
        assert not other.rebuild([hints("x1")])
        yield hints("a2")

    assert dispatch.rebuild(pages())
    with pytest.raises(Stale):
        other.waiting()
    assert other.take(5, LEASE) == ["a1", "a2"]


def test_who_was_slower_does_not_rebuild_again(dispatch, server, connect):
    """A rebuild that comes after another's changes nothing, and its owner then goes on with the other's."""
    other, new = connect(server.url), connect(server.url)
    other.waiting()
    assert dispatch.rebuild([hints("a1")])
    assert not other.rebuild([])
    assert not new.rebuild([])
    assert other.waiting() == new.waiting() == 1


def test_a_rebuild_that_fails(dispatch, server, connect):
    """What the pages raise comes out; the dispatch stays closed, and the next may rebuild at once."""

    def pages():
        yield hints("a1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dispatch.rebuild(pages())
    with pytest.raises(Stale):
        dispatch.waiting()
    assert connect(server.url).rebuild([hints("b1")])
    with pytest.raises(Stale):
        dispatch.waiting()
    assert dispatch.take(5, LEASE) == ["b1"]


def test_a_rebuild_that_was_overtaken(dispatch, server, connect):
    """Who lost the lock while it paused adds nothing to what its successor filled, and says that it was not it."""
    other = connect(server.url)
    other.waiting()

    def pages():
        yield hints("a1")
        server.ask("DEL", f"{PREFIX}refill")  # as if it had expired
        assert other.rebuild([hints("b1")])
        yield hints("a2")

    assert not dispatch.rebuild(pages())
    assert other.take(5, LEASE) == ["b1"]


# Accidents


@pytest.mark.parametrize("lost", ["ids", "c:c1", "ring", "leases", "t:a", "tick", "bell", "served", "leader"])
def test_a_key_that_vanished(dispatch, server, connect, lost):
    """If Redis drops any one of the keys, enqueueing everything again brings every job back within a lease."""
    wanted = [*hints("a1 a2 a3 b1"), *chat("a4 a5")]
    dispatch.offer(wanted)
    dispatch.take(2, 0.02)
    server.ask("DEL", PREFIX + lost)
    fresh = connect(server.url)
    fresh.enqueue(wanted)
    time.sleep(0.03)
    assert set(fresh.take(9, LEASE)) | set(fresh.take(9, LEASE)) == {"a1", "a2", "a3", "b1", "a4", "a5"}


def test_a_chat_whose_hints_vanished(dispatch, server):
    """If Redis drops all that it knew of the jobs, their chats are the record's to know."""
    dispatch.offer(chat("a1 a2"))
    server.ask("DEL", f"{PREFIX}ids")
    dispatch.done(dispatch.take(1, LEASE))
    assert dispatch.ended(["a1"]) == ["a1"]
    assert dispatch.enqueue(chat("a3")) == 1
    dispatch.done(dispatch.take(1, LEASE))
    assert dispatch.ended(["a3"]) == ["a3"]
    assert server.ask("EXISTS", f"{PREFIX}c:c1").strip() == ":0"


def test_closed_while_somebody_waits(dispatch):
    """Closing wakes who waits, with Unavailable."""
    errors = []

    def wait():
        try:
            dispatch.wait(10)
        except Unavailable as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.1)
    dispatch.close()
    waiter.join(2)
    assert len(errors) == 1


def test_opened_by_url(server):
    """A URL of Redis opens a dispatch; another is refused without being repeated."""
    opened = open_dispatch(server.url)
    assert opened.rebuild([])
    opened.close()
    for url in ("sqlite:sesame", "redis://:ses/ame@localhost", "redis://sesame@localhost?socket_read_size=x", "redis://h?sesame=1"):
        with pytest.raises(SettingsError) as refused:
            open_dispatch(url)
        assert "ses" not in str(refused.value)


# The model


def _chat(job_id: str) -> str:
    """Half of the jobs belong to one of two chats of their tenant."""
    return f"{job_id[0]}{int(job_id[1:]) % 2}" if job_id[1:] in "0123" else ""


class Model(RuleBasedStateMachine):
    """The same in plain Python, one id at a time."""

    def __init__(self, server, dispatch: RedisDispatch) -> None:
        super().__init__()
        self.server, self.dispatch = server, dispatch
        server.ask("FLUSHALL")
        dispatch._known = "", 0
        assert dispatch.rebuild([])
        self.known: dict[str, tuple[int, int, str]] = {}  # id: priority, order, tenant
        self.leased: set[str] = set()
        self.behind: set[str] = set()  # others of their chats
        self.ring: dict[str, int] = {}
        self.served: dict[str, int] = {}
        self.order = 0

    def queue(self, tenant: str) -> list[str]:
        mine = [job_id for job_id, (_, _, owner) in self.known.items() if owner == tenant]
        return sorted({*mine} - self.leased - self.behind, key=self.known.__getitem__)

    def line(self, chat: str) -> list[str]:
        return sorted((job_id for job_id in self.known if chat and _chat(job_id) == chat), key=lambda job_id: self.known[job_id][1])

    def forget(self, job_id: str) -> None:
        _, _, tenant = self.known.pop(job_id)
        self.leased.discard(job_id)
        self.behind.discard(job_id)
        self.leave_if_empty(tenant)

    def join(self, tenant: str) -> None:
        if not self.ring:
            self.served.clear()
        if tenant not in self.ring:
            self.ring[tenant] = max(min(self.ring.values(), default=0), self.served.get(tenant, 0))

    def leave_if_empty(self, tenant: str) -> None:
        if tenant in self.ring and not self.queue(tenant):
            self.served[tenant] = self.ring.pop(tenant)

    @rule(batch=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 2)), max_size=8), ready=st.booleans())
    def enqueue(self, batch, ready):
        places = itertools.count(self.order + 1)
        wanted = [
            Hint(f"{tenant}{number}", tenant, priority, next(places), _chat(f"{tenant}{number}"))
            for tenant, number, priority in batch
        ]
        known, new = {*self.known}, {one.job_id for one in wanted} - self.known.keys()
        for one in wanted:
            self.order += 1
            if one.job_id in known:
                self.leased.discard(one.job_id)
                self.behind.discard(one.job_id)
            elif one.job_id not in self.known:
                if self.line(one.chat) and not ready:
                    self.behind.add(one.job_id)
                self.known[one.job_id] = one.priority, self.order, one.tenant
        if ready:
            assert self.dispatch.enqueue(wanted) == len(new)
        else:
            self.dispatch.offer(wanted)
        for tenant in {one.tenant for one in wanted}:
            if self.queue(tenant):
                self.join(tenant)

    @rule(count=st.integers(1, 4))
    def take(self, count):
        taken, turns = [], {}
        while self.ring and len(taken) < count:
            tenant = min(self.ring, key=lambda name: (self.ring[name], turns.get(name, 0), name))
            job_id = self.queue(tenant)[0]
            self.leased.add(job_id)
            taken.append(job_id)
            turns[tenant] = len(taken)
            self.ring[tenant] += 1
            self.leave_if_empty(tenant)
        assert self.dispatch.take(count, 60) == taken

    @rule(data=st.data())
    def done(self, data):
        ids = data.draw(st.lists(st.sampled_from([*sorted(self.known), "unknown"]), max_size=5, unique=True))
        claimed = data.draw(st.integers(0, len(ids)))
        self.dispatch.done(ids[:claimed], ids[claimed:])
        for job_id in ids[:claimed]:
            if job_id in self.leased and not _chat(job_id):
                self.forget(job_id)
        for job_id in self.leased.intersection(ids[claimed:]):
            for other in {job_id, *self.line(_chat(job_id))} & self.known.keys():
                self.forget(other)

    @rule(data=st.data())
    def ended(self, data):
        ids = data.draw(st.lists(st.sampled_from([*sorted(self.known), "unknown"]), max_size=5, unique=True))
        chats = {job_id: _chat(job_id) if job_id in self.known else "" for job_id in ids}
        for job_id in self.known.keys() & ids:
            self.forget(job_id)
        nexts = {job_id: line[0] for job_id, chat in chats.items() if (line := self.line(chat))}
        assert self.dispatch.ended(ids) == [job_id for job_id in ids if job_id not in nexts]
        for job_id in nexts.values():
            self.leased.discard(job_id)
            self.behind.discard(job_id)
        for job_id in nexts.values():
            self.join(self.known[job_id][2])

    @rule(data=st.data(), count=st.integers(1, 3))
    def expire(self, data, count):
        if not self.leased:
            return
        for job_id in sorted(data.draw(st.sets(st.sampled_from(sorted(self.leased)), max_size=4))):
            self.server.ask("ZADD", f"{PREFIX}leases", "XX", "0", job_id)
            self.leased.discard(job_id)
            self.join(self.known[job_id][2])
        self.take(count)  # which is what brings them back

    @invariant()
    def as_many_wait(self):
        assert self.dispatch.waiting() == len(self.known) - len(self.leased)


def test_model(server, connect):
    """Whatever is enqueued, taken, done and expired in whatever order, the scripts do what the model does."""
    dispatch = connect(server.url)
    limits = settings(
        max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(lambda: Model(server, dispatch), settings=limits)
