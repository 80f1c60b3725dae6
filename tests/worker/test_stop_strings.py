"""Stop strings that come in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.stop_strings import StopStrings


@given(pieces=st.lists(st.text("ab", max_size=3)), stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_the_pieces_end_before_the_first_stop_string(pieces, stops):
    """However a text is cut into pieces, what is shown is the text up to the first stop string, and nothing is taken back."""
    strings, shown, stopped = StopStrings(stops), "", False
    for number, piece in enumerate([*pieces, ""]):
        text, stopped = strings.feed(piece, is_last=number == len(pieces))
        shown += text
        if stopped:
            break
    said = "".join(pieces[: number + 1])
    places = [said.find(stop) for stop in stops if stop in said]
    assert stopped == bool(places)
    assert shown == (said[: min(places)] if places else said)
