"""llama.cpp's low-level functions as a few small classes. Beside `llama_sampling.py` the only importer of `llama_cpp`.

One thread makes every call here: two in one context crash the process. It must not know what a job is.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import llama_cpp as native

from sentinel.errors import ModelUnavailable
from worker.chat_template import Part
from worker.engine import Options, Prompt
from worker.llama_heads import HEADS_MAX
from worker.llama_sampling import Sampler
from worker.llama_step import TOKENS_PER_STEP, TOKENS_PER_STEP_GPU, AbortFlag, Decoded, Share

_F16, _Q8_0, _Q4_0 = native.GGML_TYPE_F16, native.GGML_TYPE_Q8_0, native.GGML_TYPE_Q4_0
KV_TYPES = {"f16": (_F16, _F16), "q8_0": (_Q8_0, _Q8_0), "q4_0": (_Q4_0, _Q4_0)}  # of keys and of values
KV_TYPES_CPU = (_F16, _Q8_0)
FLASH_ATTENTION = {
    "auto": native.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": native.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": native.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
GPU_LAYERS_ALL = 999
DEFAULTS = Options()

_log_lines: deque[str] = deque(maxlen=20)


@native.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log(_level: int, text: bytes, _data: object) -> None:
    _log_lines.extend(text.decode("utf-8", "replace").splitlines())


def log_tail() -> str:
    """The last lines that the library logged and nobody saw, as one."""
    return " | ".join(line.strip() for line in list(_log_lines)[-4:] if line.strip(" ."))


class NativeError(Exception):
    """The library is in a state that only the end of the process repairs."""


class Model:
    """A loaded model file: its vocabulary and its facts."""

    def __init__(self, path: Path, gpu_layers: int | None = None) -> None:
        """
        `gpu_layers` of it are computed on a GPU; all, if None, where the library has one.

        Raises ModelUnavailable, with the library's reason, if the file cannot be loaded.
        """
        native.llama_log_set(_keep_log, ctypes.c_void_p(0))
        native.llama_backend_init()
        parameters = native.llama_model_default_params()
        self.gpu_layers = gpu_layers if gpu_layers is not None else GPU_LAYERS_ALL if native.llama_supports_gpu_offload() else 0
        parameters.n_gpu_layers = self.gpu_layers
        self.handle = native.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.handle:
            raise ModelUnavailable(f"The model file {path} is truncated, damaged or too large for the memory: {log_tail()}")
        if native.llama_model_has_encoder(self.handle) or not native.llama_model_has_decoder(self.handle):
            self.close()
            raise ModelUnavailable(f"The model {path} is an encoder and cannot write an answer.")
        self.vocabulary = native.llama_model_get_vocab(self.handle)
        self.context_trained: int = native.llama_model_n_ctx_train(self.handle)
        self.parameters: int = native.llama_model_n_params(self.handle)

    def close(self) -> None:
        """Frees the model; every context on it must be closed before."""
        native.llama_model_free(self.handle)

    @property
    def chat_template(self) -> str | None:
        """The Jinja program in the file; None in a base model."""
        source = native.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def bos_and_eos(self) -> tuple[str, str]:
        """How the marks for the begin and the end of a text are written; "" if there is none."""
        bos, eos = native.llama_vocab_bos(self.vocabulary), native.llama_vocab_eos(self.vocabulary)
        return self._written(bos), self._written(eos)

    def _written(self, token: int) -> str:
        return native.llama_vocab_get_text(self.vocabulary, token).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, parts: Sequence[Part]) -> list[int]:
        """The tokens of a prompt. Text that is not trusted yields no special token, whatever it spells."""
        tokens = [token for part in parts for token in self._tokens(part.text, special=part.trusted)]
        bos = native.llama_vocab_bos(self.vocabulary)
        if native.llama_vocab_get_add_bos(self.vocabulary) and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size_max = len(data) + 8
        tokens = (native.llama_token * size_max)()
        count = native.llama_tokenize(self.vocabulary, data, len(data), tokens, size_max, False, special)
        if count < 0:
            raise NativeError(f"llama_tokenize wants room for {-count} tokens for {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that `token` adds to the text; none for a special one."""
        size = 64
        while True:
            data = ctypes.create_string_buffer(size)
            count = native.llama_token_to_piece(self.vocabulary, token, data, size, 0, False)
            if count >= 0:
                return data.raw[:count]
            size = -count

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with `token`."""
        return bool(native.llama_vocab_is_eog(self.vocabulary, token))

    def is_special(self, token: int) -> bool:
        """Whether `token` steers the model and is no text."""
        return bool(native.llama_vocab_is_control(self.vocabulary, token))


class Context:
    """The memory of up to `slots` sequences, which share `cells` tokens of it, and the batch that feeds them."""

    def __init__(self, model: Model, slots: int, cells: int, abort: AbortFlag, options: Options = DEFAULTS) -> None:
        """
        `abort` stops a decode of this context.

        Raises ModelUnavailable if neither `cells` nor half of them fit in the memory of the machine.
        """
        self._model = model
        self.slots = slots
        self.tokens_per_step = TOKENS_PER_STEP_GPU if model.gpu_layers else TOKENS_PER_STEP
        kv_types = kv_types_to_try(options, model.gpu_layers)
        tries = (self._open(count, types, options) for count in (cells, cells // 2) for types in kv_types)
        handle = next(filter(None, tries), None)
        if not handle:
            raise ModelUnavailable(f"There is no memory for {cells // 2} tokens of context: {log_tail()}")
        self._handle = handle
        self.cells: int = native.llama_n_ctx(handle)
        self._memory = native.llama_get_memory(handle)
        self._tokens_max = native.llama_n_batch(handle)
        self._batch = native.llama_batch_init(self._tokens_max, 0, 1)
        self._abort = abort
        # The library asks after every node of its graph, hundreds of times a token. A callback in Python would take the
        # GIL each time; the C library's strlen reads the same byte without it: 0 is "go on", 1 is "stop".
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        native.llama_set_abort_callback(handle, native.ggml_abort_callback(strlen or 0), abort.address)

    def _open(self, cells: int, kv_types: tuple[int, int], options: Options) -> int | None:
        parameters = native.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_seq_max = min(self.slots + HEADS_MAX, native.llama_max_parallel_sequences())
        parameters.kv_unified = True  # one pool: a long sequence may use what short ones leave
        # An aborted decode loses its last micro-batch and keeps those before. With one in a batch it loses all or nothing.
        parameters.n_batch = parameters.n_ubatch = self.slots + self.tokens_per_step
        # Room for one row of logits per sequence and not per token: 21 MiB for 98 (more with a larger vocabulary). With less
        # than one for each sequence the library ends the process.
        parameters.n_outputs_max = parameters.n_seq_max
        parameters.n_threads = parameters.n_threads_batch = os.cpu_count() or 1
        parameters.type_k, parameters.type_v = kv_types
        parameters.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        return native.llama_init_from_model(self._model.handle, parameters) or None

    def close(self) -> None:
        """Frees the sequences; the model stays."""
        native.llama_batch_free(self._batch)
        native.llama_free(self._handle)

    def decode(self, shares: Sequence[Share]) -> tuple[Decoded, list[int]]:
        """
        Feeds `shares` to the model at once. Unless it is DONE, all of them are as if never fed.

        The list has, for each share, the row that a `Sampler` takes its next token from (meaningless if not answered).

        Raises:
            NativeError: the computation failed; neither this context nor its memory can be used again.
        """
        rows = self._fill_batch(shares)
        result = native.llama_decode(self._handle, self._batch)
        if result not in list(Decoded):
            raise NativeError(f"llama_decode failed with {result}: {log_tail()}")
        return Decoded(result), rows

    def _fill_batch(self, shares: Sequence[Share]) -> list[int]:
        batch, row, rows = self._batch, 0, []
        # The library ends the process, where it could refuse, for a batch that is longer.
        assert sum(len(share.tokens) for share in shares) <= self._tokens_max
        for share in shares:
            for position, token in enumerate(share.tokens, share.position):
                batch.token[row], batch.pos[row] = token, position
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, share.slot
                batch.logits[row] = 0
                row += 1
            batch.logits[row - 1] = share.is_answered
            rows.append(row - 1)
        batch.n_tokens = row
        return rows

    def use_threads(self, count: int) -> None:
        """How many threads compute from the next decode on."""
        native.llama_set_n_threads(self._handle, count, count)

    def forget(self, slot: int) -> None:
        """Empties the sequence `slot`."""
        native.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy(self, source: int, slot: int, count: int) -> None:
        """Begins the sequence `slot` with the first `count` tokens of `source`. It shares their cells; nothing is computed."""
        native.llama_memory_seq_cp(self._memory, source, slot, 0, count)

    def open_sampler(self, prompt: Prompt, grammar: str | None) -> Sampler:
        """A sampler for one generation; the caller closes it. Raises GenerationFailed if the library cannot use the grammar."""
        return Sampler(self._handle, self._model.vocabulary, prompt, grammar)


def kv_types_to_try(options: Options, gpu_layers: int) -> list[tuple[int, int]]:
    """
    In which types keys and values may be kept, the best first.

    On a CPU the library's flash attention goes another way where both are floats, on which 50 chats with one system prompt took 1.6
    times as long. Without flash attention they are as quick, but an answer would depend on what is answered beside it. Not every
    model's values come in the blocks that q8_0 takes.
    """
    if options.kv_type != "auto":
        return [KV_TYPES[options.kv_type]]
    plain = KV_TYPES["f16"]
    return [plain] if gpu_layers or options.flash_attention == "off" else [KV_TYPES_CPU, plain]


def slots_advised() -> int:
    """How many sequences pay on this machine: few on a CPU, whose cores one sequence nearly fills."""
    return 8 if native.llama_supports_gpu_offload() else 4
