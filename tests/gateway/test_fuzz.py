"""Damaged HTTP on the true server, and every way that the network can cut a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.http1 import Limits, Reader
from sentinel.settings import Settings
from tests.gateway.fuzz import fuzz, http1_seeds, make_input

LIMITS = Limits(body_bytes=1000, body_seconds=1.0)


def read(pieces: list[bytes]) -> tuple[list[object], int]:
    """The requests that the lane's reader makes of the pieces, and the status of what it finds wrong."""
    reader = Reader(LIMITS)
    for piece in pieces:
        reader.feed(piece)
    return list(reader.requests), reader.error.status if reader.error else 0


@given(whole=st.lists(st.sampled_from(http1_seeds()), min_size=1, max_size=3).map(b"".join), data=st.data())
def test_every_split_reads_the_same(whole: bytes, data: st.DataObject) -> None:
    """However the network cuts what is sent, the reader makes the same requests of it, or finds the same fault."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]
    assert read(pieces) == read([whole])


@given(number=st.integers(0, 2**32), data=st.data())
def test_every_split_of_what_is_damaged_reads_the_same(number: int, data: st.DataObject) -> None:
    """The same holds for requests that are wrong somewhere."""
    whole = b"".join(make_input(7, number))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]
    assert read(pieces) == read([whole])


@pytest.mark.slow
async def test_damaged_requests_do_no_harm(settings: Settings) -> None:
    """Of 3,000 damaged connections none ends the server, gets a 500, hangs, or leaves a task or a descriptor behind."""
    found = await fuzz(settings, 4, range(3_000))
    assert not found.wrong
    assert found.statuses[200] > 100
    assert found.statuses[400] > 500
