"""Chooses tokens with llama.cpp's samplers, and within a grammar where an answer must be JSON. It must not compute or schedule.

A grammar asked about the whole vocabulary takes longer than the model does. So the token is chosen first and then looked up; only
if the grammar refuses it are the likeliest others looked up, then more of them, and only if it refuses those too, all.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as native
import numpy as np

from sentinel.errors import GenerationFailed
from worker.engine import Prompt

LIKELIEST_LOOKED_UP = (128, 4096)
PENALTY_TOKENS = 64
TOP_K = 40

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """Chooses the tokens of one answer. Temperature 0 takes the likeliest, and the seed means nothing."""

    def __init__(self, context: int, vocabulary: int, prompt: Prompt, grammar: str | None) -> None:
        """Raises GenerationFailed if the library cannot use the grammar."""
        self._context = context
        self._tokens = native.llama_vocab_n_tokens(vocabulary)
        self._end = native.llama_vocab_eos(vocabulary)
        self._grammar = _open_grammar(vocabulary, grammar) if grammar else None
        self._chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for link in _links(prompt, self._tokens, is_free=grammar is None):
            native.llama_sampler_chain_add(self._chain, link)  # the chain owns its links

    def choose(self, row: int) -> int:
        """The next token, from a `row` of the last decode that was asked for one."""
        token = int(native.llama_sampler_sample(self._chain, self._context, row))
        if self._grammar is None:
            return token
        if not self._is_allowed(token):
            token = self._choose_allowed(row)
        return token

    def close(self) -> None:
        """Frees the sampler; before its context."""
        native.llama_sampler_free(self._chain)
        if self._grammar is not None:
            native.llama_sampler_free(self._grammar)

    def _is_allowed(self, token: int) -> bool:
        candidates = _Candidates(1)
        candidates.view[0] = (token, 1.0, 0.0)
        native.llama_sampler_apply(self._grammar, candidates.reference)
        return self._accepted(token) if candidates.view[0]["logit"] > -np.inf else False

    def _choose_allowed(self, row: int) -> int:
        """The chain's choice among the likeliest that the grammar allows; if it allows nothing, the end."""
        logits = np.ctypeslib.as_array(native.llama_get_logits_ith(self._context, row), (self._tokens,))
        for count in (*LIKELIEST_LOOKED_UP, self._tokens):
            tokens = np.argpartition(logits, -count)[-count:] if count < self._tokens else np.arange(self._tokens)
            candidates = _Candidates(len(tokens))
            candidates.view["id"], candidates.view["logit"] = tokens, logits[tokens]
            native.llama_sampler_apply(self._grammar, candidates.reference)
            if (token := self._choose_among(candidates.view[candidates.view["logit"] > -np.inf])) is not None:
                return token
        return int(self._end)

    def _choose_among(self, allowed: Any) -> int | None:
        if not len(allowed):
            return None
        candidates = _Candidates(len(allowed))
        candidates.view[:] = allowed
        native.llama_sampler_apply(self._chain, candidates.reference)
        chosen = int(candidates.array.data[candidates.array.selected].id)
        self._accepted(chosen)
        return chosen

    def _accepted(self, token: int) -> bool:
        # A token that the grammar does not allow would end the process here: only what was looked up comes to this.
        native.llama_sampler_accept(self._grammar, token)
        return True


class _Candidates:
    """An array of candidates as the library takes it, and a view of it for numpy."""

    def __init__(self, count: int) -> None:
        self.view = np.zeros(count, _CANDIDATE)
        data = self.view.ctypes.data_as(native.llama_token_data_p)
        self.array = native.llama_token_data_array(data, count, -1, False)
        self.reference = ctypes.byref(self.array)


def _open_grammar(vocabulary: int, grammar: str) -> object:
    opened = native.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not opened:
        raise GenerationFailed("The JSON Schema cannot be used: the model's library does not take its grammar.")
    return opened


def _links(prompt: Prompt, tokens: int, *, is_free: bool) -> list[object]:
    if prompt.temperature == 0:
        return [native.llama_sampler_init_greedy()]
    # Punctuation comes again and again in JSON; to make it less likely would only lead to more that the grammar refuses.
    penalties = [native.llama_sampler_init_penalties(tokens, PENALTY_TOKENS, prompt.repeat_penalty, 0.0, 0.0)] if is_free else []
    return [
        # First, because the penalties then look at 40 tokens and not at the whole vocabulary: a third of the time.
        native.llama_sampler_init_top_k(TOP_K),
        *penalties,
        native.llama_sampler_init_top_p(prompt.top_p, 1),
        native.llama_sampler_init_min_p(prompt.min_p, 1),
        native.llama_sampler_init_temp(prompt.temperature),
        native.llama_sampler_init_dist(prompt.seed % 2**32),
    ]
