"""What every channel must do. A file in sentinel/channels is tested here by its being there; nothing is listed by hand."""

import base64
import contextlib
import json
import re

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sentinel import payload, standard_webhooks
from sentinel.channels import SHARED_SETTINGS, Channel, channels, find_channel
from sentinel.errors import BadInput, Forged, NotFound, SettingsError, Unavailable
from sentinel.http import Request
from sentinel.model import PREVIOUS, Outcome, Outgoing, Source

NOW = 1_764_000_000.0
TEXT = "What is 2 < 3 & 5 > 4? 🙂 «é»"

# The platforms that sign nothing: what they show proves the sender, not the body.
UNSIGNED_BODY = {"telegram", "salesforce"}
NOT_PROOF = {"content-type", "soapaction"}

every_channel = pytest.mark.parametrize("channel", channels().values(), ids=list(channels()))
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=80).filter(str.strip)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def source_of(channel: Channel, **more: str) -> Source:
    """A source with every setting that is required, secret or has an example."""
    filled = {
        setting.key: setting.example or base64.b64encode(f"a secret for {setting.key}".encode()).decode()
        for setting in channel.settings
        if setting.required or setting.secret or setting.example
    }
    return Source("default", channel.name, "demo", filled | more)


def sent_by(channel: Channel, part: str, **more: str) -> Outgoing | None:
    """The request that answers the channel's sample with `part`."""
    source = source_of(channel, **more)
    event = channel.parse(channel.sample(source, "hello", 1, NOW), source).events[0]
    return channel.send(source, event.reply_to, part, "job-1", NOW)


