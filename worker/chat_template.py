"""Writes chat messages the way one model was taught to read them. What people wrote never passes through the template.

A message can hold "<|im_end|>", the mark by which this very model ends a turn. To keep it from ending one, the template is
rendered with a placeholder for each message's content, and its output is cut at the placeholders: the pieces between them
are the template's own and may hold special tokens; the contents, put back in place, are plain text and may not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
from jinja2 import Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.errors import GenerationFailed, ModelUnavailable
from worker.engine import Message

ROLES = ("system", "user", "assistant", "tool")
MESSAGES_MAX = 1000
TEMPLATE_CHARACTERS_MAX = 256_000
RENDERED_CHARACTERS_MAX = 1_000_000
RENDER_SECONDS_MAX = 1.0  # of the processor; a template takes a thousandth of it
MADE_MAX = 1_000_000  # characters, items, or bits of a number, by one operator

# Letters and digits only: templates strip, quote and upper-case what they are given, and this survives it all.
_PLACEHOLDER = re.compile(r"PLACE0OF0CONTENT0(\d+)0END")
# A template is a program by strangers; these are what a wrong or a hostile one raises inside the sandbox.
_TEMPLATE_FAULTS = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError),
    *(AssertionError, SyntaxError),  # by Jinja itself, of what it cannot compile
)


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

    _sandbox: _Sandbox
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
        sandbox = _Sandbox()
        try:
            return cls(sandbox, sandbox.read(source), bos, eos)
        except _TEMPLATE_FAULTS as error:
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
        self._sandbox.begin()
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


class _Sandbox(ImmutableSandboxedEnvironment):
    """
    What a template can reach, and for how long: it is a program, and may be written so that it never ends.

    Its memory is not bounded: one that takes all of it ends the process, as a model that is too large does.
    """

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        # Nothing is computed ahead, while it is compiled: that has no bound.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=["jinja2.ext.loopcontrols"])
        self.globals["raise_exception"] = _refuse
        self.filters["in_time"] = self._in_time
        self._deadline = 0.0

    def read(self, source: str) -> Template:
        """The template, each of whose loops looks at the time."""
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "in_time", [], [], None, None, lineno=loop.lineno)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def begin(self) -> None:
        """The time runs from here. By the processor's clock, so that nobody pays for what others do on the machine."""
        self._deadline = time.thread_time() + RENDER_SECONDS_MAX

    def call(self, *arguments: Any, **named: Any) -> Any:
        """Every call of a template, of its own macros too."""
        self._check_time()
        return super().call(*arguments, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The operators that make much of little, which takes long; nothing can end them before they are done."""
        if _made(operator, left, right) > MADE_MAX:
            raise TemplateError("it makes too much at once")
        return super().call_binop(context, operator, left, right)

    def _in_time(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._check_time()
            yield value

    def _check_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateError("it does not come to an end")


def _made(operator: str, left: Any, right: Any) -> int:
    """How many characters, items or bits come of it, at most."""
    lengths = [len(side) for side in (left, right) if hasattr(side, "__len__")]
    numbers = [side for side in (left, right) if isinstance(side, int)]
    if lengths:
        return lengths[0] * max(numbers, default=0)
    if operator == "**" and len(numbers) == 2:
        return numbers[0].bit_length() * numbers[1]
    return sum(number.bit_length() for number in numbers)


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
