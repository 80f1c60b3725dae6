"""Signs that a message was written to steer the model or to lure a reader: a score from 0 to 1 and the reasons. Pure.

It only marks. Phrases are weak evidence: honest people quote them, and whoever knows the list writes around it. So a job is run as
ever unless its source asks for more: `screening_hold_above` keeps it for a person, `screening_drop_above` ends it unanswered.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum

import attrs

from sentinel.errors import BadInput

SCREENED_CHARACTERS_MAX = 65_536
FOLDED_AT_A_TIME = 256  # putting combining marks in order takes a time that grows with the square of how many follow each other
INVISIBLE_MIN = 4  # fewer zero-width characters are what phones and word processors leave behind


@attrs.frozen(eq=False)
class Rule:
    """
    One sign. `words`: without one of them the pattern cannot match; looking for them first makes an ordinary message cheap.

    The pattern sees the text folded: compatibility forms and case are one, and nothing invisible is in it.
    """

    reason: str
    weight: float
    words: tuple[str, ...]
    pattern: re.Pattern[str]


def _rule(reason: str, weight: float, words: str, pattern: str) -> Rule:
    return Rule(reason, weight, tuple(words.split(" | ")), re.compile(pattern))


# Every repetition is bounded, so that no text takes a time that grows faster than its length.
RULES: tuple[Rule, ...] = (
    # the model is told to leave its instructions
    _rule(
        "ignore_instructions",
        0.7,
        "instruct | rules | prompt | guideline | directive | you were told | training",
        r"\b(?:ignore|disregard|forget|override|bypass|skip|drop)\b[^.!?\n]{0,40}"
        r"\b(?:previous|prior|above|earlier|preceding|foregoing|existing|initial|original|your|system|all)\b[^.!?\n]{0,30}"
        r"\b(?:instruct\w{0,6}|rules?|prompts?|guidelines?|directives?|training|you were told)",
    ),
    _rule(
        "ignore_instructions",
        0.7,
        "anweisung | instruccion | instruction | istruzioni | instruções | instrucoes",
        r"\b(?:ignorier\w{0,3}|vergiss|missachte|ignora|olvida|oublie[zs]?|ignore[zs]?|dimentica|esqueça)\b[^.!?\n]{0,40}"
        r"\b(?:anweisung|instruccion|instruction|istruzion|instruç|instruco)",
    ),
    _rule("new_instructions", 0.4, "instruct", r"\b(?:new|updated|real|actual) (?:system )?instructions?\b ?(?::|are|follow)"),
    # it is asked for what it was told in confidence
    _rule(
        "reveal_prompt",
        0.6,
        "prompt | instruct | told",
        r"\b(?:reveal|show|print|repeat|output|display|leak|dump|recite|tell me)\b[^.!?\n]{0,40}"
        r"\b(?:system|initial|hidden|secret|original|developer|your) (?:prompt|instruct\w{0,6}|message)",
    ),
    _rule(
        "reveal_prompt",
        0.6,
        "above | verbatim | word for word",
        r"\b(?:repeat|print|output|copy)\b[^.!?\n]{0,30}\b(?:everything|all|text|words)\b[^.!?\n]{0,20}\babove\b",
    ),
    _rule(
        "secrets_wanted",
        0.5,
        "api key | password | secret | token | credential | environment variable | .env",
        r"\b(?:reveal|show|print|output|display|leak|dump|give me|send me|tell me)\b[^.!?\n]{0,30}"
        r"\b(?:your|the system'?s?|the server'?s?)\b"
        r"[^.!?\n]{0,20}(?:api keys?|passwords?|secrets?|tokens?|credentials?|environment variables?|\.env\b)",
    ),
    # it is made to play somebody without rules
    _rule(
        "jailbreak",
        0.7,
        "do anything now | jailbreak | god mode | dan mode | unfiltered | uncensored",
        r"\bdo anything now\b|\b(?:god|dan|jailbreak) mode\b|\b(?:unfiltered|uncensored) (?:ai|assistant|model|mode|bot)\b",
    ),
    _rule("jailbreak", 0.3, "developer mode", r"\b(?:enable|enter|activate|in|switch to) developer mode\b"),
    _rule(
        "jailbreak",
        0.5,
        "restriction | filter | guideline | limits | censorship | ethic | polic",
        r"\b(?:without|no|free of|not bound by|ignore) (?:any |all |your )?(?:moral |ethical |content |safety )?"
        r"(?:restrictions?|filters?|guidelines|limits|censorship|ethics|policies)\b",
    ),
    _rule(
        "role_change",
        0.4,
        "you are now | from now on | act as | pretend | roleplay",
        r"\b(?:you are now|from now on,? you|act as (?:if you|an? (?:unrestricted|evil|hacker|admin))|"
        r"pretend (?:to be|that you|you are)|roleplay as)\b",
    ),
    _rule(
        "authority_claimed",
        0.4,
        "developer | creator | administrator | openai | anthropic | system override | root access | debug mode",
        r"\b(?:i am|this is|as) (?:your|the) (?:developer|creator|administrator|system administrator)\b|\bsystem override\b|"
        r"\b(?:enable|enter) (?:debug|admin|maintenance) mode\b|"
        r"\b(?:openai|anthropic) (?:staff|employee|support|has authori[sz]ed)",
    ),
    # a turn of the conversation, or a call of a tool, is forged
    _rule(
        "forged_turn",
        0.8,
        "<|im_ | <|start | <|end | <|system | <|user | <|assistant | <|eot | [inst] | [/inst] | <<sys>> | </s> | <start_of_turn>",
        r"<\|(?:im_start|im_end|start_header_id|end_header_id|endoftext|eot_id|system|user|assistant)\|>|\[/?inst\]|<<sys>>|"
        r"<start_of_turn>|</s>",
    ),
    _rule(
        "forged_turn",
        0.4,
        "system: | system] | system* | system message | system prompt | assistant: | assistant] | assistant*",
        r"(?:^|\n)\s{0,8}#{0,4} ?(?:\[|\*\*)?(?:system|assistant)(?: (?:message|prompt|note))?"
        r"(?:\]|\*\*)?\s?:",
    ),
    _rule(
        "forged_tool_call",
        0.7,
        "tool_call | function_call | tool_use | <invoke",
        r"</?tool_(?:call|use|response)s?>|[\"']function_call[\"']\s?:|"
        r"<(?:invoke|function_calls?)\b",
    ),
    # what the model says is to leave by another way
    _rule(
        "exfiltration",
        0.6,
        "://",
        r"\b(?:send|post|upload|forward|exfiltrate|transmit|append|embed)\b[^\n]{0,60}"
        r"\b(?:it|them|chat|conversations?|history|e-?mails?|messages?|passwords?|data|everything)\b[^\n]{0,40}\bto https?://",
    ),
    _rule("exfiltration", 0.3, "://", r"\b(?:send|post|upload|forward|exfiltrate|transmit|append|embed)\b[^\n]{0,80}\bhttps?://"),
    _rule("link_with_data", 0.6, "](http", r"!\[[^\]\n]{0,200}\]\(https?://[^)\s]{1,500}[?=]"),
    _rule("encoded", 0.4, "base64 | rot13 | hex", r"\b(?:decode|decrypt|from|in) (?:this |the )?(?:base ?64|rot13|hex)\b"),
    # links that do not say where they lead
    _rule(
        "link_to_address",
        0.5,
        "://",
        r"https?://(?:\d{1,3}(?:\.\d{1,3}){1,3}|\[[0-9a-f:.]{2,45}\]|0x[0-9a-f]{1,8}|\d{8,10})(?:[:/?\s]|$)",
    ),
    _rule("link_with_user", 0.6, "://", r"https?://[^\s/?#@]{1,200}@"),
    _rule("link_punycode", 0.3, "xn--", r"https?://[^\s/]{0,200}xn--"),
    _rule(
        "link_shortened",
        0.2,
        "bit.ly | tinyurl | t.co/ | goo.gl | is.gd | cutt.ly | rb.gy",
        r"\b(?:bit\.ly|tinyurl\.com|t\.co|goo\.gl|is\.gd|cutt\.ly|rb\.gy)/\w",
    ),
    _rule("link_script", 0.7, "javascript: | vbscript: | data:text", r"\b(?:javascript|vbscript):\s?\S|\bdata:text/html"),
)

_BY_WORD = tuple((word, rule) for rule in RULES for word in rule.words)
_COMMON = "mucldrhsnioate "  # the characters that ordinary messages are made of, the commonest last
_CORE_MIN = 3


def _core(word: str) -> str:
    """The end of the word from its rarest character on: at most places of a text nothing has to be compared."""
    begins = range(max(1, len(word) - _CORE_MIN + 1))
    return word[min(begins, key=lambda at: _COMMON.find(word[at])) :]


def _any_of(words: set[str]) -> str:
    """A pattern that finds any of the words, in one pass: what begins alike is compared once."""
    if "" in words:
        return ""
    ways = [re.escape(first) + _any_of({word[1:] for word in words if word[0] == first}) for first in sorted({w[0] for w in words})]
    return f"(?:{'|'.join(ways)})"


ANY_WORD = re.compile(_any_of({_core(word) for word, _ in _BY_WORD}))  # where it finds nothing, none of the words is
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f")  # England, Scotland, Wales: the one use of tag characters
_TAGS = re.compile("[\U000e0000-\U000e007f]")
_OVERRIDES = re.compile("[\u202d\u202e]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_PHRASES = re.compile("[\ufdfa\ufdfb]")  # one character each that would become 18 and 8; no sign has any of them
_ZERO_WIDTH = re.compile("[\u200b\u2060-\u2064\ufeff]")


@attrs.frozen
class Screening:
    """What was found: the higher the score, the more signs. A score of 0 means none."""

    score: float = 0.0
    reasons: tuple[str, ...] = ()


class Action(StrEnum):
    """What becomes of a job."""

    TAKE = "take"
    HOLD = "hold"
    DROP = "drop"


CLEAN = Screening()


def screen(text: str) -> Screening:
    """The signs in a message, of which only the first 65,536 characters are looked at."""
    raw = text[:SCREENED_CHARACTERS_MAX]
    folded = raw.lower() if raw.isascii() else _fold(raw)
    signs = _phrases(folded) if ANY_WORD.search(folded) is not None else []
    if not raw.isascii():
        signs += _hidden(raw)
    if not signs:
        return CLEAN
    doubt = 1.0
    for _, weight in signs:
        doubt *= 1 - weight
    return Screening(round(1 - doubt, 3), tuple(dict.fromkeys(reason for reason, _ in signs)))


def action(screening: Screening, settings: Mapping[str, str]) -> Action:
    """What a source wants done with a message that scored so; without thresholds of its own, it is taken whatever it scored."""
    if not screening.score:
        return Action.TAKE
    for key, wanted in (("screening_drop_above", Action.DROP), ("screening_hold_above", Action.HOLD)):
        if screening.score > threshold(settings, key):
            return wanted
    return Action.TAKE


def threshold(settings: Mapping[str, str], key: str) -> float:
    """The score of that setting; 1, which no message exceeds, if it is not set. Raises BadInput."""
    try:
        value = float(settings.get(key) or 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadInput(f"{key} must be a number from 0 to 1.")
    return value


def _fold(text: str) -> str:
    visible = _PHRASES.sub("", _INVISIBLE.sub("", text))
    pieces = [visible[at : at + FOLDED_AT_A_TIME] for at in range(0, len(visible), FOLDED_AT_A_TIME)]
    return "".join([unicodedata.normalize("NFKC", piece) for piece in pieces]).casefold()


def _phrases(folded: str) -> list[tuple[str, float]]:
    """Signs in the words. First those rules are found of which a word is there."""
    likely = dict.fromkeys([rule for word, rule in _BY_WORD if word in folded])
    return [(rule.reason, rule.weight) for rule in likely if rule.pattern.search(folded) is not None]


def _hidden(text: str) -> list[tuple[str, float]]:
    """Signs in what a reader does not see."""
    signs = []
    if _TAGS.search(_FLAG.sub("", text)):
        signs.append(("hidden_text", 0.8))
    if _OVERRIDES.search(text):
        signs.append(("reversed_text", 0.4))
    if len(_ZERO_WIDTH.findall(text)) >= INVISIBLE_MIN:
        signs.append(("invisible_characters", 0.3))
    return signs
