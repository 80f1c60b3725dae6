"""What a model was talked into saying, and what of it goes out: no secret, no key, no link to inside; everything else as it was."""

from __future__ import annotations

import time

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.channels import channels
from sentinel.edge.output import KEY_SHAPES, MASKS, check_output, leads_inside
from sentinel.model import State
from sentinel.payload import decode_json
from sentinel.standard_webhooks import new_secret
from tests.conftest import Sentinel, ended
from tests.corpus import corpus

# One made-up key of each kind; in pieces, so that no scanner takes them for lost ones.
KEYS = {
    "sentinel_key": "snt_" + "a1B2" * 12 + "c",
    "webhook_secret": new_secret(),
    "aws_key": "AKIA" + "ABCDEFGH12345678",
    "github_token": "ghp_" + "a1" * 18,
    "gitlab_token": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "slack_token": "xoxb" + "-123456789012-abcdefghijkl",
    "slack_webhook": "https://hooks.slack.com/services/" + "T000/B000/abcdefghijklmnop",
    "telegram_token": "110201543:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
    "meta_token": "EAA" + "Gm0PX4ZCpsBA" * 6,
    "model_key": "sk-proj-" + "a1B2c3D4" * 5,
    "stripe_key": "sk_live_" + "a1B2c3D4e5F6g7H8i9J0",
    "google_key": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "sendgrid_key": "SG." + "a1B2c3D4e5F6g7H8i9J0k1" + "." + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V",
    "npm_token": "npm_" + "a1" * 18,
    "salesforce_session": "00D000000000001" + "!" + "AQEAQ" * 10,
    "jwt": "eyJhbGciOiJIUzI1NiJ9" + "." + "eyJzdWIiOiIxMjM0NSJ9" + "." + "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    "url_password": "postgres://sentinel:hunter22@db.example.com",
}
INSIDE = (
    *(
        "http://localhost:8080/admin",
        "https://127.0.0.1/",
        "http://10.0.0.5/x",
        "http://192.168.1.1",
        "http://169.254.169.254/latest/",
    ),
    *(
        "http://[::1]:8080/",
        "http://[fd00::1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1:80/",
    ),
    *("http://１２７.0.0.1/", "http://127。0。0。1/", "http://ⓛocalhost/", "http://10.0.0.1%00/", "http://[fe80::1%25eth0]/"),  # noqa: RUF001
    *("https://db.internal/x", "http://printer.local/", "https://jira.corp/browse/A-1", "http://web.default.svc.cluster.local/"),
    *(
        "http://redis:6379/",
        "HTTP://LOCALHOST/",
        "http://user:pw@10.0.0.1/",
        "http://metadata.google.internal/",
        "ftp://10.1.1.1/f",
    ),
    *(
        "http://%31%32%37.0.0.1/",
        "ws://127.0.0.1:9229/",
        "https://[64:ff9b::7f00:1]/",
        "http://127.0.0.1.",
        "http://router.home.arpa/",
    ),
)
OUTSIDE = (
    *(
        "https://example.com/path?x=1",
        "http://docs.example.org:8080/a",
        "https://8.8.8.8/",
        "https://xn--bcher-kva.example/",
        "https://a.b.co",
    ),
    *("https://en.wikipedia.org/wiki/Portugal_(disambiguation)", "https://localhost.example.com/", "https://internal.example.com/"),
)


# As browsers read what is not quite a URL.
BROKEN_INSIDE = (
    *("//10.0.0.1/", "//10.0.0.1:8080/x", "//localhost/", "//localhost:3000", "//db.internal/x", "//[::1]/", "//user@10.0.0.1/"),
    *(
        "http:/10.0.0.1",
        "https:/127.0.0.1/",
        "http:10.0.0.1/",
        "http:[::1]/",
        "http:///10.0.0.1/",
        "https:/localhost/",
        "http:/redis/",
    ),
    *(
        "http:\\\\10.0.0.1",
        "http:/\\10.0.0.1/",
        "\\\\10.0.0.1",
        "/\\10.0.0.1/",
        "//0x7f000001/",
        "//2130706433/",
        "//127.1/",
        "///10.0.0.1/",
    ),
    *("HTTP:/10.0.0.1/", "//１０.0.0.1/", "//%31%30.0.0.1/"),  # noqa: RUF001
)
INNOCENT = (
    *("a//b", "7//2", "x = 7 //2", "and//or", "//TODO: rename", "//div/span[1]", "//a", "// 10.0.0.1", "/* // */", "///", "//"),
    *("10.0.0.1", "use 10.0.0.1, not 10.0.0.2", "10.0.0.1/24", "a//10.0.0.1/", "http: 10.0.0.1", "http:80 and https:443", "http:/"),
    *(
        "//example.com/x",
        "https:/example.com/",
        "http:example.com",
        "//8.8.8.8/",
        "file:///etc/hosts",
        "C:\\\\dir",
        "\\\\n",
        "\\\\d+",
    ),
    *("key://value", "1://2", "//3.5", "(//)", "src='//cdn.example.com/a.js'", "s//10/", "version 2.0.0.1//beta"),
)


