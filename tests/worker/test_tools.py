"""What makes a file in worker/tools a tool, what each of them does, and how tools that are declared in settings are read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import BadInput, HostRests, SendFailed
from sentinel.job_request import API_TOOLS
from sentinel.model import Chat, Outgoing
from sentinel.outbound import ANSWER_BYTES_MAX, Answer
from sentinel.records import Record, Store
from worker.declared_tools import DeclaredTool, read_declared
from worker.json_schema import read_schema
from worker.page_text import plain_text
from worker.tools import OutcomeUnknown, Repeat, Surroundings, ToolFailed, tools
from worker.tools.calculator import compute, shown
from worker.tools.fetch import is_allowed

CHAT = Chat("default", "telegram", "bot", "7")
PAGE = Answer(200, {"content-type": "text/html; charset=utf-8"}, b"<title>T</title><p>Hello <b>you</b></p><script>no()</script>")


@attrs.define(eq=False)
class ScriptedOutbound:
    """The outside, as a test decides; keeps what was sent."""

    answer: Callable[[Outgoing], Answer] = lambda _outgoing: PAGE
    sent: list[Outgoing] = attrs.field(factory=list)
    tenants: list[str] = attrs.field(factory=list)

    async def send(self, outgoing: Outgoing, networks: object = (), tenant: str = "") -> Answer:
        self.sent.append(outgoing)
        self.tenants.append(tenant)
        return self.answer(outgoing)


@pytest.fixture
def outside() -> ScriptedOutbound:
    return ScriptedOutbound()


@pytest.fixture
def around(record: Record, outside: ScriptedOutbound) -> Surroundings:
    return Surroundings("job:1", "default", CHAT, Store(record), outside, now=1_700_000_000.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(tools()))
class TestEvery:
    def test_it_is_named_and_described(self, name: str) -> None:
        """A tool has its file's name, a description, and a schema that the engine can hold the model to."""
        tool = tools()[name]
        assert type(tool).__module__ == f"worker.tools.{name}"
        assert tool.name == name != "none"
        assert 10 < len(tool.description) < 300
        assert read_schema(tool.parameters).accepts(dict(tool.sample))

    async def test_it_answers_in_words(self, name: str, around: Surroundings) -> None:
        """Valid arguments give a text that is not empty."""
        assert (await tools()[name].run(tools()[name].sample, around)).strip()

    async def test_again_is_as_once(self, name: str, around: Surroundings) -> None:
        """A tool that may be called again with its key leaves the same behind as after one call."""
        tool = tools()[name]
        if tool.repeat is Repeat.NEVER:
            return
        states = []
        for _ in range(2):
            await tool.run(tool.sample, around)
            states.append((around.store.record.notes(CHAT), around.store.record.memories([CHAT])[0]))
        assert states[0] == states[1]
        if tool.repeat is Repeat.READS:
            assert around.store.record.notes(CHAT) == {}
            assert not around.store.record.memories([CHAT])[0].held

    def test_the_api_has_those_that_only_read(self, name: str) -> None:
        """A job of the API may use exactly the tools that change nothing and need no chat."""
        tool = tools()[name]
        assert (name in API_TOOLS) == (tool.repeat is Repeat.READS and not tool.needs_chat)


class TestCalculator:
    @pytest.mark.parametrize(
        ("expression", "result"),
        [
            ("(3.5 + 4) * 12", "90"),
            ("2**10 - 1", "1023"),
            ("7 // 2 + 7 % 2", "4"),
            ("-(1/3)", "-0.333333333333333"),
            ("0.1 + 0.2", "0.3"),
            ("10^3 × 2 ÷ 4", "500"),  # noqa: RUF001  what people write
            ("1e3", "1000"),
            ("2**100", "1267650600228229401496703205376"),
        ],
    )
    def test_arithmetic(self, expression: str, result: str) -> None:
        """An expression has the value that people expect."""
        assert shown(compute(expression)) == result

    @pytest.mark.parametrize(
        "expression",
        [
            "9**9**9**9", "2**1000", "10**60*10", "1e999", "1/0", "0**-1", "(-8)**0.5", "()", "", "1,2", "'a'*9", "True+1", "1j",
            "__import__('os')", "a", "f(1)", "[1][0]", "1 if 1 else 2", "lambda: 1", "1 < 2", "(" * 150 + "1", "-" * 199 + "1",
            "\0", "1" * 201, "1<<99", "9" * 199, "x:=1",
        ],
    )  # fmt: skip
    def test_nothing_else(self, expression: str) -> None:
        """What is no arithmetic, or too large, fails with a sentence; nothing is called, looked up or computed for long."""
        if expression == "-" * 199 + "1":
            assert compute(expression) == -1
        else:
            with pytest.raises(ToolFailed):
                compute(expression)

    @given(st.text(alphabet="0123456789.+-*/%()e ^_ax,'", max_size=40))
    def test_anything(self, expression: str) -> None:
        """Whatever the model writes, there is a number or a plain failure."""
        with suppress(ToolFailed):
            assert shown(compute(expression))