def strings_in(value):
    """Every string in a JSON value, keys left out."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)
    elif isinstance(value, str):
        yield value


def check_events(received):
    """Events are well-formed: strings that any store takes, an identity, and a reply address that is JSON."""
    for event in received.events:
        fields = (event.external_id, event.text, event.conversation, event.sender, event.identity)
        assert all(isinstance(field, str) for field in fields)
        assert event.external_id
        assert event.identity
        assert max(len(field) for field in (event.external_id, event.conversation, event.sender, event.identity)) <= 255
        assert bool(event.problem) != bool(event.text.strip())
        for text in (*fields, *strings_in(dict(event.reply_to))):
            assert "\0" not in text
            text.encode()
        assert json.loads(payload.encode_json(event.reply_to)) == event.reply_to


@every_channel
class TestRotation:
    def test_two_secrets_are_accepted(self, channel):
        """While a secret is rotated, a webhook by either is genuine and the proof tells which; afterwards only by one."""
        old = source_of(channel)
        for key in (setting.key for setting in channel.settings if setting.rotates):
            fresh = base64.b64encode(f"a new secret for {key}".encode()).decode()
            both = attrs.evolve(old, settings={**old.settings, key: fresh, key + PREVIOUS: old.setting(key)})
            only = attrs.evolve(old, settings={**old.settings, key: fresh})
            by_old, by_new = channel.sample(old, TEXT, 1, NOW), channel.sample(both, TEXT, 2, NOW)
            proof = channel.verify(by_new, both, NOW)
            assert "previous" not in proof
            assert channel.verify(by_new, only, NOW) == proof
            if by_old.headers == channel.sample(only, TEXT, 1, NOW).headers and by_old.path == by_new.path:
                continue  # a secret of the handshake alone
            assert channel.verify(by_old, both, NOW) == f"{proof}, previous secret"
            with pytest.raises(Forged):
                channel.verify(by_old, only, NOW)

    def test_no_third_secret_is_accepted(self, channel):
        """What is neither the present secret nor the one before it proves nothing, and an empty previous one opens no door."""
        old = source_of(channel)
        for key in (setting.key for setting in channel.settings if setting.rotates):
            request = channel.sample(old, TEXT, 1, NOW)
            values = {name: base64.b64encode(name.encode()).decode() for name in (key, key + PREVIOUS)}
            for others in (values, {key: values[key], key + PREVIOUS: ""}):
                changed = attrs.evolve(old, settings=old.settings | others)
                if channel.sample(changed, TEXT, 1, NOW) == request:
                    continue  # a secret of the handshake alone
                with pytest.raises(Forged):
                    channel.verify(request, changed, NOW)


@pytest.mark.parametrize("given", ["one", "two", "three", ""])
def test_whatsapp_takes_either_verify_token(given):
    """The handshake is answered for the present token and the previous one, and for no other."""
    source = Source("t", "whatsapp", "shop", {"app_secret": "s", "verify_token": "two", "verify_token_previous": "one"})
    request = Request("GET", "/webhooks/whatsapp/shop", f"hub.mode=subscribe&hub.verify_token={given}&hub.challenge=7")
    if given in ("one", "two"):
        assert find_channel("whatsapp").handshake(request, source).body == b"7"
    else:
        with pytest.raises(Forged):
            find_channel("whatsapp").handshake(request, source)


@pytest.mark.parametrize("scheme", ["standard-webhooks", "hmac-sha256", "bearer"])
def test_generic_rotates_in_every_scheme_and_signs_with_both(scheme):
    """Each scheme takes either secret; what is sent is signed with both, so that its receiver may know either."""
    channel = find_channel("generic")
    old, new = (base64.b64encode(word * 24).decode() for word in (b"o", b"n"))
    settings = {"scheme": scheme, "secret": new, "secret_previous": old, "forward_url": "https://receiver.example"}
    source = Source("t", "generic", "shop", settings)
    request = channel.sample(attrs.evolve(source, settings=settings | {"secret": old}), TEXT, 1, NOW)
    assert channel.verify(request, source, NOW) == f"{scheme}, previous secret"
    sent = channel.send(source, {}, "Hi", "job-1", NOW)
    for secret in (old, new):
        known = secret if scheme == "standard-webhooks" else "whsec_" + base64.b64encode(secret.encode()).decode()
        assert standard_webhooks.verify([known], sent.headers, sent.body, NOW) == "job-1"


@every_channel
class TestContract:
    def test_it_is_found_by_its_name_and_describes_itself(self, channel):
        """The file's name is the channel's name, and every setting has a help text and no shared key."""
        assert find_channel(channel.name) is channel
        assert channel.text_limit
        assert all(setting.help for setting in channel.settings)
        assert not {setting.key for setting in channel.settings} & {setting.key for setting in SHARED_SETTINGS}
        assert any(setting.required for setting in channel.settings)

    def test_no_secret_is_shown(self, channel):
        """Every setting that is called a secret or a token is marked as one, so that it is never printed."""
        assert all(setting.secret for setting in channel.settings if re.search("secret|token", setting.key))


@every_channel
class TestReceiving:
    @few
    @given(text=words, number=st.integers(0, 10**6))
    def test_a_sample_is_one_event_with_the_text(self, channel, text, number):
        """A sample is verified and becomes exactly one event that says the text, whatever the text is."""
        source = source_of(channel)
        request = channel.sample(source, text, number, NOW)
        assert request.content_type() in channel.content_types
        assert request.path == f"/webhooks/{channel.name}/demo"
        assert channel.verify(request, source, NOW)
        received = channel.parse(request, source)
        check_events(received)
        assert [(event.text, event.problem) for event in received.events] == [(text, None)]

    def test_identity_follows_the_number(self, channel):
        """Distinct numbers are distinct items; the same number is the same item, also when it is sent again later."""
        source = source_of(channel)

        def identity(number, now=NOW):
            return channel.parse(channel.sample(source, "hello", number, now), source).events[0].identity

        assert len({identity(number) for number in range(50)}) == 50
        assert identity(7) == identity(7, NOW + 60)

    def test_a_changed_body_is_refused(self, channel):
        """Any one changed byte of the body is noticed, where the platform signs the body."""
        source = source_of(channel)
        request = channel.sample(source, "hello", 1, NOW)
        if channel.name in UNSIGNED_BODY:
            return
        for at in range(len(request.body)):
            body = request.body[:at] + bytes([request.body[at] ^ 1]) + request.body[at + 1 :]
            with pytest.raises(Forged):
                channel.verify(attrs.evolve(request, body=body), source, NOW)

    @pytest.mark.parametrize("altered", [None, "", "x", "é", "\ud800", "\u0661" * 10, "9" * 100_000, "=" * 100_000])
    def test_an_altered_proof_is_refused(self, channel, altered):
        """Each header that proves something, and a token in the URL, must be there and be right; nonsense is no exception."""
        source = source_of(channel)
        request = channel.sample(source, "hello", 1, NOW)
        proofs = [name for name in request.headers if name not in NOT_PROOF]
        for name in proofs:
            headers = {key: value for key, value in request.headers.items() if key != name}
            headers |= {} if altered is None else {name: altered}
            with pytest.raises(Forged):
                channel.verify(attrs.evolve(request, headers=headers), source, NOW)
        if request.query:
            with pytest.raises(Forged):
                channel.verify(attrs.evolve(request, query=f"token={altered or ''}"), source, NOW)
        assert proofs or request.query

    def test_another_sources_proof_is_refused(self, channel):
        """What one source's secrets prove says nothing to a source with other secrets."""
        source = source_of(channel)
        others = {key: "b3RoZXI=" + value for key, value in source.settings.items()}
        stranger = source_of(channel, **{s.key: others[s.key][::-1] for s in channel.settings if s.required or s.secret})
        with pytest.raises(Forged):
            channel.verify(channel.sample(source, "hello", 1, NOW), stranger, NOW)

    def test_an_empty_secret_verifies_nothing(self, channel):
        """A source whose secrets are not set refuses everything, also what is signed with an empty secret."""
        source = source_of(channel)
        empty = attrs.evolve(source, settings=dict.fromkeys(source.settings, ""))
        genuine = channel.sample(source, "hello", 1, NOW)
        requests = [genuine, attrs.evolve(genuine, headers=dict.fromkeys(genuine.headers, ""))]
        with contextlib.suppress(SettingsError):  # some schemes cannot even sign with an empty secret
            requests.append(channel.sample(empty, "hello", 1, NOW))
        for request in requests:
            with pytest.raises(Forged):
                channel.verify(request, empty, NOW)

    @few
    @given(data=st.data())
    def test_any_json_gives_events_or_bad_input(self, channel, data):
        """A sample with any part replaced by any JSON value is parsed to well-formed events, or refused as bad input."""
        source = source_of(channel)
        request = channel.sample(source, "hello", 1, NOW)
        if "json" not in request.content_type():
            return
        value = json.loads(request.body)
        mutated = mutate(value, data)
        received = channel.parse(attrs.evolve(request, body=payload.encode_json(mutated)), source)
        check_events(received)

    @few
    @given(body=st.binary(max_size=60) | st.builds(payload.encode_json, anything))
    def test_any_body_gives_events_or_bad_input(self, channel, body):
        """No body, of any of the channel's content types, raises anything but BadInput or Forged."""
        source = source_of(channel)
        sample = channel.sample(source, "hello", 1, NOW)
        for content_type in channel.content_types:
            request = attrs.evolve(sample, body=body, headers=dict(sample.headers) | {"content-type": content_type})
            for check in (
                lambda r=request: channel.verify(r, source, NOW),
                lambda r=request: check_events(channel.parse(r, source)),
            ):
                try:
                    check()
                except (BadInput, Forged):
                    continue

    def test_a_body_cut_anywhere_is_bad_input(self, channel):
        """Every true prefix of a sample is refused by parse, never half understood."""
        source = source_of(channel)
        request = channel.sample(source, "hello", 1, NOW)
        for end in range(len(request.body)):
            with pytest.raises(BadInput):
                channel.parse(attrs.evolve(request, body=request.body[:end]), source)


