"""Strict decoding: what two readers could understand differently, or a store could not keep, is refused as bad input."""

import json
import math
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import payload
from sentinel.errors import BadInput
from sentinel.payload import decode_form, decode_json, decode_xml, encode_json

moderate = settings(max_examples=150, deadline=None)
strings = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
# A string of few characters, of which each is spelled in one of the ways that JSON has.
spelled = st.lists(
    st.sampled_from(["a", '\\"', "\\u0022", ":", "\\u003a", "\\u003A", "\\\\", "\\u005c", " ", ",", "{", "\\/"]), max_size=4
).map(lambda pieces: '"' + "".join(pieces) + '"')


class TestJson:
    @moderate
    @given(value=values)
    def test_every_value_comes_back(self, value):
        """Any JSON value is read as it was written, by our encoder and by another, spaced and escaped or not."""
        assert decode_json(encode_json(value)) == value
        assert decode_json(json.dumps(value, indent=1).encode()) == value
        assert decode_json(json.dumps(value, ensure_ascii=False)) == value

    @moderate
    @given(body=st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:\\u0d8eE+-.1 \n'), max_size=30).map(str.encode))
    def test_any_bytes_give_a_value_or_bad_input(self, body):
        """No bytes raise anything else, and a value that is read is one that Python's reader reads too."""
        try:
            value = decode_json(body)
        except BadInput:
            return
        assert json.loads(body) == value

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b"1e999",
            b"-1e999",
            b"1" + b"0" * 400,
            b"1" + b"0" * 10_000,
            b"18446744073709551616",
            b"9223372036854775808",
            b"-9223372036854775809",
            b"01",
            b"1.",
            b"+1",
            b"[1,]",
            b"{} x",
            b"{}\0",
            b"\0",
            b"'a'",
            b"{a:1}",
            b'"a\nb"',
            b'"\\x"',
            b'"\\u0000"',
            b'"a\0b"',
            b'{"\\u0000":1}',
            b'"\\ud800"',
            b'"\\ud800 and more"',
            b'"\\ud800\\u0041"',
            b'"\\udc00\\ud800"',
            b'{"\\ud800":1}',
            b'"\xed\xa0\x80"',
            b'"\xed\xa0\xbd\xed\xb8\x80"',
            b'{"\xed\xa0\x80":1}',
            b'"\xff"',
            b'"\xc0\x80"',
            b'"\xf4\x90\x80\x80"',
            b"\xef\xbb\xbf{}",
            "{}".encode("utf-16"),
            "{}".encode("utf-16-le"),
            "{}".encode("utf-32"),
            b"// comment\n{}",
        ],
        ids=lambda body: repr(body[:24]),
    )
    def test_what_is_refused(self, body):
        """Values beyond JSON, beyond 64 bits or beyond Unicode, other encodings and stray bytes are refused."""
        with pytest.raises(BadInput):
            decode_json(body)

    @pytest.mark.parametrize(
        "body",
        [b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'[{"b":{"a":1,"c":":","a":2}}]', b'{"a\\"":1,"a\\u0022":2}', b'{"":1,"":2}'],
    )
    def test_a_repeated_key_is_refused(self, body):
        """The same key twice is refused at any depth, however it is spelled."""
        with pytest.raises(BadInput, match="same key twice"):
            decode_json(body)

    @settings(max_examples=1_000, deadline=None)
    @given(
        st.recursive(
            spelled,
            lambda inner: st.lists(st.tuples(spelled, inner), max_size=4).map(
                lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
            ),
            max_leaves=8,
        )
    )
    def test_a_repeated_key_is_found_among_any_escapes(self, body):
        """Keys and texts full of quotes, colons and backslashes, however they are spelled, hide no repeated key and feign none."""
        repeated = []

        def read(pairs):
            repeated.extend([pairs] if len(dict(pairs)) < len(pairs) else [])
            return dict(pairs)

        value = json.loads(body, object_pairs_hook=read)
        if repeated:
            with pytest.raises(BadInput, match="same key twice"):
                decode_json(body)
        else:
            assert decode_json(body) == value

    @pytest.mark.parametrize("body", [b'{"a":":","b":"\\":"}', b'[{"a":1},{"a":1}]', b'{"a":{"a":1}}', b'{"a:":"::\\\\"}', b'":"'])
    def test_colons_and_quotes_in_strings_are_no_keys(self, body):
        """What only looks like a repeated key is accepted."""
        assert decode_json(body) == json.loads(body)

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    @pytest.mark.parametrize("depth", [65, 10_000, 200_000])
    def test_deep_nesting_is_refused(self, opening, depth):
        """No depth exhausts the stack; beyond 64 levels it is bad input, closed or not."""
        closing = b"]" if opening == b"[" else b"}"
        for body in (opening * depth, opening * depth + b"1" + closing * depth):
            with pytest.raises(BadInput):
                decode_json(body)

    def test_the_limits_themselves_are_accepted(self):
        """The greatest integers, 64 levels and 20,000 values are read."""
        assert decode_json(b"[9223372036854775807,-9223372036854775808]") == [2**63 - 1, -(2**63)]
        assert decode_json(b"[" * 63 + b"1" + b"]" * 63)
        assert len(decode_json(b"[" + b"1," * 19_998 + b"1]")) == 19_999
        assert math.isclose(decode_json(b"1.7976931348623157e308"), 1.7976931348623157e308)
        with pytest.raises(BadInput):
            decode_json(b"[" + b"1," * 20_000 + b"1]")

    def test_a_body_cut_anywhere_is_refused(self):
        """Every true prefix of a document is bad input; none is half understood."""
        body = '{"a": [1, -2.5e3, "é\\u00e9\\ud83d\\ude00"], "b": {"c": null, "d": true}}'.encode()
        assert decode_json(body)
        for end in range(len(body)):
            with pytest.raises(BadInput):
                decode_json(body[:end])

    def test_a_long_string_takes_no_long_time(self):
        """The search for repeated keys is linear, also in a string of nothing but escapes."""
        assert len(decode_json(b'{"a":"' + b"\\n\\\\" * 200_000 + b'"}')["a"]) == 400_000

    def test_text_with_a_lone_surrogate_is_refused(self):
        """A string that is not Unicode is bad input too, not an encoding error."""
        with pytest.raises(BadInput):
            decode_json('"\ud800"')