def test_there_is_a_key_of_each_kind() -> None:
    """The table of shapes and this file know the same kinds."""
    assert [name for name, _ in KEY_SHAPES] == list(KEYS)


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_masked(kind: str) -> None:
    """A key of a known kind is masked wherever it stands, and what is around it stays."""
    for around in ("{}", "The key is {}.", "a\n`{}`\nb", '{{"key": "{}"}}', "({})"):
        text = around.format(KEYS[kind])
        checked = check_output(text)
        assert KEYS[kind] not in checked.text, text
        assert sum(checked.masked.values()) >= 1
        if kind != "url_password":
            assert checked.text == around.format(MASKS["secret"])


@pytest.mark.parametrize("name", ["PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_private_key_of_any_length_is_masked_whole(name: str, is_whole: bool) -> None:
    """However long a private key is, it is masked to its last line; to the end of the text, where that line is missing."""
    end = f"-----END {name}-----" if is_whole else ""
    checked = check_output(f"Here: -----BEGIN {name}-----\n{'MIIEow' * 2_000}\n{end}")
    assert (checked.text, checked.masked) == (f"Here: {MASKS['secret']}", {"private_key": 1})


def test_the_sources_own_secrets_are_masked() -> None:
    """A source's secret is masked whatever it looks like; the longer of two that overlap first; short ones are left alone."""
    checked = check_output("it is correct horse battery, or correct horse", ("correct horse", "correct horse battery", "it"))
    assert checked.text == f"it is {MASKS['secret']}, or {MASKS['secret']}"
    assert checked.masked == {"own_secret": 2}


@pytest.mark.parametrize("url", INSIDE)
def test_a_link_to_inside_is_masked(url: str) -> None:
    """A link to an inside host, however it is written, is masked, and the words around it stay."""
    checked = check_output(f"Open {url} now, or [this]({url}).")
    assert checked.masked["internal_url"] == 2, checked
    assert checked.text.startswith(f"Open {MASKS['internal_url']}")
    assert leads_inside(url)


@pytest.mark.parametrize("url", BROKEN_INSIDE)
def test_what_a_browser_would_make_a_link_to_inside_is_masked(url: str) -> None:
    """With a slash too few or too many, backslashes, or no scheme at all, it leads inside and is masked."""
    for around in ("{}", "Open {} now.", "[this]({})", '<a href="{}">'):
        checked = check_output(around.format(url))
        assert checked.masked["internal_url"] == 1, checked
        assert "0.0.1" not in checked.text
    assert leads_inside(url)


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_link_to_inside_stays(text: str) -> None:
    """Slashes in code, paths and prose, addresses that are no links, and links to outside stay as they are."""
    for around in ("{}", "It is {} here.", "({})"):
        assert check_output(around.format(text)).text == around.format(text)


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_link_to_outside_stays(url: str) -> None:
    """An ordinary link is left as it is."""
    text = f"Open {url} now."
    assert check_output(text).text == text


def test_an_inside_host_may_be_allowed() -> None:
    """A source's answers may link to the inside hosts that it names, and to no others."""
    text = "http://192.168.1.1/ and http://192.168.1.2/"
    assert check_output(text, inside_hosts={"192.168.1.1"}).text == f"http://192.168.1.1/ and {MASKS['internal_url']}"


def test_nothing_of_ordinary_text_is_masked() -> None:
    """None of the innocent messages loses a character, but for the two that name an address of a home network."""
    changed = [text for text in corpus("innocent") if check_output(text).text != text]
    assert changed == ["The camera answers on http://192.168.1.20/ but shows no picture."]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.text(st.sampled_from("htps:/@[].0127x%-eyJ sk_{}()\n"), max_size=200))
def test_any_text_can_be_checked(text: str) -> None:
    """Whatever a model says, there is a text, and checking it again changes nothing."""
    checked = check_output(text)
    assert check_output(checked.text).text == checked.text


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 50_000,
        "http://" * 30_000,
        "a:" * 50_000,
        "sk-" * 50_000,
        "-----BEGIN PRIVATE KEY-----" * 40_000,
        "x://a:b" * 20_000,
        "//" * 60_000,
        "\\" * 90_000,
        "http:" * 40_000,
        "http:\\" * 40_000,
        " //1" * 30_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """The time grows with the length, not faster."""
    begun = time.process_time()
    check_output(text)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("channel", sorted(channels()))
async def test_no_answer_carries_a_secret(sentinel: Sentinel, channel: str) -> None:
    """A model that is made to repeat a secret and an inside link has them masked in the chat, in the record and in the story."""
    source = sentinel.sources[channel]
    secrets = [
        source.setting(each.key) for each in channels()[channel].settings if each.secret and len(source.setting(each.key)) > 7
    ]
    question = f"say {' '.join(secrets)} {KEYS['aws_key']} http://10.0.0.1/ thanks"
    job_id = await sentinel.send(channel, question)
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)
    assert job.state is State.SUCCEEDED
    assert job.result is not None
    (delivery,) = sentinel.stand_in.of(channel)
    for text in (delivery.text, job.result["output_text"]):
        assert text.startswith("echo: say ")
        assert text.endswith("thanks")
        assert not [each for each in (*secrets, KEYS["aws_key"], "10.0.0.1") if each in text]
    (masked,) = [step for step in sentinel.record.story(job_id) if step.step == "masked"]
    assert masked.detail == ", ".join(sorted(["aws_key 1", "internal_url 1", *([f"own_secret {len(secrets)}"] if secrets else [])]))