def mutate(value, data):
    """`value` with one part, or all of it, replaced or removed."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        changed = value.copy()
        if isinstance(value, dict) and not data.draw(st.integers(0, 6)):
            del changed[key]
        else:
            changed[key] = mutate(value[key], data)
        return changed
    return data.draw(anything)


@every_channel
class TestAnswering:
    def test_the_acknowledgment_is_a_success(self, channel):
        """The platform hears 2xx, and never a JSON body that it could take for a command."""
        response = channel.acknowledge(source_of(channel))
        assert 200 <= response.status < 300
        assert b"method" not in response.body

    def test_a_refusal_keeps_status_and_headers(self, channel):
        """Unavailable is 503 with Retry-After, a forgery 401, in whatever shape the platform reads."""
        busy = channel.refuse(Unavailable(retry_after_seconds=9))
        assert busy.status == 503
        assert ("retry-after", "9") in busy.headers
        assert channel.refuse(Forged()).status == 401
        assert any(name == "content-type" for name, _ in busy.headers)

    def test_a_get_is_a_handshake_or_nothing(self, channel):
        """A GET without the platform's challenge is refused or not found; it is never a success."""
        with pytest.raises((Forged, NotFound)):
            channel.handshake(Request("GET", f"/webhooks/{channel.name}/demo"), source_of(channel))


