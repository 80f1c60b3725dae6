"""A worker dies between any two steps of reading a document, on every store: no finished part is read twice, none is left out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from sentinel.directory import DirectoryFollower
from sentinel.model import Claim, State
from sentinel.records import Ending, Reply, Store
from sentinel.settings import Settings
from tests.records.conftest import NOW, Bench, new_job
from tests.records.test_agent_crashes import NO_OUTBOUND, Crash, Fate, MortalStore
from worker.agent import Agent
from worker.engine import Generation, Message, Progress, Prompt

TEXT = "".join(f"This is line {number} of the book.\n" for number in range(70))
SETTINGS = Settings(tokens_max=16, document_part_tokens_max=200)


@attrs.frozen(eq=False)
class Reader:
    """An engine that notes what it has read to the end. A word is a token."""

    fate: Fate
    read: list[str]
    slots: int = 1
    description: str = "reader"
    model: str = "reader"
    context_tokens: int = 110

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        self.fate.boundary()
        asked = str(prompt.messages[-1]["content"])
        self.read.append(asked)
        self.fate.boundary()
        return Generation(" ".join(asked.split()[-8:]) + " and more of the same, on and on", 10, 1, "stop")

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(str(message["content"]).split()) for message in messages)


def run_once(bench: Bench, claim: Claim, fate: Fate, read: list[str]) -> bool:
    """One worker's attempt at the job; False if it died."""
    store: Any = MortalStore(Store(bench.record), fate)

    async def attempt() -> None:
        ours = Agent(SETTINGS, store, store.recall, Reader(fate, read), NO_OUTBOUND, DirectoryFollower(store.inner))
        answer = await ours.answer(claim, None, lambda _progress, _piece: None)
        assert bench.record.save_replies([Reply(claim.job.id, claim.lease_token, answer.result)], time.time()) == [True]
        assert bench.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], time.time()) == [True]

    survived = True
    try:
        trio.run(attempt)
    except* Crash:
        survived = False
    return survived


def document_claim(bench: Bench, dead_process: str) -> Claim:
    """A claim of a worker that is as good as dead, on a job with the text."""
    bench.accept(new_job(options={"document": {"text": TEXT}}))
    (claim,) = bench.record.claim(bench.record.register("doomed", dead_process, 1, "ready", NOW), 1, NOW)
    return claim


@pytest.mark.slow
def test_a_crash_at_every_boundary(bench: Bench, dead_process: str) -> None:
    """A part that was in the record when the worker died is not read again; only the one that it was reading may be."""
    undisturbed: list[str] = []
    claim = document_claim(bench, dead_process)
    fate = Fate()
    assert run_once(bench, claim, fate, undisturbed)
    expected = bench.job(claim.job.id).result
    assert [effect.name.split()[0] for effect in bench.record.effects(claim.job.id)].count("join") > 1
    for at in range(fate.passed + 1):
        read: list[str] = []
        claim = document_claim(bench, dead_process)
        survived = run_once(bench, claim, Fate(at), read)
        assert survived == (at == fate.passed)
        if not survived:
            finished = sum(effect.is_done for effect in bench.record.effects(claim.job.id))
            assert bench.record.reap(NOW) == 1
            (again,) = bench.claim()
            read_again: list[str] = []
            assert run_once(bench, again, Fate(), read_again)
            assert read_again == undisturbed[finished:], at
            read += read_again
        assert all(effect.is_done for effect in bench.record.effects(claim.job.id)), at
        doubled = [text for text, times in Counter(read).items() if times > 1]
        assert list(dict.fromkeys(read)) == undisturbed, at
        assert len(doubled) <= 1, at
        assert (bench.state(claim.job.id), bench.job(claim.job.id).result) == (State.SUCCEEDED, expected), at