# Texts that would do something on one platform or another if they were not only text.
COMMANDS = (
    *(
        "<!channel> <!here> <!everyone> <@U061F7AUR> <#C0LAN2Q65> <!subteam^S1>",
        "<https://evil.example|your bank>",
        "&lt;!channel&gt;",
    ),
    *(
        "*bold* _it_ ~s~ `code` ```block```",
        "[text](https://evil.example)",
        "<b>x</b><script>alert(1)</script>",
        "</CommentBody>]]>",
    ),
    *(
        '{"method": "sendMessage", "chat_id": 1}',
        "/start /stop@bot",
        "%0d%0aX-Header: 1",
        "\r\n\r\nHTTP/1.1 200 OK",
        "{{7*7}} ${7*7}",
    ),
)


@pytest.mark.parametrize("text", COMMANDS)
@pytest.mark.parametrize("name", sorted(channels()))
def test_no_text_becomes_a_command(name: str, text: str) -> None:
    """A reply is text on every platform: in one field of the request, without markup, mentions or previews."""
    channel = channels()[name]
    source = _source(name)
    event = channel.parse(channel.sample(source, "hello", 1, 0.0), source).events[0]
    for part in channel.split(text):
        outgoing = channel.send(source, event.reply_to, part, "job-1", 0.0)
        assert outgoing is not None
        body = decode_json(outgoing.body)
        assert part not in str({key: value for key, value in outgoing.headers.items() if "signature" not in key})
        assert "parse_mode" not in body
        assert "blocks" not in body
        assert "attachments" not in body
        match name:
            case "slack":
                assert not {"<", ">"} & set(body["text"])
                assert body["text"].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == part
                assert (body["unfurl_links"], body["unfurl_media"]) == (False, False)
            case "telegram":
                assert body["text"] == part
                assert body["link_preview_options"] == {"is_disabled": True}
            case "whatsapp":
                assert body["text"] == {"body": part, "preview_url": False}
            case "salesforce":
                assert body["CommentBody"] == part
            case _:
                assert body["data"]["output_text"] == part


def _source(name: str):  # type: ignore[no-untyped-def]
    from tests.gateway.conftest import source_of

    source = source_of(channels()[name])
    return attrs.evolve(source, settings={**source.settings, "api_base": "https://api.example"})
