"""What an agent remembers, on every store: turns, summaries, notes, chats held by a person, and their erasure."""

import attrs
import pytest

from sentinel.model import Chat, Claim, State
from sentinel.records import Reply, memory
from sentinel.records.memory import ERASED_AT_A_TIME, Erasure
from tests.records.conftest import NOW, TENANT, Bench, new_job
from tests.records.test_conformance import end_as

CHAT = Chat(TENANT, "telegram", "bot", "c")
OTHERS = [attrs.evolve(CHAT, **{name: "other"}) for name in ("tenant", "channel", "source", "conversation")]


def say(bench: Bench, text: str, answer: str = "Hi", chat: Chat = CHAT, now: float = NOW, **changes: object) -> str:
    """A job of the chat that was answered and remembered; its id."""
    if chat.tenant != TENANT:
        bench.record.add_tenant(chat.tenant, NOW)
    place = {"tenant": chat.tenant, "channel": chat.channel, "source": chat.source, "conversation": chat.conversation}
    claim = bench.running(now=now, **place, input=({"role": "user", "content": text},), **changes)
    bench.reply(claim, answer, text=answer)
    assert bench.end(claim, State.SUCCEEDED, now=now, remember=True)
    return claim.job.id


def memory_reply(claim: Claim) -> Reply:
    return Reply(claim.job.id, claim.lease_token, {"output_text": "x", "usage": {"total_tokens": 7}}, ["x"])


def said(bench: Bench, chat: Chat = CHAT) -> list[tuple[str, str]]:
    return [(turn.said[0]["content"], turn.answered) for turn in bench.record.memories([chat])[0].turns]


class TestTurns:
    def test_a_job_becomes_a_turn_with_its_end(self, bench):
        """What was said and answered is remembered in order; of many turns the last are read."""
        ids = [say(bench, f"q{number}", f"a{number}") for number in range(4)]
        remembered = bench.record.memories([CHAT])[0]
        assert said(bench) == [(f"q{number}", f"a{number}") for number in range(4)]
        assert [turn.job_id for turn in remembered.turns] == ids
        assert (remembered.summary, remembered.held) == ("", False)
        assert [turn.job_id for turn in bench.record.memories([CHAT], 2)[0].turns] == ids[2:]

    def test_many_chats_are_asked_for_together(self, bench):
        """Each gets its own memory, in the order of the question; also one that is new, and one that is asked for twice."""
        say(bench, "mine", "a")
        say(bench, "theirs", "b", chat=OTHERS[0])
        bench.record.hold(OTHERS[1], NOW)
        asked = [OTHERS[0], OTHERS[2], CHAT, OTHERS[1], CHAT]
        together = bench.record.memories(asked)
        assert together == [bench.record.memories([chat])[0] for chat in asked]
        assert [[turn.answered for turn in known.turns] for known in together] == [["b"], [], ["a"], [], ["a"]]
        assert [known.held for known in together] == [False, False, False, True, False]
        assert bench.record.memories([]) == []

    @pytest.mark.parametrize("other", OTHERS, ids=["tenant", "channel", "source", "conversation"])
    def test_another_chat_remembers_nothing(self, bench, other):
        """Neither turns nor summaries nor notes are found by another tenant, channel, source or conversation."""
        say(bench, "mine")
        bench.record.note(CHAT, "name", "Ada", NOW)
        bench.record.hold(CHAT, NOW)
        assert bench.record.memories([other])[0] == memory.Memory()
        assert bench.record.notes(other) == {}
        say(bench, "theirs", chat=other)
        assert said(bench) == [("mine", "Hi")]

    @pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.QUEUED])
    def test_only_success_is_remembered(self, bench, state):
        """What was not answered to the end is no turn, and when a retry ends well it is one, once."""
        claim = bench.running(conversation="c")
        bench.reply(claim, "Hi")
        bench.end(claim, state, remember=True)
        assert said(bench) == []
        if state is not State.QUEUED:
            assert bench.record.retry(claim.job.id, NOW)
        (again,) = bench.claim()
        assert bench.end(again, State.SUCCEEDED, remember=True)
        assert not bench.end(again, State.SUCCEEDED, remember=True)
        assert len(said(bench)) == 1

    def test_who_is_not_to_remember_does_not(self, bench, stale_claim):
        """An end without the wish, a job without a chat and a stale lease leave no turn."""
        bench.end(bench.running(conversation="c"), State.SUCCEEDED)
        bench.end(bench.running(), State.SUCCEEDED, remember=True)
        assert not bench.end(stale_claim, State.SUCCEEDED, remember=True)
        assert said(bench) == []

    def test_merged_messages_are_one_turn(self, bench):
        """Messages that became part of an earlier one leave one turn with all of them."""
        bench.accept(*[new_job(conversation="c", input=({"role": "user", "content": text},)) for text in ("one", "two")])
        (claim,) = bench.claim()
        job = bench.record.merge(claim, NOW)
        bench.reply(claim, "Hi")
        bench.end(claim, State.SUCCEEDED, remember=True)
        (turn,) = bench.record.memories([CHAT])[0].turns
        assert [message["content"] for message in turn.said] == ["one", "two"] == [message["content"] for message in job.input]

    @pytest.fixture
    def stale_claim(self, bench):
        claim = bench.running(conversation="c", channel="whatsapp")
        bench.end(claim, State.QUEUED)
        bench.claim()
        return claim


