"""Trial compilation of a grammar, in a process of its own with limits on time and memory.

llguidance bounds most of its work, but some sources take quadratic time (`a?` 60,000 times: a minute) or never end (two
`multipleOf` under `allOf`), and a compilation cannot be interrupted. A process can. What passes the trial takes about as
long in the engine. `python -m deepwell.engine.grammar.trial FD LIMITS` is the server that forks these processes.
"""

from __future__ import annotations

import resource
import sys
from typing import Final

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest
from deepwell.process.calls import CallEnded
from deepwell.process.forks import ForkLimits, ForkServer, serve_forks

__all__ = ["CPU_S", "MOST_KEPT_BYTES", "Trials"]

CPU_S: Final = 2.0
_WALL_S: Final = 60.0  # a busy machine may give the process little time
_MEMORY_BYTES: Final = 1 << 30  # while it is compiled
# Once it is compiled. 200 nested objects of four properties, 92 kB of JSON schema, take 10 MiB.
MOST_KEPT_BYTES: Final = 48 << 20
_STACK_BYTES: Final = 256 << 20


class Trials:
    """Compiles grammars on trial, each in a process of its own. Methods may be called from any thread.

    The processes have the niceness of the thread that first calls `start` or `compile`.
    """

    def __init__(self) -> None:
        self._cpu_s = CPU_S
        self._forks = ForkServer(__name__, ForkLimits(CPU_S, _WALL_S, _MEMORY_BYTES, _STACK_BYTES))

    @property
    def pid(self) -> int:
        """Process id of the server that forks the trials; 0 if there is none."""
        return self._forks.pid

    def start(self) -> None:
        """Starts the server of the trials without waiting for it, if there is none."""
        try:
            self._forks.start()
        except CallEnded as error:
            raise self._refusal(error) from None

    def compile(self, source: str) -> int:
        """Compiles a grammar, in the form that llguidance reads, and forgets it. An error of the grammar is not reported.

        Returns the bytes that the compiled grammar takes.

        Raises:
            InvalidRequest: it takes too much time or memory; `param` is "grammar".
            EngineUnavailable: the trial did not run, or was killed from outside.
        """
        try:
            kept_bytes = self._forks.run(source.encode("utf-8", "surrogatepass")) or 0
        except CallEnded as error:
            raise self._refusal(error) from None
        if kept_bytes > MOST_KEPT_BYTES:
            raise InvalidRequest(
                f"the compiled grammar takes {kept_bytes >> 20} MiB, and {MOST_KEPT_BYTES >> 20} are allowed",
                fix="send a smaller one: fewer rules, alternatives and definitions",
                param="grammar",
            )
        return kept_bytes

    def close(self) -> None:
        """Ends the server, and the trials that are under way. Later ones are refused."""
        self._forks.close()

    def _refusal(self, error: CallEnded) -> DeepwellError:
        if error.killed:
            return DeepwellError("the engine is closed", fix="start it again")
        if error.late or error.lost:
            return EngineUnavailable(
                f"the trial compilation of the grammar ended early: {error}", fix="send the request again"
            )
        return InvalidRequest(
            f"the grammar takes more than {self._cpu_s:g} s or {_MEMORY_BYTES >> 20} MiB to compile",
            fix="send a smaller one: fewer alternatives, optional parts and definitions",
            param="grammar",
        )


class _Bytes:
    """A vocabulary with a token for each byte, and one that ends the text. The vocabulary hardly matters for the cost."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([one]) for one in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _most_bytes() -> int:
    """Returns the most memory that this process has had; it has no view of /proc, where the present memory stands."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(descriptor: str, limits: str) -> None:
    """Serves trials until the parent closes the connection."""
    vocabulary = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257)

    def compile_once(source: bytes) -> int:
        before = _most_bytes()
        matcher = LLMatcher(vocabulary, source.decode("utf-8", "surrogatepass"), log_level=0)
        matcher.compute_bitmask()
        return max(0, _most_bytes() - before)

    # What the library prepares at its first use is then there in every fork.
    compile_once(LLMatcher.grammar_from_json_schema('{"type":"object"}').encode())
    serve_forks(int(descriptor), limits, compile_once)


if __name__ == "__main__":
    main(*sys.argv[1:])
