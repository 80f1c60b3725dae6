"""Decides what the model computes next, so that several answers grow at once. No threads, no clock, no event loop here.

An answer is a list of tokens, of which the first few are already fed to the model. While it grows, one is left to feed; while
its prompt is being read, more are. That one rule covers reading, growing, and starting over after an eviction. A head, which
several prompts begin with, is read in the same way, by itself, and then copied to each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

import attrs

from sentinel.errors import GenerationFailed
from worker.llama_heads import Head, Heads
from worker.llama_jobs import Job, News
from worker.llama_step import PREFILL_TOKENS_MIN, Decoded, Share
from worker.stop_strings import StopStrings
from worker.utf8 import Utf8Pieces

if TYPE_CHECKING:
    from worker.llama_native import Context, Model
    from worker.llama_sampling import Sampler

# What is longer cannot fit and is not tokenized, which takes a second a megabyte. English has 4 characters a token.
CHARACTERS_PER_TOKEN_MAX = 16


@attrs.define(eq=False)
class Answer:
    """A job's tokens, those of the prompt first, and how many of them the model has been fed."""

    job: Job
    sampler: Sampler
    prompt_tokens: int
    tokens: list[int]
    head_tokens: tuple[int, ...] = ()
    slot: int | None = None
    fed: int = 0
    head: Head | None = None
    text: Utf8Pieces = attrs.field(factory=Utf8Pieces, init=False)
    stops: StopStrings = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stops = StopStrings(self.job.prompt.stop)

    @property
    def cells_max(self) -> int:
        """The room in the context that it may come to need."""
        return self.prompt_tokens + self.job.prompt.tokens_max

    @property
    def cells_own(self) -> int:
        """The part of that which it does not share."""
        return self.cells_max - (len(self.head.tokens) if self.head else 0)

    @property
    def awaits_head(self) -> bool:
        """Whether its head has to be read first."""
        return self.head is not None and self.head.left_to_feed > 0

    @property
    def completion_tokens(self) -> int:
        """How much of it the model has written."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def left_to_feed(self) -> int:
        """Tokens that the model has yet to read before it can write the next."""
        return len(self.tokens) - self.fed


Portion = tuple[Answer | Head, Share]


class Scheduler:
    """Runs up to `context.slots` answers together, first come, first served."""

    def __init__(self, model: Model, context: Context) -> None:
        self._news: list[tuple[Job, News]] = []
        self._model = model
        self._context = context
        self._waiting: deque[Answer] = deque()
        self._active: dict[int, Answer] = {}  # by slot; the youngest last
        self._heads = Heads(context)
        self._may_admit = True

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._waiting and not self._active

    @property
    def tokens_per_job_max(self) -> int:
        """The bound on a prompt and its answer together."""
        return min(self._context.cells, self._model.context_trained)

    def submit(self, job: Job) -> None:
        """Queues `job`, or reports at once that it cannot be answered."""
        if job.is_withdrawn:
            return
        try:
            if job.is_count:
                self._news.append((job, News(self._count(job), finish_reason="counted")))
                return
            tokens = self._tokenize(job)
            head = self._model.tokenize([part for part in job.parts if part.is_head])
            sampler = self._context.open_sampler(job.prompt, job.grammar)
        except GenerationFailed as error:
            self._news.append((job, News(error=error)))
        else:
            self._waiting.append(Answer(job, sampler, len(tokens), tokens, tuple(head)))

    def step(self) -> None:
        """
        One decode: every answer that grows gets its next token, and some of the prompts are read.

        Raises:
            NativeError: nothing more can be computed in this process.
        """
        self._drop_withdrawn()
        self._admit()
        if portions := self._choose_portions():
            self._feed(portions)

    def take_news(self) -> list[tuple[Job, News]]:
        """What has happened to the jobs since this was last asked."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Drops all jobs without a word; the context can then be closed."""
        for answer in (*self._waiting, *self._active.values()):
            answer.sampler.close()
        self._waiting.clear()
        self._active.clear()

    def _is_far_too_long(self, job: Job) -> bool:
        return sum(len(part.text) for part in job.parts) > self.tokens_per_job_max * CHARACTERS_PER_TOKEN_MAX

    def _count(self, job: Job) -> int:
        return self.tokens_per_job_max + 1 if self._is_far_too_long(job) else len(self._model.tokenize(job.parts))

    def _tokenize(self, job: Job) -> list[int]:
        tokens_max = self.tokens_per_job_max
        if self._is_far_too_long(job):
            raise GenerationFailed(f"The prompt is far longer than the {tokens_max} tokens that the model's context holds.")
        tokens = self._model.tokenize(job.parts)
        if not tokens:
            raise GenerationFailed("The prompt is empty.")
        if len(tokens) + job.prompt.tokens_max > tokens_max:
            raise GenerationFailed(
                f"The prompt has {len(tokens)} tokens and the answer may have {job.prompt.tokens_max}; "
                f"together that is more than the {tokens_max} that the model's context holds."
            )
        return tokens

    def _drop_withdrawn(self) -> None:
        for answer in [answer for answer in self._active.values() if answer.job.is_withdrawn]:
            self._release(answer)
        for answer in [answer for answer in self._waiting if answer.job.is_withdrawn]:
            self._waiting.remove(answer)
            answer.sampler.close()

    def _admit(self) -> None:
        while self._waiting and self._may_admit and len(self._active) < self._context.slots:
            if not self._make_room(self._waiting[0]):
                return  # and none that came later goes before it, or a long prompt would never be read
            answer = self._waiting.popleft()
            answer.slot = next(slot for slot in range(self._context.slots) if slot not in self._active)
            answer.head = self._heads.join(answer.head_tokens)
            self._active[answer.slot] = answer
            self._copy_head(answer)

    def _make_room(self, answer: Answer) -> bool:
        head = self._heads.find(answer.head_tokens)
        wanted = answer.cells_max - (len(head.tokens) if head else 0)
        taken = self._heads.cells + sum(active.cells_own for active in self._active.values())
        return self._heads.free(taken + wanted - self._context.cells, but=head)

    def _copy_head(self, answer: Answer) -> None:
        if answer.head is not None and not answer.awaits_head and answer.slot is not None:
            answer.fed = len(answer.head.tokens)
            self._context.copy(answer.head.slot, answer.slot, answer.fed)

    def _choose_portions(self) -> list[Portion]:
        active = [answer for answer in self._active.values() if not answer.awaits_head]
        reading: list[Answer | Head] = [*self._heads.unread(), *(answer for answer in active if answer.left_to_feed > 1)]
        growing = [answer for answer in active if answer.left_to_feed == 1]
        for answer in self._active.values():
            answer.job.is_prefilling = answer.left_to_feed > 1
        budget = max(self._context.tokens_per_step - len(growing), PREFILL_TOKENS_MIN)
        counts = _divide(budget, {one.slot: one.left_to_feed for one in reading})
        portions: list[Portion] = [(one, _share(one, 1)) for one in growing]
        return portions + [(one, _share(one, counts[one.slot])) for one in reading if counts[one.slot]]

    def _feed(self, portions: list[Portion]) -> None:
        result, rows = self._context.decode([share for _, share in portions])
        if result is Decoded.DONE:
            for (reader, share), row in zip(portions, rows, strict=True):
                reader.fed += len(share.tokens)
                if isinstance(reader, Head):
                    self._copy_to_all(reader)
                elif share.is_answered:
                    self._grow(reader, row)
        elif result is Decoded.NO_ROOM:
            self._evict_youngest()
        elif result is Decoded.INVALID:
            self._feed_one_by_one(portions)
        # If it was ABORTED, one of the jobs was withdrawn: the next step is without it and feeds the others the same again.

    def _copy_to_all(self, head: Head) -> None:
        if not head.left_to_feed:
            for answer in self._active.values():
                if answer.head is head:
                    self._copy_head(answer)

    def _grow(self, answer: Answer, row: int) -> None:
        token = answer.sampler.choose(row)
        ended, piece = self._model.is_end(token), ""
        if not ended:
            answer.tokens.append(token)
            piece = answer.text.feed(self._model.piece(token))
        is_full = answer.completion_tokens >= answer.job.prompt.tokens_max
        piece, stopped = answer.stops.feed(piece, is_last=ended or is_full)
        finish_reason = "stop" if ended or stopped else "length" if is_full else None
        self._news.append((answer.job, News(answer.prompt_tokens, answer.completion_tokens, piece, finish_reason)))
        if finish_reason:
            self._release(answer)

    def _evict_youngest(self) -> None:
        """What it has written so far is read again, as if it were its prompt, when there is room."""
        if self._heads.free(1):
            return  # heads that nobody uses go first
        youngest = list(self._active.values())[-1]
        if len(self._active) == 1:
            self._fail(youngest, "The model's context has no room for this prompt.")
            return
        self._vacate(youngest)
        self._waiting.appendleft(youngest)
        self._may_admit = False  # until somebody leaves; or it would come back to where there was no room

    def _feed_one_by_one(self, portions: list[Portion]) -> None:
        """Finds which one the model cannot take, which is a fault of ours; the others must not pay for it."""
        if len(portions) == 1:
            self._fail_reader(portions[0][0])
            return
        for reader, share in portions:
            if isinstance(reader, Head) or self._active.get(share.slot) is reader:
                self._feed([(reader, share)])

    def _fail_reader(self, reader: Answer | Head) -> None:
        users = [answer for answer in self._active.values() if answer.head is reader] if isinstance(reader, Head) else [reader]
        for answer in users:
            self._fail(answer, "The model cannot read this prompt.")

    def _fail(self, answer: Answer, detail: str) -> None:
        self._news.append((answer.job, News(error=GenerationFailed(detail))))
        self._release(answer)

    def _release(self, answer: Answer) -> None:
        self._vacate(answer)
        answer.sampler.close()
        self._may_admit = True

    def _vacate(self, answer: Answer) -> None:
        assert answer.slot is not None
        self._context.forget(answer.slot)
        del self._active[answer.slot]
        if answer.head is not None:
            self._heads.leave(answer.head)
        answer.slot, answer.head, answer.fed = None, None, 0


def _share(reader: Answer | Head, count: int) -> Share:
    assert reader.slot is not None
    end = reader.fed + count
    is_answered = isinstance(reader, Answer) and end == len(reader.tokens)
    return Share(reader.slot, reader.fed, reader.tokens[reader.fed : end], is_answered)


def _divide(budget: int, wanted: Mapping[int | None, int]) -> dict[int | None, int]:
    """What each gets: all that it wants, or else an equal part. So a short prompt does not wait for a long one."""
    given: dict[int | None, int] = {}
    for served, (slot, want) in enumerate(sorted(wanted.items(), key=itemgetter(1))):
        given[slot] = min(want, budget // (len(wanted) - served))
        budget -= given[slot]
    return given