class TestSummaries:
    def test_a_summary_takes_the_place_of_turns(self, bench):
        """A summary written with the lease stands for the turns up to a place, and they are gone; the next one replaces it."""
        for number in range(3):
            say(bench, f"q{number}")
        second = bench.record.memories([CHAT])[0].turns[1].place
        claim = bench.running(conversation="c")
        for summary in ("first", "second"):
            assert bench.record.save_summary(claim, summary, second, NOW)
            assert bench.record.memories([CHAT])[0].summary == summary
        assert said(bench) == [("q2", "Hi")]

    def test_a_stale_lease_summarises_nothing(self, bench):
        """Without the lease the summary is refused and the turns stay."""
        say(bench, "q")
        claim = bench.running(conversation="c")
        bench.end(claim, State.QUEUED)
        assert not bench.record.save_summary(claim, "forged", 1_000, NOW)
        assert said(bench) == [("q", "Hi")]
        assert bench.record.memories([CHAT])[0].summary == ""

    def test_forget(self, bench):
        """Forgetting leaves no turn, summary or note of the chat, and another chat as it is."""
        for chat in (CHAT, OTHERS[3]):
            say(bench, "q", chat=chat)
            bench.record.note(chat, "name", "Ada", NOW)
        claim = bench.running(conversation="c")
        bench.record.save_summary(claim, "once", 0, NOW)
        bench.record.forget(CHAT)
        assert bench.record.memories([CHAT])[0] == memory.Memory()
        assert bench.record.notes(CHAT) == {}
        assert said(bench, OTHERS[3]) == [("q", "Hi")]
        assert bench.record.notes(OTHERS[3]) == {"name": "Ada"}

    def test_pruned(self, bench):
        """Turns, summaries and notes from before a time are removed; later ones and chats held by a person stay."""
        say(bench, "old", now=NOW)
        say(bench, "new", now=NOW + 10)
        bench.record.note(CHAT, "old", "x", NOW)
        bench.record.hold(CHAT, NOW)
        assert bench.record.prune_memory(NOW + 5) == 1
        assert said(bench) == [("new", "Hi")]
        assert bench.record.notes(CHAT) == {}
        assert bench.record.memories([CHAT])[0].held


class TestNotes:
    def test_written_replaced_removed(self, bench):
        """A note is found under its name until it is replaced or removed."""
        for text in ("Ada", "Grace"):
            bench.record.note(CHAT, "name", text, NOW)
        bench.record.note(CHAT, "size", "ü", NOW)
        assert bench.record.notes(CHAT) == {"name": "Grace", "size": "ü"}
        bench.record.note(CHAT, "name", None, NOW)
        assert bench.record.notes(CHAT) == {"size": "ü"}


class TestHeld:
    def test_until_released(self, bench):
        """A chat is a person's from the first hold to its release; releasing asks for tenant and conversation."""
        for now in (NOW, NOW + 1):
            bench.record.hold(CHAT, now)
        assert bench.record.memories([CHAT])[0].held
        assert [(held.chat, held.held_at) for held in bench.record.held()] == [(CHAT, NOW)]
        assert bench.record.held("other") == []
        assert bench.record.release("other", "c") == 0
        assert bench.record.release(TENANT, "c", "slack") == 0
        assert bench.record.release(TENANT, "c", "telegram", "bot") == 1
        assert bench.record.release(TENANT, "c") == 0
        assert not bench.record.memories([CHAT])[0].held


def erase(bench: Bench, **wanted: str) -> Erasure:
    """Ask, and go on until nothing moves."""
    bench.record.request_erasure(Erasure("e1", TENANT, **wanted), NOW)
    while bench.record.erase(NOW):
        pass
    found = bench.record.find_erasure("e1", TENANT)
    assert found is not None
    return found


