"""The scheduler of the engine, with a model of a few lines that checks what it is fed."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from sentinel.errors import GenerationFailed
from worker.engine import Prompt
from worker.llama_heads import HEADS_MAX
from worker.llama_jobs import Job, News
from worker.llama_slots import Scheduler
from worker.llama_step import TOKENS_PER_STEP, Decoded, Share

END = 0


@attrs.frozen
class Text:
    text: str
    is_head: bool = False


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
    """
    Holds what each slot was fed. It has room for `room` tokens, of the `cells` that it promises; a seed is a length.

    A cell is an object of its own, which copies share, so that it can be seen how many are taken.
    """

    def __init__(self, slots: int = 2, cells: int = 500, room: int | None = None, poison: str = "\x01") -> None:
        self.slots, self.cells, self.room, self.poison = slots, cells, room or cells, ord(poison)
        self.fed: dict[int, list[list[int]]] = {}
        self.samplers: set[LetterSampler] = set()
        self.decodes: list[list[Share]] = []
        self.abort_next = False
        self.tokens_per_step = TOKENS_PER_STEP

    @property
    def cells_taken(self) -> int:
        return len({id(cell) for cells in self.fed.values() for cell in cells})

    @property
    def kept(self) -> int:
        """How many slots of answers hold something."""
        return sum(slot < self.slots for slot in self.fed)

    def text(self, slot: int) -> str:
        return "".join(chr(token) for (token,) in self.fed[slot])

    def open_sampler(self, prompt: Prompt, _grammar: str | None) -> LetterSampler:
        return LetterSampler(prompt.seed, self.samplers)

    def forget(self, slot: int) -> None:
        self.fed.pop(slot, None)

    def copy(self, source: int, slot: int, count: int) -> None:
        assert slot not in self.fed
        assert len(self.fed[source]) >= count
        self.fed[slot] = self.fed[source][:count]

    def decode(self, shares: Sequence[Share]) -> tuple[Decoded, list[int]]:
        self.decodes.append(list(shares))
        assert len({share.slot for share in shares}) == len(shares)
        assert all(share.tokens and share.position == len(self.fed.get(share.slot, [])) for share in shares)
        assert sum(share.is_answered for share in shares) <= self.slots
        if self.abort_next:
            self.abort_next = False
            return Decoded.ABORTED, []
        if any(self.poison in share.tokens for share in shares):
            return Decoded.INVALID, []
        if self.cells_taken + sum(len(share.tokens) for share in shares) > self.room:
            return Decoded.NO_ROOM, []
        for share in shares:
            self.fed.setdefault(share.slot, []).extend([token] for token in share.tokens)
        return Decoded.DONE, [0] * len(shares)


def job(text: str = "hello", length: int = 5, tokens_max: int = 50, stop: Sequence[str] = (), head: str = "") -> Job:
    return Job((Text(head, is_head=True), Text(text)), Prompt([], tokens_max, 0.0, length, stop=stop))


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


HEAD = "You are a helpful letter machine. "


def test_a_head_is_read_once():
    """Jobs that begin alike read that part once, whether they come together or later, and answer as if each had read it."""
    context = StrictContext(slots=3)
    scheduler = Scheduler(LetterModel(), context)
    jobs = [job(text, length=length, head=HEAD) for text, length in (("one", 5), ("two", 3), ("three", 4))]
    for one in jobs:
        scheduler.submit(one)
    heard = finish(scheduler)
    later = job("later", head=HEAD)
    scheduler.submit(later)
    heard |= finish(scheduler)
    assert [heard[one][0] for one in (*jobs, later)] == ["abcde", "abc", "abcd", "abcde"]
    assert {heard[one][1].prompt_tokens for one in jobs[:2]} == {len(HEAD) + 3}
    read = [chr(token) for shares in context.decodes for share in shares for token in share.tokens]
    assert read.count("Y") == 1
    assert (context.kept, context.cells_taken) == (0, len(HEAD))


def test_a_head_that_is_used_is_not_given_up():
    """The room of heads that nobody uses is given to who needs it; of those in use it is counted once."""
    context = StrictContext(slots=4, cells=200)
    scheduler = Scheduler(LetterModel(), context)
    for letter in "ABC":
        scheduler.submit(job("x", length=3, tokens_max=10, head=letter * 50))
        finish(scheduler)
    assert context.cells_taken == 150
    for text in ("one", "two", "three"):
        scheduler.submit(job(text, length=9, tokens_max=25, head="C" * 50))
    scheduler.step()
    assert context.kept == 3
    assert {context.text(slot)[:50] for slot in context.fed} == {"C" * 50, "B" * 50}
    scheduler.submit(job("x" * 70, length=2, tokens_max=30))
    finish(scheduler)
    assert context.cells_taken <= 100


def test_heads_that_begin_alike_share_the_beginning():
    """A head that begins as another does is read from where they differ."""
    context = StrictContext()
    run(context, job("a", head=HEAD + "Be brief."), job("b", head=HEAD + "Be long."))
    scheduler = Scheduler(LetterModel(), context)
    assert scheduler.is_idle
    context = StrictContext()
    scheduler = Scheduler(LetterModel(), context)
    for head in (HEAD + "Be brief.", HEAD + "Be long."):
        scheduler.submit(job("a", head=head))
        finish(scheduler)
    assert sum(len(share.tokens) for shares in context.decodes for share in shares) < 2 * len(HEAD)


def test_more_heads_than_places_are_answered():
    """With all places of heads taken by heads in use, a job reads its own; afterwards the oldest is given up for a new one."""
    context = StrictContext(slots=12, cells=2000)
    jobs = [job("x", length=5, head=chr(65 + number) * 30) for number in range(12)]
    heard = run(context, *jobs)
    assert {heard[one][0] for one in jobs} == {"abcde"}
    assert context.kept == 0
    assert context.cells_taken == HEADS_MAX * 30


def test_a_head_nobody_waits_for_is_dropped():
    """When all who wait for a long head are gone, its reading stops and its cells are free; those of others are untouched."""
    context = StrictContext(slots=3)
    scheduler = Scheduler(LetterModel(), context)
    waiting = [job("x", head="L" * 300), job("y", head="L" * 300)]
    other = job(length=9)
    for one in (*waiting, other):
        scheduler.submit(one)
    scheduler.step()
    for one in waiting:
        one.is_withdrawn = True
    scheduler.take_news()
    scheduler.step()
    assert all("L" not in context.text(slot) for slot in context.fed)
    assert finish(scheduler)[other][1].finish_reason == "stop"


def test_a_head_that_the_model_cannot_read_fails_its_jobs():
    """All jobs with an invalid head fail, and the others are answered."""
    context = StrictContext(slots=4)
    bad = [job("x", head="b\x01d" * 10), job("y", head="b\x01d" * 10)]
    good = job("z", head=HEAD)
    heard = run(context, *bad, good)
    assert all(isinstance(heard[one][1].error, GenerationFailed) for one in bad)
    assert heard[good][0] == "abcde"
    assert context.samplers == set()


def test_without_room_idle_heads_go_first():
    """A memory that has less room than it said gives up heads before answers, and an evicted answer finds its head again."""
    context = StrictContext(slots=2, cells=500, room=90)
    scheduler = Scheduler(LetterModel(), context)
    scheduler.submit(job("x", length=2, head="I" * 40))
    finish(scheduler)
    jobs = [job("one", length=20, head=HEAD), job("two", length=20, head=HEAD)]
    for one in jobs:
        scheduler.submit(one)
    heard = finish(scheduler)
    assert {heard[one][0] for one in jobs} == {"abcdefghijklmnopqrst"}
    assert {context.text(slot) for slot in context.fed} == {HEAD}