class TestForm:
    @moderate
    @given(form=st.dictionaries(strings.filter(bool), strings, max_size=5))
    def test_every_form_comes_back(self, form):
        """Any fields are read as they were written."""
        assert decode_form(urlencode(form).encode()) == form

    @moderate
    @given(body=st.binary(max_size=60))
    def test_any_bytes_give_fields_or_bad_input(self, body):
        """No bytes raise anything else."""
        try:
            form = decode_form(body)
        except BadInput:
            return
        assert all("\0" not in text for pair in form.items() for text in pair)

    @pytest.mark.parametrize(
        "body",
        [b"a=1&a=2", b"a=1&%61=2", b"a=%00", b"%00=1", b"a=\0", b"a=%ff", b"a=%ED%A0%80", b"\xc3\xa9=1", b"a&" * 300],
    )
    def test_what_is_refused(self, body):
        """Repeated fields, U+0000, bad UTF-8, raw non-ASCII and too many fields are refused."""
        with pytest.raises(BadInput):
            decode_form(body)


DOCTYPE = '<!DOCTYPE a [<!ENTITY e "x"><!ENTITY f SYSTEM "file:///etc/passwd">]>'


class TestXml:
    def test_a_document_is_read(self):
        """Namespaces, entities of the language and character references are understood."""
        root = decode_xml('<?xml version="1.0" encoding="UTF-8"?><a xmlns="u">é &lt;&#128578;<b/></a>'.encode())
        assert (root.tag, root.text) == ("{u}a", "é <🙂")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"{}",
            b"<a>",
            b"<a></b>",
            b"<a/><b/>",
            b" <?xml version='1.0'?><a/>",
            b"<a>&e;</a>",
            b"<a>&#0;</a>",
            b"<a>&#xD800;</a>",
            b"<a>\0</a>",
            b"<a>\x01</a>",
            b"<a>\xff</a>",
            b"<a>\xed\xa0\x80</a>",
            b"<x:a/>",
            b"<a b='1' b='2'/>",
            "<a/>".encode("utf-16"),
            "<a/>".encode("utf-16-le"),
            "<a/>".encode("utf-16-be"),
            '<?xml version="1.0" encoding="UTF-16"?><a/>'.encode("utf-16-le"),
            b'<?xml version="1.0" encoding="UTF-16"?><a/>',
            b'<?xml version="1.0" encoding="cp037"?><a/>',
            b"\xef\xbb\xbf<?xml version='1.0' encoding='cp037'?><a/>",
            b"<?xml version='1.0' encoding='iso-8859-1'?><a>\xe9</a>",
        ],
        ids=lambda body: repr(body[:24]),
    )
    def test_what_is_refused(self, body):
        """What is not well-formed, and every encoding but UTF-8, is refused."""
        with pytest.raises(BadInput):
            decode_xml(body)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_declarations_are_refused_in_every_encoding(self, encoding):
        """A DOCTYPE, which could name files or grow without bound, is refused however it is encoded."""
        for body in (DOCTYPE + "<a>&e;</a>", "<?xml version='1.0'?>" + DOCTYPE + "<a>&f;</a>", "<!DOCTYPE a><a/>"):
            with pytest.raises(BadInput):
                decode_xml(body.encode(encoding))

    @pytest.mark.parametrize("depth", [51, 10_000, 200_000])
    def test_deep_nesting_is_refused(self, depth):
        """No depth exhausts the stack; beyond 50 levels it is bad input, closed or not."""
        for body in (b"<a>" * depth, b"<a>" * depth + b"</a>" * depth):
            with pytest.raises(BadInput):
                decode_xml(body)
        assert decode_xml(b"<a>" * 50 + b"</a>" * 50).tag == "a"

    def test_great_numbers_are_refused(self):
        """Of elements and attributes together, 20,000 are read and one more is not."""
        assert len(decode_xml(b"<a>" + b"<b/>" * 19_999 + b"</a>")) == 19_999
        for body in (b"<a>" + b"<b/>" * 20_000 + b"</a>", b"<a>" + b"<b c='1'/>" * 10_000 + b"</a>"):
            with pytest.raises(BadInput, match="more than 20000"):
                decode_xml(body)

    def test_a_body_cut_anywhere_is_refused(self):
        """Every true prefix of a document is bad input."""
        body = '<?xml version="1.0" encoding="UTF-8"?><a b="c">é<d/><!-- e --></a>'.encode()
        assert decode_xml(body).tag == "a"
        for end in range(len(body)):
            with pytest.raises(BadInput):
                decode_xml(body[:end])

    @moderate
    @given(body=st.binary(max_size=60) | st.text(st.sampled_from("<>/!?&;#[]='\"ax:é\0 "), max_size=40).map(str.encode))
    def test_any_bytes_give_a_tree_or_bad_input(self, body):
        """No bytes raise anything else."""
        try:
            root = decode_xml(b"<a>" + body + b"</a>")
        except BadInput:
            return
        assert "\0" not in "".join(root.itertext())


