"""Writes chat messages the way one model was taught to read them. What people wrote never passes through the template.

A message can hold "<|im_end|>", the mark by which this very model ends a turn. To keep it from ending one, the template is
rendered with a placeholder for each message's content, and its output is cut at the placeholders: the pieces between them
are the template's own and may hold special tokens; the contents, put back in place, are plain text and may not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.errors import GenerationFailed, ModelUnavailable
from worker.engine import Message

ROLES = ("system", "user", "assistant", "tool")
MESSAGES_MAX = 1000
TEMPLATE_CHARACTERS_MAX = 256_000
RENDERED_CHARACTERS_MAX = 1_000_000

# Letters and digits only: templates strip, quote and upper-case what they are given, and this survives it all.
_PLACEHOLDER = re.compile(r"PLACE0OF0CONTENT0(\d+)0END")
# A template is a program by strangers; these are what a wrong or a hostile one raises inside the sandbox.
_TEMPLATE_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@attrs.frozen
class Part:
    """
    A stretch of the prompt. Only a `trusted` one, from the template itself, may hold special tokens.

    `is_head` is what comes before the first message that is not the system's: many prompts begin with the same.
    """

    text: str = attrs.field(repr=False)
    trusted: bool
    is_head: bool = False


@attrs.frozen
class ChatTemplate:
    """One model's template, compiled, with its marks for the begin and end of a text."""

    _template: Template
    _bos: str
    _eos: str

    @classmethod
    def compile(cls, source: str | None, bos: str, eos: str) -> ChatTemplate:
        """
        The template that `source` describes, a Jinja program out of a model file.

        Raises:
            ModelUnavailable: there is none, as in a base model, or it cannot be compiled.
        """
        if not source:
            raise ModelUnavailable("The model has no chat template: it is a base model. Use its instruct (or chat) variant.")
        if len(source) > TEMPLATE_CHARACTERS_MAX:
            raise ModelUnavailable(f"The model's chat template is longer than {TEMPLATE_CHARACTERS_MAX} characters.")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = _refuse
        try:
            return cls(environment.from_string(source), bos, eos)
        except TemplateError as error:
            raise ModelUnavailable(f"The model's chat template cannot be read: {error}") from error

    def parts(self, messages: Sequence[Message]) -> tuple[Part, ...]:
        """
        The prompt that asks the model for its next message after `messages`.

        Raises:
            GenerationFailed: a message has another role than these four or no text, there are none or too many, or the
                template does not take them in this order.
        """
        contents = [_checked_content(message) for message in _checked(messages)]
        rendered = self._render([str(message["role"]) for message in messages], contents)
        pieces = _PLACEHOLDER.split(rendered)  # text, number, text, number, ..., text
        if contents[-1] and str(len(contents) - 1) not in pieces[1::2]:
            raise GenerationFailed("The model's chat template leaves out the last message.")
        # Where the first message of somebody else is put; templates may put system messages elsewhere than first.
        others = {str(number) for number, message in enumerate(messages) if message["role"] != "system"}
        head = next((position for position, piece in enumerate(pieces) if position % 2 and piece in others), 0)
        return tuple(_place(position, piece, contents, position < head) for position, piece in enumerate(pieces) if piece)

    def _render(self, roles: list[str], contents: list[str]) -> str:
        messages = [
            # An empty content stays empty: templates ask whether there is one.
            {"role": role, "content": f"PLACE0OF0CONTENT0{number}0END" if content else ""}
            for number, (role, content) in enumerate(zip(roles, contents, strict=True))
        ]
        size = 0
        rendered = []
        try:
            stream = self._template.generate(
                messages=messages, add_generation_prompt=True, bos_token=self._bos, eos_token=self._eos
            )
            for text in stream:
                size += len(text)
                if size > RENDERED_CHARACTERS_MAX:
                    raise GenerationFailed("The model's chat template writes without end.")
                rendered.append(text)
        except _TEMPLATE_FAULTS as error:
            # The text of the error cannot repeat what was asked: the template saw placeholders.
            raise GenerationFailed(f"The model's chat template does not take these messages: {error}") from error
        return "".join(rendered)


def _checked(messages: Sequence[Message]) -> Sequence[Message]:
    if not 0 < len(messages) <= MESSAGES_MAX:
        raise GenerationFailed(f"A prompt has from 1 to {MESSAGES_MAX} messages; this one has {len(messages)}.")
    # A role is written by the template as it is, so a free one could forge a turn just as a content could.
    if any(message.get("role") not in ROLES for message in messages):
        raise GenerationFailed(f"The role of a message is one of {', '.join(ROLES)}.")
    return messages


def _checked_content(message: Message) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise GenerationFailed("The content of a message is text.")
    return content


def _place(position: int, piece: str, contents: list[str], is_head: bool) -> Part:
    is_number = position % 2 == 1
    return Part(contents[int(piece)], False, is_head) if is_number else Part(piece, True, is_head)


def _refuse(message: str) -> None:
    """What templates call to say that they do not take the messages."""
    raise TemplateError(message)
