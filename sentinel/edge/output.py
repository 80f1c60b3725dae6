"""What a model's answer must not carry to anybody: secrets, keys, and links to inside. Found by fixed rules, and masked. Pure.

Unlike the signs of `screening`, these rules are exact: a model can be talked into saying anything, but not past them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from urllib.parse import unquote

import attrs

from sentinel.edge.addresses import is_public
from sentinel.edge.urls import parse_url

SECRET_CHARACTERS_MIN = 8  # a shorter secret would be found in words that have nothing to do with it
MASKS = {"secret": "[secret removed]", "internal_url": "[internal address removed]"}

_PRIVATE_KEY = r"(?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?"

# Keys that say themselves what they are: name, and what they look like. Each is long and random, so that no prose matches.
KEY_SHAPES: tuple[tuple[str, str], ...] = (
    ("sentinel_key", r"\bsnt_[0-9A-Za-z]{40,60}"),
    ("webhook_secret", r"\bwhsec_[0-9A-Za-z+/]{24,90}={0,2}"),
    ("aws_key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("github_token", r"\b(?:gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{60,255})"),
    ("gitlab_token", r"\bglpat-[0-9A-Za-z_-]{20,64}"),
    ("slack_token", r"\bxox[abeoprs]-[0-9A-Za-z-]{20,255}|\bxapp-[0-9A-Za-z-]{20,255}"),
    ("slack_webhook", r"https://hooks\.slack\.com/(?:services|commands|workflows)/[0-9A-Za-z/_-]{20,200}"),
    ("telegram_token", r"\b[0-9]{8,10}:[0-9A-Za-z_-]{35}\b"),
    ("meta_token", r"\bEAA[0-9A-Za-z]{60,400}"),
    ("model_key", r"\bsk-(?:ant-|proj-|or-v1-)?[0-9A-Za-z_-]{32,255}"),
    ("stripe_key", r"\b(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{20,255}"),
    ("google_key", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("sendgrid_key", r"\bSG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{30,60}"),
    ("npm_token", r"\bnpm_[0-9A-Za-z]{36}"),
    ("salesforce_session", r"\b00D[0-9A-Za-z]{12,15}![0-9A-Za-z._]{40,254}[0-9A-Za-z_]"),
    ("jwt", r"\beyJ[0-9A-Za-z_-]{10,2000}\.eyJ[0-9A-Za-z_-]{10,4000}\.[0-9A-Za-z_-]{10,1000}"),
    ("private_key", rf"-----BEGIN {_PRIVATE_KEY}-----[\s\S]*?(?:-----END {_PRIVATE_KEY}-----|\Z)"),
    ("url_password", r"\b[a-z][a-z0-9+]{2,20}://[^\s/:@]{1,100}:[^\s/@]{1,200}@"),
)
_SHAPES = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in KEY_SHAPES))

# Browsers take one slash, a backslash, or none before an address for two; and without a scheme, that of the page.
_BEGIN = r"(?P<scheme>\b(?:https?|ftp|wss?):)(?:[/\\]+|(?=[0-9]+\.[0-9]+\.[0-9]+\.[0-9]|\[))|(?<![:\w/\\])[/\\]{2,}"
_URLS = re.compile(rf"""(?:{_BEGIN})(?P<rest>[^\s<>"'`|\\^{{}}]{{1,2000}})""", re.IGNORECASE)
_SIGNS = ("//", ":/", "\\", "http:", "https:")
_LONG_NUMBER = re.compile(r"0x|127\.|[0-9.]{8}", re.IGNORECASE)
_INSIDE_NAMES = re.compile(
    r"(?:.*\.)?(?:localhost|local|internal|intranet|lan|corp|home|localdomain|svc|consul|"
    r"home\.arpa|cluster\.local)|[^.:]+",
    re.IGNORECASE,
)


@attrs.frozen
class Checked:
    """The text as it may go out, and what was masked in it: how often, by kind."""

    text: str
    masked: Counter[str] = attrs.field(factory=Counter)


def check_output(text: str, secrets: Iterable[str] = (), inside_hosts: Collection[str] = ()) -> Checked:
    """
    The answer with secrets, known kinds of keys and links to inside masked.

    `secrets` are those of its own source; `inside_hosts` are hosts that it may link to although they are inside.
    """
    masked: Counter[str] = Counter()
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_CHARACTERS_MIN and secret in text:
            masked["own_secret"] += text.count(secret)
            text = text.replace(secret, MASKS["secret"])

    def mask_key(found: re.Match[str]) -> str:
        masked[str(found.lastgroup)] += 1
        return MASKS["secret"]

    def mask_url(found: re.Match[str]) -> str:
        if not _leads_inside(found, inside_hosts):
            return found[0]
        masked["internal_url"] += 1
        return MASKS["internal_url"]

    if any(sign in text for sign in _SIGNS):
        text = _URLS.sub(mask_url, text)
    return Checked(_SHAPES.sub(mask_key, text), masked)


def leads_inside(url: str, allowed: Collection[str] = ()) -> bool:
    """Whether the host of a link is one of an inside network, by its name or its number, and not allowed; nothing is looked up."""
    found = _URLS.match(url)
    return found is not None and _leads_inside(found, allowed)


def _leads_inside(found: re.Match[str], allowed: Collection[str]) -> bool:
    """Without a scheme it may be no link at all (`//TODO`, `//div`, `//2`): then only what can hardly be anything else counts."""
    host_and_port = _as_browsers_read(re.split(r"[/?#]", found["rest"], maxsplit=1)[0].rpartition("@")[2])
    target = parse_url("http://" + host_and_port)
    if target is not None and target.host in allowed:
        return False
    if target is None:
        return _is_odd_number(host_and_port) and (found["scheme"] is not None or _LONG_NUMBER.match(host_and_port) is not None)
    if ":" in target.host or re.fullmatch(r"[0-9.]+", target.host):
        return not is_public(target.host)
    is_name = found["scheme"] is not None or "." in target.host or target.host == "localhost"
    return is_name and _INSIDE_NAMES.fullmatch(target.host) is not None


def _as_browsers_read(host_and_port: str) -> str:
    """The host in plain letters and digits: full-width and circled ones, and the other dots, mean the same (UTS 46); no zone."""
    plain = unicodedata.normalize("NFKC", unquote(host_and_port)).replace("\u3002", ".")
    return re.sub(r"[\x00-\x20].*|%[^\]]*", "", plain).rstrip(".,;:!)")


def _is_odd_number(host_and_port: str) -> bool:
    """Whether it is an address that is not written as one (`127.1`, `0x7f000001`): nobody links to a public one like that."""
    host = host_and_port.partition(":")[0]
    return re.fullmatch(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}\.?", host, re.IGNORECASE) is not None