@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775807",
        "-9223372036854775808",
        "[1.00000000000000000000001, 1e0000000000000000000000001, 12345678901234567890.5]",
        '"\\\\u0000"',
        '{"12345678901234567890": "12345678901234567890:[{"}',
        "[" + ",".join(["[]"] * 500) + "]",
        "[" * 64 + "]" * 64,
    ],
)
def test_what_only_looks_dangerous_is_taken(text: str) -> None:
    """Limits are exact: the largest integers, long fractions, digits and brackets inside strings, wide but shallow lists."""
    assert decode_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "-9223372036854775809", "[1," + "9" * 40 + "]", "[" * 65 + "]" * 65, '{"a\\u0000": 1}']
)
def test_what_is_just_beyond_is_refused(text: str) -> None:
    """One beyond a limit is refused, wherever it stands."""
    with pytest.raises(BadInput):
        decode_json(text)


def strictly(body: bytes) -> str:
    """What the long way says of the body: "" if it takes it."""
    try:
        payload.decode_json(body + b" " * payload.NODES_MAX)  # too long for the short look
    except BadInput as error:
        return error.detail
    return ""


@settings(max_examples=400)
@given(body=st.text(st.sampled_from('{}[]",:\\u0a1e. \n'), max_size=40).map(str.encode) | values.map(payload.encode_json))
def test_the_short_look_sees_what_the_long_one_does(body: bytes) -> None:
    """JSON that is taken after a short look is what the thorough one would take, and the same value."""
    try:
        short, refused = payload.decode_json(body), ""
    except BadInput as error:
        short, refused = None, error.detail
    assert bool(refused) == bool(strictly(body))
    if not refused:
        assert short == payload.decode_json(body + b" " * payload.NODES_MAX)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2,"b":3}',
        b'{"a":{"b":1,"b":2},"c":"x: y"}',
        b'{"a"\t:1,"a":2}',
        b'{"\\u0061":1,"a":2}',
        b'{"a":1,"a":2,"c":"\\u0022:"}',
        b'{"a":99999999999999999999}',
        b"[" * 65 + b"]" * 65,
        b'{"a":"\\u0000"}',
    ],
)
def test_what_a_short_look_must_not_miss(body: bytes) -> None:
    """Repeated keys are found however they are written, and so are long integers, deep nesting and NUL."""
    with pytest.raises(BadInput):
        payload.decode_json(body)
