"""The steps of an agent, on every store: nothing of them is lost, and no stale lease writes one."""

import attrs
import pytest

from sentinel.model import State
from sentinel.records import Progress, Reply
from sentinel.records.effects import Effect
from sentinel.records.memory import Erasure
from sentinel.records.watching import Glimpse, Partial
from tests.records.conftest import NOW, TENANT, new_job

FIRST = Effect(1, "calculator", {"expression": "1+1", "ü": [1, None]})


class TestEffects:
    def test_intent_then_done(self, bench):
        """A step is there from before it is taken, and its result from when it is known; both are in the job's story."""
        claim = bench.running()
        assert bench.record.begin_effect(claim, FIRST, NOW)
        assert bench.record.effects(claim.job.id) == [FIRST]
        assert not FIRST.is_done
        assert bench.record.finish_effect(claim, 1, "2", NOW)
        assert bench.record.effects(claim.job.id) == [attrs.evolve(FIRST, result="2")]
        assert [(step.step, step.detail) for step in bench.record.story(claim.job.id)][-2:] == [
            ("step_begun", "1: calculator"),
            ("step_done", "1"),
        ]

    def test_repeating_changes_nothing(self, bench):
        """A write whose outcome was unknown is repeated without harm: the first intent and the first result stay."""
        claim = bench.running()
        for name in ("calculator", "other"):
            assert bench.record.begin_effect(claim, attrs.evolve(FIRST, name=name), NOW)
        for result in ("2", "3"):
            assert bench.record.finish_effect(claim, 1, result, NOW)
        assert bench.record.effects(claim.job.id) == [attrs.evolve(FIRST, result="2")]
        assert bench.steps(claim.job.id).count("step_begun") == bench.steps(claim.job.id).count("step_done") == 1

    def test_they_survive_the_claim(self, bench, dead_process):
        """Who takes the job up again sees the steps of who had it before, in order, and goes on with them."""
        claim = bench.running()
        bench.record.begin_effect(claim, FIRST, NOW)
        bench.record.finish_effect(claim, 1, "2", NOW)
        bench.record.begin_effect(claim, attrs.evolve(FIRST, step=2), NOW)
        bench.end(claim, State.QUEUED)
        (again,) = bench.claim()
        assert [effect.is_done for effect in bench.record.effects(again.job.id)] == [True, False]
        assert bench.record.finish_effect(again, 2, "3", NOW)

    @pytest.mark.parametrize("ended", [State.QUEUED, State.SUCCEEDED])
    def test_a_stale_lease_takes_no_step(self, bench, ended):
        """Without the lease nothing is begun and nothing finished."""
        claim = bench.running()
        bench.record.begin_effect(claim, FIRST, NOW)
        bench.end(claim, ended)
        assert not bench.record.begin_effect(claim, attrs.evolve(FIRST, step=2), NOW)
        assert not bench.record.finish_effect(claim, 1, "forged", NOW)
        assert bench.record.effects(claim.job.id) == [FIRST]

    def test_they_go_with_the_job(self, bench):
        """Pruning and erasing leave no step behind."""
        pruned, erased = bench.running(), bench.running(sender="Ada")
        for claim in (pruned, erased):
            bench.record.begin_effect(claim, FIRST, NOW)
            bench.end(claim, State.SUCCEEDED)
        bench.record.request_erasure(Erasure("e", TENANT, sender="Ada"), NOW)
        while bench.record.erase(NOW):
            pass
        assert bench.record.effects(erased.job.id) == []
        bench.record.prune(NOW + 1)
        assert bench.record.effects(pruned.job.id) == []

    def test_unknown(self, bench):
        """A job that is not there has no steps."""
        assert bench.record.effects("unknown") == []


class TestApology:
    def test_a_retry_forgets_it(self, bench):
        """What was said instead of an answer, sent or not, is gone after a retry by hand; an answer with those words stays."""
        for result, left in (({"output_text": "", "apology_for": "x"}, None), ({"output_text": '"apology_for":'}, "same")):
            claim = bench.running()
            bench.record.save_replies([Reply(claim.job.id, claim.lease_token, result, ["one", "two"])], NOW)
            bench.settle(claim, 1, "sent")
            bench.end(claim, State.FAILED)
            assert bench.record.retry(claim.job.id, NOW)
            assert bench.job(claim.job.id).result == (left and result)
            assert [part.text for part in bench.record.pending_parts(claim.job.id)] == ([] if left is None else ["two"])
            (again,) = bench.claim()
            assert bench.reply(again, "three", "four") or left
            bench.end(again, State.SUCCEEDED)


class TestWatching:
    def test_a_glimpse(self, bench):
        """A watcher sees how far a job is, its text so far, and how many steps there were; what is not there is left out."""
        claim = bench.running()
        (queued,) = bench.accept(new_job())
        bench.record.save_partials([Partial(claim.job.id, claim.lease_token, text) for text in ("Hel", "Hello ü")])
        bench.record.heartbeat(bench.worker, 4, "ready", [Progress(claim.job.id, claim.lease_token, 0.25)], NOW)
        seen = {glimpse.job_id: glimpse for glimpse in bench.record.glimpses([claim.job.id, queued, "unknown"])}
        assert {job_id: attrs.evolve(glimpse, steps=0) for job_id, glimpse in seen.items()} == {
            claim.job.id: Glimpse(claim.job.id, State.RUNNING, 0.25, 1, 0, "Hello ü"),
            queued: Glimpse(queued, State.QUEUED, 0, 0, 0, ""),
        }
        bench.record.begin_effect(claim, FIRST, NOW)
        (later,) = bench.record.glimpses([claim.job.id])
        assert later.milestone != seen[claim.job.id].milestone

    def test_progress_does_not_go_back(self, bench):
        """A report that comes behind a later one, or behind the reply, takes nothing back."""
        claim = bench.running()
        for reported, kept in ((0.5, 0.5), (0.3, 0.5), (0.7, 0.7)):
            bench.record.heartbeat(bench.worker, 4, "ready", [Progress(claim.job.id, claim.lease_token, reported)], NOW)
            assert bench.job(claim.job.id).progress == kept
        bench.reply(claim)
        bench.record.heartbeat(bench.worker, 4, "ready", [Progress(claim.job.id, claim.lease_token, 0.9)], NOW)
        assert bench.job(claim.job.id).progress == 1

    def test_a_stale_lease_tells_nothing(self, bench):
        """Without the lease the text stays as it was, and with the job it goes."""
        claim = bench.running()
        bench.record.save_partials([Partial(claim.job.id, claim.lease_token, "mine")])
        bench.end(claim, State.SUCCEEDED)
        bench.record.save_partials([Partial(claim.job.id, claim.lease_token, "forged")])
        assert [glimpse.text for glimpse in bench.record.glimpses([claim.job.id])] == ["mine"]
        bench.record.prune(NOW + 1)
        assert bench.record.glimpses([claim.job.id]) == []