class TestNotes:
    async def test_kept_by_chat(self, around: Surroundings) -> None:
        """What is written is read in this chat only, and removed when asked."""
        notes = tools()["notes"]
        await notes.run({"action": "write", "name": "size", "text": "42"}, around)
        assert await notes.run({"action": "read"}, around) == "size: 42"
        elsewhere = attrs.evolve(around, chat=attrs.evolve(CHAT, conversation="8"))
        assert await notes.run({"action": "read"}, elsewhere) == "There are no notes."
        await notes.run({"action": "remove", "name": "size"}, around)
        assert await notes.run({"action": "read"}, around) == "There are no notes."

    async def test_bounded(self, around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
        """A chat has so many notes and no more; one may be replaced, and half a note is refused."""
        monkeypatch.setattr("worker.tools.notes.NOTES_MAX", 1)
        notes = tools()["notes"]
        for _ in range(2):
            await notes.run({"action": "write", "name": "size", "text": "42"}, around)
        for wrong in ({"name": "b", "text": "c"}, {"name": "b"}, {"text": "c"}):
            with pytest.raises(ToolFailed):
                await notes.run({"action": "write", **wrong}, around)


async def test_handing_over_holds_the_chat(around: Surroundings) -> None:
    """After the call a person answers in this chat and in no other."""
    await tools()["hand_over"].run({"reason": "asked"}, around)
    assert around.store.record.memories([CHAT])[0].held
    assert [held.chat for held in around.store.record.held()] == [CHAT]


class TestFetch:
    async def test_a_page_as_text(self, around: Surroundings, outside: ScriptedOutbound) -> None:
        """A page is read through the guard and comes as its words, without markup or scripts."""
        assert await tools()["fetch"].run({"url": "https://a.example/x"}, around) == "T\nHello you"
        (sent,) = outside.sent
        assert (sent.guarded, sent.method, sent.url) == (True, "GET", "https://a.example/x")
        assert outside.tenants == ["default"]  # else one tenant's failing pages would shut the way for all

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(404, {"content-type": "text/html"}, b"no"),
            Answer(200, {"content-type": "image/png"}, b"\x89PNG"),
            Answer(200, {}, b"?"),
            Answer(302, {"location": "https://a.example/x"}, b""),
            Answer(302, {"location": "http://["}, b""),
        ],
        ids=["not found", "no text", "no type", "for ever", "nowhere"],
    )
    async def test_what_cannot_be_read(self, around: Surroundings, outside: ScriptedOutbound, answer: Answer) -> None:
        """An error, something that is not text, and a chain of redirects fail with a sentence."""
        outside.answer = lambda _outgoing: answer
        with pytest.raises(ToolFailed):
            await tools()["fetch"].run({"url": "https://a.example/x"}, around)
        assert len(outside.sent) <= 4

    async def test_every_hop_is_guarded(self, around: Surroundings, outside: ScriptedOutbound) -> None:
        """A redirect is followed by a guarded request of its own, and only to a host that is allowed."""
        moved = Answer(301, {"location": "http://127.0.0.1/"}, b"")
        outside.answer = lambda outgoing: moved if "a.example" in outgoing.url else PAGE
        await tools()["fetch"].run({"url": "https://a.example/x"}, around)
        assert [(sent.url, sent.guarded) for sent in outside.sent] == [("https://a.example/x", True), ("http://127.0.0.1/", True)]
        with pytest.raises(ToolFailed, match="host"):
            await tools()["fetch"].run({"url": "https://a.example/x"}, attrs.evolve(around, hosts=("a.example",)))
        assert len(outside.sent) == 3

    @pytest.mark.parametrize(
        ("url", "allowed"),
        [
            ("https://a.example/", True),
            ("https://docs.a.example./", True),
            ("https://A.EXAMPLE/", True),
            ("https://evil-a.example/", False),
            ("https://a.example.evil/", False),
            ("https://a.example@evil/", False),
            ("https://[", False),
            ("", False),
        ],
    )
    def test_hosts(self, url: str, allowed: bool) -> None:
        """A host is allowed by its name or a name below it, and by nothing that only looks so."""
        assert is_allowed(url, ["a.example"]) is allowed

    @given(st.text(alphabet="<>/abp!-&; =\n\"'", max_size=80))
    def test_any_markup(self, html: str) -> None:
        """No page breaks the reader."""
        assert isinstance(plain_text(html), str)

    @pytest.mark.parametrize(
        ("html", "text"),
        [
            ("a<br>b<BR/>c", "a\nb\nc"),
            ("<ul><li>one<li> two </ul>", "one\ntwo"),
            ("1 < 2 &amp;&lt; 3 &#8364; &#x20ac; &nope; &#99999999999999999999;", "1 < 2 &< 3 € € &nope; \ufffd"),
            ("&#" + "9" * 5_000 + ";", "\ufffd"),
            ("<a title='1 > 0' href=\"x>y\" b=c'd>shown</a>", "shown"),
            ("a<!-- <p>not</p> -->b<!-->c<!DOCTYPE html>d<?php x ?>e</ f>g", "abcdeg"),
            ("<script>if (a </b) '<p>'</script >x<style>p { }</STYLE>y", "xy"),
            ("<svg><title>t</title></svg>x<template>t</template>y", "xy"),
            ("seen<p class='never closed>swallowed</p>", "seen"),
            ("seen<!-- never closed", "seen"),
            ("seen<script>never closed", "seen"),
            ("</script>x</svg>y", "xy"),
        ],
    )
    def test_markup(self, html: str, text: str) -> None:
        """What a reader sees of a page is its words, as browsers take the markup around them."""
        assert plain_text(html) == text

    @pytest.mark.parametrize(
        "piece",
        [
            *("<a ", "<!--", "<", "<!", "</", "<?", "<a b='", '<a b="', "<a =", "<a/", "<a\n", "<script>", "<svg>", "<script></"),
            *("&", "&#", "&#9"),
        ],
    )
    def test_no_page_takes_long(self, piece: str) -> None:
        """A page that is made to keep the reader busy takes a time that grows with its length, not faster."""
        began = time.process_time()
        plain_text(piece * (ANSWER_BYTES_MAX // len(piece)))
        assert time.process_time() - began < 0.5

    @pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "unicode_escape", "hex", "nope", "x\0y", "\udc00", ""])
    async def test_odd_character_sets(self, around: Surroundings, outside: ScriptedOutbound, charset: str) -> None:
        """A character set that is none of a page's is read as UTF-8: some of Python's fail, or take long."""
        outside.answer = lambda _outgoing: Answer(200, {"content-type": f"text/plain; charset={charset}"}, "é\\x41 xn--a".encode())
        assert await tools()["fetch"].run({"url": "https://a.example/x"}, around) == "é\\x41 xn--a"

    @pytest.mark.parametrize("charset", ["ISO-8859-1", '"windows-1252"', "latin1; x=y", "iso-8859-15"])
    async def test_usual_character_sets(self, around: Surroundings, outside: ScriptedOutbound, charset: str) -> None:
        """A page is read in the character set that it says."""
        outside.answer = lambda _outgoing: Answer(200, {"content-type": f"text/plain; charset={charset}"}, "é".encode("latin-1"))
        assert await tools()["fetch"].run({"url": "https://a.example/x"}, around) == "é"


