"""The line of those who wait, on every store: who is in it at which place, and who was told."""

import pytest

from sentinel.model import Chat, State
from tests.records.conftest import NOW, TENANT, Bench, new_job

SOURCES = [("telegram", "bot")]
LATELY = NOW - 600


def places(bench: Bench, told_before: float = LATELY, limit: int = 10) -> list[tuple[str, int, int, int, bool]]:
    found = bench.record.waiting_chats(SOURCES, told_before, limit)
    return [(chat.job_id, chat.turn, chat.first_turn, chat.jobs, chat.running) for chat in found]


class TestTheLine:
    def test_places(self, bench):
        """A chat is there with its last message; places are by tenant, priority and age; those who wait longest come first."""
        bench.running(conversation="a")
        a, lone, b, a_again, urgent = bench.accept(
            new_job(conversation="a"), new_job(), new_job(conversation="b"), new_job(conversation="a"),
            new_job(conversation="c", priority=1),
        )  # fmt: skip
        (theirs,) = bench.accept(new_job(conversation="a", tenant="other"))
        ours = [(a_again, 5, 2, 2, True), (b, 4, 4, 1, False), (urgent, 1, 1, 1, False)]
        assert places(bench) in ([*ours, (theirs, 1, 1, 1, False)], [*ours[:2], (theirs, 1, 1, 1, False), ours[2]])
        assert places(bench, limit=1) == ours[:1]
        assert sorted(bench.record.waiting_by_tenant()) == [1, 5]
        assert bench.record.waiting_chats([("telegram", "another")], LATELY, 10) == []
        assert {a, lone}.isdisjoint(place[0] for place in places(bench))

    def test_what_is_not_in_it(self, bench):
        """Neither what is for later, nor what was begun before, nor a chat that a person has taken over."""
        claim = bench.running(conversation="begun")
        assert bench.end(claim, State.QUEUED, run_at=NOW)
        bench.accept(new_job(conversation="later", state=State.SCHEDULED, run_at=NOW + 60), new_job(conversation="held"))
        bench.record.hold(Chat(TENANT, "telegram", "bot", "held"), NOW)
        assert places(bench) == []
        assert bench.record.waiting_by_tenant() == [2]

    def test_the_address(self, bench):
        """What is needed to tell the chat comes with it."""
        bench.accept(new_job(conversation="a", reply_to={"chat_id": 7}, received_at=NOW - 5))
        (chat,) = bench.record.waiting_chats(SOURCES, LATELY, 10)
        assert (chat.tenant, chat.channel, chat.source, chat.reply_to, chat.received_at) == (
            TENANT, "telegram", "bot", {"chat_id": 7}, NOW - 5,
        )  # fmt: skip


class TestTelling:
    def test_once_for_a_message_and_not_soon_for_its_chat(self, bench):
        """A chat that was told is told again only later, and of another message."""
        first, second, other = bench.accept(*[new_job(conversation=chat) for chat in "aab"])
        assert bench.record.tell(second, "number 2", NOW, LATELY)
        assert [place[0] for place in places(bench)] == [other]
        assert not bench.record.tell(second, "number 2", NOW, LATELY)
        assert not bench.record.tell(first, "number 1", NOW + 1, NOW - 599)
        assert not bench.record.tell(second, "number 2", NOW + 601, NOW + 1)
        assert bench.record.tell(first, "number 1", NOW + 601, NOW + 1)
        assert [bench.job(job).told_at for job in (first, second, other)] == [NOW + 601, NOW, None]
        assert (bench.last_step(second).step, bench.last_step(second).detail) == ("told_to_wait", "number 2")

    def test_only_who_waits(self, bench):
        """A job that was begun, has ended or is not there is not told of, nor one that has no chat."""
        claim = bench.running(conversation="a")
        (lone, ended) = bench.accept(new_job(), new_job(conversation="b"))
        assert bench.record.cancel(ended, TENANT, NOW)
        for job_id in (claim.job.id, lone, ended, new_job().id, "none"):
            assert not bench.record.tell(job_id, "", NOW, LATELY)
        assert bench.job(claim.job.id).told_at is None
        assert bench.end(claim, State.QUEUED, run_at=NOW)
        assert not bench.record.tell(claim.job.id, "", NOW, LATELY)

    def test_a_claim_knows(self, bench):
        """Whoever answers knows when the chat was told, of the job or of one that was merged into it."""
        (told, first, last) = bench.accept(*[new_job(conversation=chat) for chat in "abb"])
        assert bench.record.tell(told, "", NOW, LATELY)
        assert bench.record.tell(last, "", NOW + 1, LATELY)
        claims = {claim.job.id: claim for claim in bench.claim(2)}
        assert (claims[told].job.told_at, claims[first].job.told_at) == (NOW, None)
        assert bench.record.merge(claims[first], NOW).told_at == NOW + 1

    @pytest.mark.parametrize("kept", ["summary", "hold"])
    def test_a_chats_row_has_more(self, bench, kept):
        """That a chat was told takes nothing from what else is kept of it."""
        chat = Chat(TENANT, "telegram", "bot", "a")
        if kept == "summary":
            assert bench.record.save_summary(bench.running(conversation="a"), "Ada", 0, NOW)
        (job,) = bench.accept(new_job(conversation="a"))
        assert bench.record.tell(job, "", NOW, LATELY)
        bench.record.hold(chat, NOW)
        memory = bench.record.memories([chat])[0]
        assert (memory.summary, memory.held) == ("Ada" if kept == "summary" else "", True)
