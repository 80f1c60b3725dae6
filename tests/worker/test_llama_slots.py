"""The scheduler of the engine, with a model of a few lines that checks what it is fed."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from sentinel.errors import GenerationFailed
from worker.engine import Prompt
from worker.llama_jobs import Job, News
from worker.llama_slots import Scheduler
from worker.llama_step import TOKENS_PER_STEP, Decoded, Share

END = 0


@attrs.frozen
class Text:
    text: str


class LetterModel:
    """A token is a character. It answers with the alphabet."""

    context_trained = 1000

    def tokenize(self, parts: Sequence[Text]) -> list[int]:
        return [ord(letter) for part in parts for letter in part.text]

    def piece(self, token: int) -> bytes:
        return chr(token).encode()

    def is_end(self, token: int) -> bool:
        return token == END


class LetterSampler:
    def __init__(self, length: int, open_samplers: set[LetterSampler]) -> None:
        self._letters = iter([*(ord("a") + n % 26 for n in range(length)), END])
        self._open = open_samplers
        self._open.add(self)

    def choose(self, _row: int) -> int:
        return next(self._letters)

    def close(self) -> None:
        self._open.remove(self)


class StrictContext:
    """Holds what each slot was fed. It has room for `room` tokens, of the `cells` that it promises; a seed is a length."""

    def __init__(self, slots: int = 2, cells: int = 500, room: int | None = None, poison: str = "\x01") -> None:
        self.slots, self.cells, self.room, self.poison = slots, cells, room or cells, ord(poison)
        self.fed: dict[int, list[int]] = {}
        self.samplers: set[LetterSampler] = set()
        self.decodes: list[list[Share]] = []
        self.abort_next = False

    def open_sampler(self, prompt: Prompt, _grammar: str | None) -> LetterSampler:
        return LetterSampler(prompt.seed, self.samplers)

    def forget(self, slot: int) -> None:
        self.fed.pop(slot, None)

    def decode(self, shares: Sequence[Share]) -> tuple[Decoded, list[int]]:
        self.decodes.append(list(shares))
        assert len({share.slot for share in shares}) == len(shares)
        assert all(share.tokens and share.position == len(self.fed.get(share.slot, [])) for share in shares)
        if self.abort_next:
            self.abort_next = False
            return Decoded.ABORTED, []
        if any(self.poison in share.tokens for share in shares):
            return Decoded.INVALID, []
        if sum(map(len, self.fed.values())) + sum(len(share.tokens) for share in shares) > self.room:
            return Decoded.NO_ROOM, []
        for share in shares:
            self.fed.setdefault(share.slot, []).extend(share.tokens)
        return Decoded.DONE, [0] * len(shares)


def job(text: str = "hello", length: int = 5, tokens_max: int = 50, stop: Sequence[str] = ()) -> Job:
    return Job((Text(text),), Prompt([], tokens_max, 0.0, length, stop=stop))


def run(context: StrictContext, *jobs: Job, steps_max: int = 500) -> dict[Job, tuple[str, News]]:
    scheduler = Scheduler(LetterModel(), context)
    for one in jobs:
        scheduler.submit(one)
    return finish(scheduler, steps_max)


def finish(scheduler: Scheduler, steps_max: int = 500) -> dict[Job, tuple[str, News]]:
    """Steps until nothing is left to do; each job's text and its last news."""
    heard: dict[Job, tuple[str, News]] = {}
    for _ in range(steps_max):
        for one, news in scheduler.take_news():
            heard[one] = heard.get(one, ("", news))[0] + news.piece, news
        if scheduler.is_idle:
            return heard
        scheduler.step()
    pytest.fail("the scheduler does not come to an end")


def test_more_jobs_than_slots_all_end():
    """Every job gets its own whole answer, and no slot or sampler stays taken."""
    context = StrictContext(slots=2)
    jobs = [job(length=length) for length in (3, 9, 1, 5, 0)]
    heard = run(context, *jobs)
    assert [heard[one][0] for one in jobs] == ["abc", "abcdefghi", "a", "abcde", ""]
    assert {news.finish_reason for _, news in heard.values()} == {"stop"}
    assert (context.fed, context.samplers) == ({}, set())


def test_the_bound_on_tokens_ends_an_answer():
    """An answer stops at `tokens_max`, which is its count, and says that it was the bound."""
    one = job(length=40, tokens_max=7)
    text, news = run(StrictContext(), one)[one]
    assert (text, news.tokens, news.prompt_tokens, news.finish_reason) == ("abcdefg", 7, 5, "length")


def test_a_long_prompt_is_read_in_chunks_while_others_grow():
    """While a long prompt is read, every step also gives the other answer its token, and is no longer than allowed."""
    context = StrictContext()
    short, long = job(length=20), job("x" * 300, length=1)
    run(context, short, long)
    chunks = [[len(share.tokens) for share in shares] for shares in context.decodes[1:4]]
    assert chunks == [[1, TOKENS_PER_STEP - 1]] * 3


def test_a_short_prompt_does_not_wait_for_a_long_one():
    """A short prompt that comes while a long one is read is read in its first step."""
    context = StrictContext()
    run(context, job("L" * 300, length=1), job("s" * 20, length=1))
    assert [len(share.tokens) for share in context.decodes[0]] == [TOKENS_PER_STEP - 20, 20]