ORDER = {
    "name": "order",
    "description": "orders something",
    "url": "https://shop.example/orders/{customer}",
    "parameters": {
        "type": "object",
        "properties": {"customer": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["customer", "count"],
    },
    "headers": {"authorization": "Bearer hush-hush"},
}


def declared(**changes: Any) -> DeclaredTool:
    (tool,) = read_declared(json.dumps([ORDER | changes])).values()
    assert isinstance(tool, DeclaredTool)
    return tool


class TestDeclared:
    def test_a_post(self) -> None:
        """Arguments go to their place in the URL, which they cannot leave, and into the body; key and credentials into headers."""
        sent = declared().request({"customer": "../a?b#c", "count": 2}, "job:1")
        assert sent.url == "https://shop.example/orders/..%2Fa%3Fb%23c"
        assert json.loads(sent.body) == {"count": 2}
        assert sent.guarded
        assert sent.headers["idempotency-key"] == "job:1"
        assert sent.headers["authorization"] == "Bearer hush-hush"

    def test_a_get(self) -> None:
        """Where there is no body, arguments go into the query."""
        sent = declared(method="GET", url="https://shop.example/find?x=1").request({"customer": "a&b", "count": 2}, "k")
        assert (sent.url, sent.body) == ("https://shop.example/find?x=1&customer=a%26b&count=2", b"")

    @pytest.mark.parametrize("customer", ["..", ".", "", None])
    @pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
    async def test_another_path(self, around: Surroundings, outside: ScriptedOutbound, method: str, customer: str | None) -> None:
        """An argument that would make the URL one of another path is refused, and nothing is sent: `..` is the folder above."""
        tool = declared(method=method, url="https://shop.example/orders/{customer}/items?of={customer}")
        with pytest.raises(ToolFailed, match="customer"):
            await tool.run({"customer": customer} if customer is not None else {}, around)
        assert outside.sent == []

    def test_dots_that_are_none(self) -> None:
        """Dots beside other characters, and an empty argument in the query, stay what they are."""
        tool = declared(method="GET", url="https://shop.example/v1.0/{customer}.json?q={query}")
        assert tool.request({"customer": "..", "query": ""}, "k").url == "https://shop.example/v1.0/...json?q="
        assert tool.request({"customer": "%2e%2e", "query": ".."}, "k").url == "https://shop.example/v1.0/%252e%252e.json?q=.."

    async def test_what_comes_back(self, around: Surroundings, outside: ScriptedOutbound) -> None:
        """A 2xx is the result, another status a failure; a broken connection leaves it open unless the tool may be repeated."""
        arguments = {"customer": "a", "count": 1}
        outside.answer = lambda _outgoing: Answer(200, {}, b'{"id": 7}')
        assert await declared().run(arguments, around) == '{"id": 7}'
        assert outside.tenants == ["default"]
        outside.answer = lambda _outgoing: Answer(500, {}, b"oops")
        with pytest.raises(ToolFailed, match="500"):
            await declared().run(arguments, around)

        def broken(_outgoing: Outgoing) -> Answer:
            raise SendFailed("The connection broke.")

        outside.answer = broken
        with pytest.raises(OutcomeUnknown):
            await declared().run(arguments, around)
        with pytest.raises(ToolFailed):
            await declared(repeat="keyed").run(arguments, around)

        def rests(_outgoing: Outgoing) -> Answer:
            raise HostRests("The receiver is left alone.", 1.0)

        outside.answer = rests
        with pytest.raises(ToolFailed):  # nothing was sent, whatever the tool does
            await declared().run(arguments, around)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"name": "Order"}, "name"),
            ({"name": "clock"}, "name"),
            ({"name": "none"}, "name"),
            ({"description": ""}, "description"),
            ({"method": "TRACE"}, "method"),
            ({"url": "file:///etc/passwd"}, "url"),
            ({"url": "https://{customer}.example/"}, "url"),
            ({"url": "https://["}, "url"),
            ({"headers": {"a": "b\r\nc: d"}}, "headers"),
            ({"headers": [1]}, "headers"),
            ({"repeat": "always"}, "repeat"),
            ({"parameters": {"type": "string"}}, "parameters"),
            ({"parameters": {"type": "object", "properties": {"a": {"pattern": "x"}}}}, "parameters"),
            ({"secret": 1}, "secret"),
        ],
    )
    def test_what_is_wrong_is_named(self, change: Mapping[str, Any], named: str) -> None:
        """A declaration that cannot be used is refused, with the tool and the field."""
        with pytest.raises(BadInput, match=named):
            read_declared(json.dumps([ORDER | change]))

    @pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", json.dumps([ORDER, ORDER]), json.dumps([ORDER] * 21)])
    def test_no_list_of_tools(self, text: str) -> None:
        """What is no list of different tools is refused."""
        with pytest.raises(BadInput):
            read_declared(text)
