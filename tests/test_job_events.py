"""What a watcher of a job is told: the difference between what it has had and how the job is, and no more."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from sentinel.job_events import Cursor, encode_event, events_since
from sentinel.model import State
from sentinel.records import Step
from sentinel.records.watching import Glimpse

QUEUED = Glimpse("j", State.QUEUED, 0.0, 0, 0)
STORY = [Step(1.0, "received", 0), Step(1.0, "accepted", 0)]


def names(events: list[bytes]) -> list[str]:
    return [event.split(b"\n")[0].removeprefix(b"event: ").decode() for event in events]


def test_from_the_beginning() -> None:
    """A new watcher is told the story so far, then how far the job is; with nothing new it is told nothing."""
    events, cursor = events_since(Cursor(), QUEUED, STORY)
    assert names(events) == ["step", "step", "progress"]
    assert events_since(cursor, QUEUED, STORY) == ([], cursor)


def test_text_comes_as_it_grows() -> None:
    """Of a text that grows only what is new is sent; another attempt begins it anew, and says so."""
    running = Glimpse("j", State.RUNNING, 0.2, 1, 0, "Hel")
    events, cursor = events_since(Cursor(), running, [])
    assert names(events) == ["text", "progress"]
    events, cursor = events_since(cursor, attrs.evolve(running, text="Hello"), [])
    assert b'{"delta":"lo"}' in events[0]
    events, cursor = events_since(cursor, attrs.evolve(running, text="Hey there", attempt=2), [])
    assert names(events) == ["reset", "text"]
    assert b"Hey there" in events[1]


@given(had=st.text(max_size=20), more=st.text(max_size=20), steps=st.integers(0, 2))
def test_coming_back(had: str, more: str, steps: int) -> None:
    """Who comes back with the last id gets exactly what was missed: every step and every character once."""
    first = Glimpse("j", State.RUNNING, 0.1, 1, steps, had)
    _, before = events_since(Cursor(), first, STORY[:steps])
    back = Cursor.read(before.id)
    events, after = events_since(back, attrs.evolve(first, text=had + more), STORY)
    assert names(events) == ["step"] * (2 - steps) + ["text"] * bool(more) + ["progress"]
    assert (after.steps, after.characters) == (2, len(had + more))


@given(st.text())
def test_any_id(event_id: str) -> None:
    """An id that is none of ours means the beginning, and never an error."""
    cursor = Cursor.read(event_id)
    assert cursor == Cursor() or cursor.id.count(".") == 2


def test_an_event_is_one() -> None:
    """No text can end an event or begin another."""
    event = encode_event("text", {"delta": "a\n\ndata: b\r\nid: 9\u2028"}, "1.1.1")
    assert event.count(b"\n\n") == 1
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 4