def test_no_decode_is_larger_than_its_batch():
    """However many answers grow or are read, a decode has at most a step's tokens and one for each slot."""
    context = StrictContext(slots=100, cells=20_000)
    run(context, *(job("x" * (10 + n), length=n % 30) for n in range(200)))
    assert max(sum(len(share.tokens) for share in shares) for shares in context.decodes) <= 100 + TOKENS_PER_STEP


def test_only_the_last_token_of_a_prompt_is_answered():
    """The model is asked for what comes next once per token that it has not guessed itself."""
    context = StrictContext()
    run(context, job("x" * 150, length=1))
    assert [shares[0].is_answered for shares in context.decodes] == [False, False, True, True]


def test_jobs_wait_for_room():
    """A job is admitted only when its prompt and its longest answer fit beside those that run."""
    context = StrictContext(slots=4, cells=120)
    run(context, *(job(tokens_max=50) for _ in range(4)))
    assert max(len(shares) for shares in context.decodes) == 2


def test_a_large_job_is_not_overtaken():
    """Small jobs that would fit do not go before a large one that waits for room."""
    context = StrictContext(slots=2, cells=120)
    first, large, small = job(length=20), job("L" * 60, tokens_max=60), job("s" * 5, length=1)
    run(context, first, large, small)
    order = [chr(share.tokens[0]) for shares in context.decodes for share in shares if share.position == 0]
    assert order == ["h", "L", "s"]


@pytest.mark.parametrize(("text", "message"), [("x" * 460, "460 tokens"), ("x" * 10_000, "far longer"), ("", "empty")])
def test_a_prompt_that_does_not_fit_is_refused(text, message):
    """What can never be answered is refused at once, with the numbers, and leaves nothing behind."""
    context = StrictContext()
    one = job(text)
    _, news = run(context, one)[one]
    assert isinstance(news.error, GenerationFailed)
    assert message in news.error.detail
    assert (context.decodes, context.samplers) == ([], set())


def test_a_withdrawn_job_leaves_at_the_next_step():
    """One that grows and one that waits are dropped without news; the other goes on."""
    context = StrictContext(slots=2)
    scheduler = Scheduler(LetterModel(), context)
    jobs = [job(length=20), job(length=20), job(length=20)]
    for one in jobs:
        scheduler.submit(one)
    scheduler.step()
    jobs[0].is_withdrawn = jobs[2].is_withdrawn = True
    scheduler.take_news()
    scheduler.step()
    assert list(context.fed) == [1]
    heard = finish(scheduler)
    assert list(heard) == [jobs[1]]
    assert context.samplers == set()


def test_an_aborted_step_is_repeated():
    """An abort, raised for one job, costs the others time and nothing else."""
    context = StrictContext()
    context.abort_next = True
    one = job()
    assert run(context, one)[one][0] == "abcde"
    assert context.decodes[0] == context.decodes[1]


def test_without_room_the_youngest_waits_and_goes_on():
    """A full memory sends the youngest back to wait; it goes on where it was, and nobody hears a token twice."""
    context = StrictContext(slots=3, cells=500, room=40)
    jobs = [job(length=15), job(length=20), job(length=10)]
    heard = run(context, *jobs)
    assert [heard[one][0] for one in jobs] == ["abcdefghijklmno", "abcdefghijklmnopqrst", "abcdefghij"]
    assert (context.fed, context.samplers) == ({}, set())


def test_a_prompt_that_alone_has_no_room_fails():
    """A job that does not fit into the empty memory ends, and the next is answered."""
    large, small = job("x" * 60), job()
    heard = run(StrictContext(slots=1, room=40), large, small)
    assert isinstance(heard[large][1].error, GenerationFailed)
    assert heard[small][0] == "abcde"


def test_a_prompt_that_the_model_cannot_read_fails_alone():
    """When a batch is invalid the job that makes it so is found and failed; the others are answered."""
    context = StrictContext(slots=3)
    good, bad, other = job(), job("he\x01lo"), job(length=3)
    heard = run(context, good, bad, other)
    assert isinstance(heard[bad][1].error, GenerationFailed)
    assert (heard[good][0], heard[other][0]) == ("abcde", "abc")
    assert context.samplers == set()


def test_closing_leaves_no_sampler():
    """What the library would leak, or crash on later, is freed when the scheduler is closed at work."""
    context = StrictContext(slots=1)
    scheduler = Scheduler(LetterModel(), context)
    for _ in range(3):
        scheduler.submit(job())
    scheduler.step()
    scheduler.close()
    assert context.samplers == set()


def test_a_stop_string_frees_the_slot():
    """A stop string that spans tokens ends the answer before it, and its slot is free at once."""
    context = StrictContext(slots=1)
    one, two = job(length=20, stop=["de"]), job(length=3, stop=["cd"])
    heard = run(context, one, two)
    assert [(heard[each][0], heard[each][1].finish_reason) for each in (one, two)] == [("abc", "stop"), ("abc", "stop")]
    assert (context.fed, context.samplers) == ({}, set())


def test_tokens_are_counted_without_a_slot():
    """A count is answered at once, also while all slots are taken, and takes none; what is far too long is not tokenized."""
    context = StrictContext(slots=1)
    scheduler = Scheduler(LetterModel(), context)
    counts = [Job((Text("x" * size),), Prompt([]), is_count=True) for size in (7, 900_000)]
    for one in (job(), *counts):
        scheduler.submit(one)
    assert [(one, news.prompt_tokens) for one, news in scheduler.take_news()] == [(counts[0], 7), (counts[1], 501)]
