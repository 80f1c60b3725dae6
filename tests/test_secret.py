"""Secrets that do not print."""

import json
import pickle

import pytest

from sentinel.model import Source
from sentinel.records.directory import Directory
from sentinel.secret import Secret, SecretMapping

CANARY = "canary-7f3a"


@pytest.mark.parametrize(
    "show",
    [repr, str, lambda value: f"{value}", lambda value: "%s %r" % (value, value)],  # noqa: UP031
    ids=["repr", "str", "f-string", "percent"],
)
@pytest.mark.parametrize(
    "value",
    [Secret(CANARY), [Secret(CANARY)], RuntimeError(Secret(CANARY)), SecretMapping(token=CANARY)],
    ids=["bare", "in a list", "in an error", "mapping"],
)
def test_nothing_shows_it(show, value):
    """However a secret is shown, also inside other values, the text is not there."""
    assert CANARY not in show(value)


def test_a_source_and_a_directory_show_no_secret():
    """What a source is set to, and what signs callbacks, does not print, though it is there for whoever asks by name."""
    source = Source("t", "telegram", "bot", {"bot_token": CANARY})
    directory = Directory(sources={("telegram", "bot"): source}, callback_secrets={"t": CANARY})
    shown = f"{source} {source.settings} {directory} {directory.callback_secrets!r} {[source.settings]}"
    assert CANARY not in shown
    assert "bot_token" in shown
    assert (source.setting("bot_token"), directory.callback_secrets["t"]) == (CANARY, CANARY)


def test_it_can_be_revealed_and_compared():
    """The text comes back by `reveal`; equal secrets are equal, and a secret equals no text."""
    assert Secret(CANARY).reveal() == CANARY
    assert Secret(CANARY) == Secret(CANARY)
    assert Secret(CANARY) != Secret("another")
    assert Secret("\ud800é") != Secret("\ud800")
    assert Secret(CANARY) != CANARY
    assert len({Secret(CANARY), Secret(CANARY)}) == 1
    assert not Secret("")


def test_json_shows_a_mask():
    """A secret inside what is written as JSON for people is a mask."""
    assert json.dumps({"key": Secret(CANARY)}, default=str) == '{"key": "***"}'


def test_it_is_not_pickled():
    """Nothing writes a secret out by mistake."""
    with pytest.raises(TypeError):
        pickle.dumps(Secret(CANARY))
