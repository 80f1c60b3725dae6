"""Standard Webhooks: the reference libraries' own vectors, the tolerance, and what a forger would try."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import Forged, SettingsError
from sentinel.standard_webhooks import encode_secret, new_secret, sign, signed_headers, verify

# libraries/python/tests/test_webhooks.py of github.com/standard-webhooks/standard-webhooks
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers_with(**changed: str) -> dict[str, str]:
    genuine = {"id": MESSAGE_ID, "timestamp": str(TIMESTAMP), "signature": SIGNATURE}
    return {f"webhook-{name}": value for name, value in (genuine | changed).items()}


class TestSign:
    def test_published_vector(self):
        """The reference libraries' vector gives their signature."""
        assert sign(SECRET, MESSAGE_ID, TIMESTAMP, BODY) == SIGNATURE

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64!", "é", "a", "=", "\ud800"])
    def test_a_secret_that_is_no_key(self, secret):
        """What is not base64, or is empty, signs nothing."""
        with pytest.raises(SettingsError):
            sign(secret, MESSAGE_ID, TIMESTAMP, BODY)

    def test_an_id_has_no_dot(self):
        """A dot in the id would let two messages have one signed content."""
        with pytest.raises(ValueError, match="webhook-id"):
            sign(SECRET, "a.1", TIMESTAMP, BODY)

    def test_new_secrets_are_long_and_distinct(self):
        """A new secret has 32 random bytes behind its prefix."""
        one, other = new_secret(), new_secret()
        assert one != other
        assert len(base64.b64decode(one.removeprefix("whsec_"))) == 32

    @settings(max_examples=50, deadline=None)
    @given(body=st.binary(max_size=50), key=st.binary(min_size=1, max_size=64), now=st.integers(0, 10**10))
    def test_what_is_signed_verifies(self, body, key, now):
        """Any body signed with any key is verified by that key."""
        secret = encode_secret(key)
        assert verify([secret], signed_headers(secret, "job-1", now, body), body, float(now)) == "job-1"


class TestVerify:
    def test_published_vector(self):
        """The reference libraries' vector is accepted at its time."""
        assert verify([SECRET], headers_with(), BODY, TIMESTAMP) == MESSAGE_ID

    @pytest.mark.parametrize(
        "secret",
        [
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwBr==",
        ],
    )
    def test_prefix_and_padding_may_be_left_out(self, secret):
        """A secret pasted without its prefix or its padding is the same key."""
        text = secret.removeprefix("whsec_").rstrip("=")
        full = "whsec_" + text + "=" * (-len(text) % 4)
        assert verify([secret], signed_headers(full, "a", TIMESTAMP, BODY), BODY, TIMESTAMP)

    @pytest.mark.parametrize(
        "signature",
        [
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA=",
            "",
            "v1",
            "v1,",
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            SIGNATURE.rstrip("="),
            "v1,,,é \ud800 \0",
            "v1,x " * 25_000 + SIGNATURE,
        ],
    )
    def test_a_wrong_signature_is_refused(self, signature):
        """A changed, missing, malformed or endless signature is refused, with no other exception."""
        with pytest.raises(Forged):
            verify([SECRET], headers_with(signature=signature), BODY, TIMESTAMP)

    def test_one_of_several_signatures_is_enough(self):
        """During a rotation both sides know two keys; entries of other versions are skipped."""
        old = new_secret()
        both = f"v1a,xxxx {sign(old, MESSAGE_ID, TIMESTAMP, BODY)} {SIGNATURE}"
        assert verify([SECRET], headers_with(signature=both), BODY, TIMESTAMP)
        assert verify(["", "no base64!", old, SECRET], headers_with(), BODY, TIMESTAMP)
        with pytest.raises(Forged):
            verify([new_secret()], headers_with(signature=both), BODY, TIMESTAMP)

    def test_no_secret_verifies_nothing(self):
        """Without a secret, or with one that is no key, everything is refused."""
        for secrets in ([], [""], ["whsec_"]):
            with pytest.raises(Forged):
                verify(secrets, headers_with(), BODY, TIMESTAMP)

    @pytest.mark.parametrize(("seconds", "genuine"), [(300, True), (-300, True), (301, False), (-301, False)])
    def test_the_tolerance_is_five_minutes_both_ways(self, seconds, genuine):
        """An older or a newer message is refused, however well it is signed."""
        if genuine:
            assert verify([SECRET], headers_with(), BODY, TIMESTAMP + seconds)
        else:
            with pytest.raises(Forged):
                verify([SECRET], headers_with(), BODY, TIMESTAMP + seconds)

    @pytest.mark.parametrize(
        "timestamp", ["", "-1", "1614265330.0", " 1614265330", "\u0661" * 10, "²", "1e9", "nan", "9" * 100_000]
    )
    def test_a_time_that_is_none_is_refused(self, timestamp):
        """Only ASCII digits are a time."""
        with pytest.raises(Forged):
            verify([SECRET], headers_with(timestamp=timestamp), BODY, TIMESTAMP)

    def test_every_byte_counts(self):
        """A changed byte of the body, or a changed id, is noticed."""
        for at in range(len(BODY)):
            with pytest.raises(Forged):
                verify([SECRET], headers_with(), BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :], TIMESTAMP)
        for message_id in ("", "msg_x", "\ud800"):
            with pytest.raises(Forged):
                verify([SECRET], headers_with(id=message_id), BODY, TIMESTAMP)
