"""llama.cpp as a benchmark peer: runs under an interpreter that has llama-cpp-python, speaks JSON lines.

One request a line on stdin, one answer a line on stdout. Stand-alone on purpose: its environment holds llama-cpp-python and
numpy, not Deepwell. Everything timed here is llama.cpp's own C API; the greedy choice is one argmax a sequence, cheaper than
llama.cpp's samplers.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from typing import Any

import llama_cpp as ll
import numpy as np

PREFILL_ROWS = 512  # n_batch and n_ubatch


class Peer:
    """One loaded model and its context."""

    def __init__(self) -> None:
        self.model: Any = None
        self.ctx: Any = None
        self.batch: Any = None
        self.n_vocab = 0

    def info(self) -> dict[str, Any]:
        """Returns the version and the system-info line."""
        return {"version": ll.__version__, "system_info": ll.llama_print_system_info().decode().strip()}

    def quantize(self, source: str, target: str, ftype: str) -> dict[str, Any]:
        """Writes `target` in the format `ftype` ("Q8_0") from the donor `source`."""
        params = ll.llama_model_quantize_default_params()
        params.ftype = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{ftype}")
        params.allow_requantize = True
        params.nthread = 2
        if status := ll.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
            raise RuntimeError(f"llama_model_quantize returned {status}")
        return {}

    def load(self, path: str) -> dict[str, Any]:
        """Loads a GGUF file; returns the bytes of its tensors."""
        params = ll.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.n_vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        return {"bytes": ll.llama_model_size(self.model), "description": self._description()}

    def _description(self) -> str:
        buffer = ctypes.create_string_buffer(128)
        ll.llama_model_desc(self.model, buffer, len(buffer))
        return buffer.value.decode()

    def open(
        self, threads: int, flash: bool, context: int, sequences: int, full_cache: bool = False
    ) -> dict[str, Any]:
        """Makes a context for `sequences` sequences of `context` tokens each, with a cache in float16 or in float32."""
        if self.ctx:
            ll.llama_batch_free(self.batch)
            ll.llama_free(self.ctx)
        params = ll.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_batch = params.n_ubatch = PREFILL_ROWS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        if full_cache:
            params.type_k = params.type_v = ll.GGML_TYPE_F32
        params.no_perf = True
        self.ctx = ll.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise RuntimeError("llama_init_from_model failed")
        self.batch = ll.llama_batch_init(PREFILL_ROWS, 0, 1)
        return {}

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Runs one batch; a row is (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, output) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = output
        if status := ll.llama_decode(self.ctx, batch):
            raise RuntimeError(f"llama_decode returned {status}")

    def _argmax(self, row: int) -> int:
        pointer = ll.llama_get_logits_ith(self.ctx, row)
        return int(np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).argmax())

    def _prefill(self, prompt: list[int], sequence: int) -> int:
        last = len(prompt) - 1
        for start in range(0, len(prompt), PREFILL_ROWS):
            chunk = prompt[start : start + PREFILL_ROWS]
            self._decode(
                [(token, start + i, sequence, start + i == last) for i, token in enumerate(chunk)],
            )
        return self._argmax(last % PREFILL_ROWS)

    def clear(self) -> None:
        """Forgets every sequence: no prefix is ever reused."""
        ll.llama_memory_clear(ll.llama_get_memory(self.ctx), False)

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Times a prompt from an empty cache to the first token."""
        self.clear()
        start = time.perf_counter()
        token = self._prefill(prompt, 0)
        return {"seconds": time.perf_counter() - start, "tokens": [[token]]}

    def generate(self, prompts: list[list[int]], count: int) -> dict[str, Any]:
        """Prefills every prompt, then times `count - 1` steps of one token a sequence."""
        self.clear()
        outputs = [[self._prefill(prompt, s)] for s, prompt in enumerate(prompts)]
        start = time.perf_counter()
        for step in range(count - 1):
            self._decode(
                [(outputs[s][-1], len(prompt) + step, s, True) for s, prompt in enumerate(prompts)],
            )
            for s in range(len(prompts)):
                outputs[s].append(self._argmax(s))
        return {"seconds": time.perf_counter() - start, "tokens": outputs}

    def complete(self, prompts: list[str], count: int) -> dict[str, Any]:
        """Continues texts greedily, by the file's own tokenizer, until the model ends or `count` tokens are there."""
        vocab = ll.llama_model_get_vocab(self.model)
        texts: list[str] = []
        for prompt in prompts:
            self.clear()
            tokens = self._tokens(vocab, prompt)
            found = [self._prefill(tokens, 0)]
            while len(found) < count and not ll.llama_vocab_is_eog(vocab, found[-1]):
                self._decode([(found[-1], len(tokens) + len(found) - 1, 0, True)])
                found.append(self._argmax(0))
            pieces = [self._piece(vocab, one) for one in found if not ll.llama_vocab_is_eog(vocab, one)]
            texts.append(b"".join(pieces).decode(errors="replace"))
        return {"texts": texts}

    def _tokens(self, vocab: Any, text: str) -> list[int]:
        data = text.encode()
        tokens = (ll.llama_token * (len(data) + 8))()
        count = ll.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize returned {count}")
        return list(tokens[:count])

    def _piece(self, vocab: Any, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = ll.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
        if size < 0:
            raise RuntimeError(f"llama_token_to_piece returned {size}")
        return buffer.raw[:size]

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """Sums negative log probabilities, each window, of at most one batch, from an empty context."""
        loss, count = 0.0, 0
        for window in windows:
            self.clear()
            self._decode([(token, i, 0, True) for i, token in enumerate(window)])
            for row, target in enumerate(window[1:]):
                pointer = ll.llama_get_logits_ith(self.ctx, row)
                logits = np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).astype(np.float64)
                logits -= logits.max()
                loss += float(np.log(np.exp(logits).sum()) - logits[target])
                count += 1
        return {"loss": loss, "tokens": count}

    def peak_rss(self) -> dict[str, int]:
        """Returns the most memory this process has held."""
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    """Serves requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever llama.cpp prints must not mix with the answers

    @ll.llama_log_callback
    def log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR; 5 continues the line before
            sys.stderr.write(text.decode(errors="replace"))

    ll.llama_log_set(log, ctypes.c_void_p(0))
    ll.llama_backend_init()
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request) or {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