@every_channel
class TestReplying:
    @few
    @given(
        text=st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n <&🙂"), max_size=200),
        times=st.integers(1, 200),
    )
    def test_splitting_loses_only_white_space(self, channel, text, times):
        """The parts are never empty, are what they are when split again, and have every character in order."""
        parts = channel.split(text * times)
        assert all(part.strip() for part in parts)
        assert all(channel.split(part) == [part] for part in parts)
        expected = "".join((text * times).split()) or "…"
        assert "".join("".join(parts).split()) == expected

    @pytest.mark.parametrize("text", ["\ud800 a \0", "a" * 20_000, "🙂" * 9_000, "&" * 5_000, ""])
    def test_every_part_can_be_sent(self, channel, text):
        """What split gives can be encoded, also of text that no platform takes."""
        parts = channel.split(text)
        assert parts
        for part in parts:
            assert "\0" not in part
            outgoing = sent_by(channel, part, api_base="https://api.example")
            assert payload.decode_json(outgoing.body)

    def test_the_part_is_sent_as_it_is(self, channel):
        """The request is a POST of JSON with the part in it, by https where no other base is set."""
        part = "**4** — «so», 🙂\n  indented"
        outgoing = sent_by(channel, part)
        assert outgoing is None or outgoing.url.startswith("https://")
        outgoing = outgoing or sent_by(channel, part, api_base="https://api.example")
        assert outgoing.method == "POST"
        assert outgoing.headers["content-type"].startswith("application/json")
        assert part in strings_in(json.loads(outgoing.body))

    @pytest.mark.parametrize("base", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/"])
    def test_the_api_base_is_honoured(self, channel, base):
        """With api_base set, the request goes there, unless the source has a URL of its own for answers."""
        url = sent_by(channel, "4", api_base=base).url
        assert url.startswith("http://127.0.0.1:9000/") or url in source_of(channel).settings.values()
        assert "//" not in url.partition("://")[2]

    def test_without_anywhere_to_send_to_there_is_no_request(self, channel):
        """A source with only what verifies, or a reply address that says nothing, gives None."""
        required = {setting.key: "x" for setting in channel.settings if setting.required}
        bare = Source("default", channel.name, "demo", required)
        event = channel.parse(channel.sample(source_of(channel), "hello", 1, NOW), bare).events[0]
        assert channel.send(bare, event.reply_to, "4", "job-1", NOW) is None
        assert channel.send(bare, {}, "4", "job-1", NOW) is None

    def test_secrets_are_not_in_the_reply_address(self, channel):
        """Nothing that is secret in the settings is written into an event."""
        source = source_of(channel)
        event = channel.parse(channel.sample(source, "hello", 1, NOW), source).events[0]
        secrets = [source.setting(setting.key) for setting in channel.settings if setting.secret]
        assert not [secret for secret in secrets if secret in json.dumps(dict(event.reply_to))]

    def test_the_status_is_understood(self, channel):
        """A success is sent, a server's error and a limit deserve another attempt, a refusal does not."""
        outcomes = {200: Outcome.SENT, 201: Outcome.SENT, 500: Outcome.RETRY, 503: Outcome.RETRY, 429: Outcome.RETRY}
        outcomes |= {400: Outcome.FAILED, 401: Outcome.FAILED, 403: Outcome.FAILED, 410: Outcome.FAILED, 302: Outcome.FAILED}
        for status, outcome in outcomes.items():
            assert channel.judge(status, {}, b'{"ok":true}' if status < 300 else b"", {}).outcome is outcome
        assert channel.judge(429, {"Retry-After": "35"}, b"", {}).retry_after_seconds == 35
        assert channel.judge(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", {}).retry_after_seconds is None
        dated = {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:27:00 GMT"}
        assert channel.judge(503, dated, b"", {}).retry_after_seconds == 60
        over = dated | {"Date": "Wed, 21 Oct 2026 07:29:00 GMT"}
        assert channel.judge(503, over, b"", {}).retry_after_seconds == 0
        assert channel.judge(503, {"retry-after": "9" * 12}, b"", {}).retry_after_seconds == 86_400

    @few
    @given(status=st.integers(100, 599), body=st.binary(max_size=40) | st.builds(payload.encode_json, anything), key=words)
    def test_no_answer_raises(self, channel, status, body, key):
        """Whatever an endpoint answers, there is a verdict."""
        for address in ({}, {key: key}):
            assert channel.judge(status, {"retry-after": key}, body, address).outcome in Outcome

    @few
    @given(address=st.dictionaries(words, anything, max_size=3), data=st.data())
    def test_no_reply_address_raises(self, channel, address, data):
        """A reply address of an older version, or of an item that was not understood, gives a request or None."""
        source = source_of(channel, api_base="https://api.example")
        event = channel.parse(channel.sample(source, "hello", 1, NOW), source).events[0]
        known = dict(event.reply_to)
        assume(known)
        known[data.draw(st.sampled_from(list(known)))] = data.draw(anything)
        for reply_to in (address, known):
            outgoing = channel.send(source, reply_to, "4", "job-1", NOW)
            assert outgoing is None or outgoing.url.startswith("https://")