class TestErasure:
    def test_a_conversation(self, bench):
        """No input, result, part, turn, summary or note of the chat is left; that there were jobs, and their usage, is."""
        job_id = say(bench, "secret", "secret", sender="Ada", options={"metadata": {"a": "secret"}})
        failed = end_as(bench, State.FAILED, "", conversation="c", input=({"role": "user", "content": "secret"},))
        other = say(bench, "kept", chat=OTHERS[3])
        bench.record.note(CHAT, "n", "secret", NOW)
        bench.record.hold(CHAT, NOW)
        erasure = erase(bench, conversation="c")
        assert (erasure.jobs, erasure.done_at) == (2, NOW)
        job = bench.job(job_id)
        assert "secret" not in str(job)
        assert (job.state, job.conversation, job.sender, job.external_id) == (State.SUCCEEDED, None, "", "")
        assert bench.record.pending_parts(job_id) == []
        assert bench.record.memories([CHAT])[0] == memory.Memory()
        assert bench.record.notes(CHAT) == {}
        assert not bench.record.retry(failed, NOW)
        assert said(bench, OTHERS[3]) == [("kept", "Hi")]
        assert bench.job(other).input[0]["content"] == "kept"

    def test_the_usage_stays(self, bench):
        """What a job cost is known after its text is gone."""
        claim = bench.running(conversation="d")
        bench.record.save_replies([memory_reply(claim)], NOW)
        bench.end(claim, State.SUCCEEDED)
        erase(bench, conversation="d")
        assert bench.job(claim.job.id).result == {"output_text": "", "usage": {"total_tokens": 7}}

    def test_a_sender(self, bench):
        """Everything of one person goes, in every chat, with the summaries that may speak of them; what others said stays."""
        mine = say(bench, "mine", sender="Ada")
        theirs = say(bench, "theirs", sender="Bob")
        elsewhere = say(bench, "elsewhere", chat=OTHERS[3], sender="Ada")
        bench.record.save_summary(bench.running(conversation="c", sender="Bob"), "Ada said much", 0, NOW)
        erasure = erase(bench, sender="Ada")
        assert erasure.jobs == 2
        assert bench.record.memories([CHAT])[0].summary == ""
        assert said(bench) == [("theirs", "Hi")]
        assert said(bench, OTHERS[3]) == []
        assert [bench.job(job_id).input[0]["role"] for job_id in (mine, elsewhere, theirs)] == ["raw", "raw", "user"]

    def test_another_tenant_is_not_touched(self, bench):
        """The same conversation of another tenant stays, and so do other channels if one is named."""
        say(bench, "theirs", chat=OTHERS[0])
        say(bench, "slack", chat=attrs.evolve(CHAT, channel="slack"))
        erasure = erase(bench, conversation="c", channel="telegram")
        assert (erasure.jobs, erasure.done_at) == (0, NOW)
        assert said(bench, OTHERS[0]) == [("theirs", "Hi")]
        assert said(bench, attrs.evolve(CHAT, channel="slack")) == [("slack", "Hi")]
        assert bench.record.find_erasure("e1", "other") is None

    def test_what_lives_is_stopped_first(self, bench):
        """Waiting jobs are cancelled and erased, a running one is asked to stop, and when it has ended it is erased too."""
        running = bench.running(conversation="c")
        (waiting,) = bench.accept(new_job(conversation="c"))
        assert erase(bench, conversation="c").done_at is None
        assert bench.state(waiting) is State.CANCELLED
        assert bench.record.leases(bench.worker)[0].cancelled
        bench.end(running, State.CANCELLED)
        assert bench.record.erase(NOW + 1)
        erasure = bench.record.find_erasure("e1", TENANT)
        assert (erasure.jobs, erasure.done_at) == (2, NOW + 1)
        assert all(bench.job(job_id).input[0]["content"] == "erased" for job_id in (running.job.id, waiting))

    def test_piece_by_piece(self, bench, monkeypatch):
        """A long record is walked through in bounded pieces, and nothing is left out."""
        monkeypatch.setattr("sentinel.records.sql_memory.ERASE_SEQUENCES", 2)
        ids = [say(bench, f"q{number}", chat=CHAT if number % 2 else OTHERS[3]) for number in range(7)]
        assert erase(bench, conversation="c").jobs == 3
        assert [bench.job(job_id).input[0]["role"] for job_id in ids] == ["user", "raw"] * 3 + ["user"]

    def test_not_too_many(self, bench, monkeypatch):
        """A tenant has a bounded number of erasures pending; another's are not counted, and neither is what is done."""
        monkeypatch.setattr("sentinel.records.sql_memory.ERASURES_PENDING_MAX", 2)
        asked = [Erasure(f"e{number}", TENANT, sender="Ada") for number in range(4)]
        assert [bench.record.request_erasure(one, NOW) for one in asked[:3]] == [True, True, False]
        assert bench.record.request_erasure(Erasure("theirs", "other", sender="Ada"), NOW)
        assert bench.record.find_erasure("e2", TENANT) is None
        while bench.record.erase(NOW + 1):
            pass
        assert bench.record.request_erasure(asked[3], NOW + 2)

    def test_many_at_a_time(self, bench):
        """However many erasures a tenant asks for, a call goes on with a few, another tenant's among them; all get done."""
        say(bench, "secret")
        for number in range(30):
            bench.record.request_erasure(Erasure(f"many-{number}", TENANT, sender=f"nobody {number}"), NOW)
        bench.record.request_erasure(Erasure("another", "other", sender="nobody"), NOW + 1)
        assert bench.record.erase(NOW + 2)
        done = [number for number in range(30) if bench.record.find_erasure(f"many-{number}", TENANT).done_at is not None]
        assert 1 <= len(done) < ERASED_AT_A_TIME
        assert bench.record.find_erasure("another", "other").done_at == NOW + 2
        calls = 0
        while bench.record.erase(NOW + 3):
            calls += 1
        assert calls <= 30
        assert all(bench.record.find_erasure(f"many-{number}", TENANT).done_at is not None for number in range(30))
