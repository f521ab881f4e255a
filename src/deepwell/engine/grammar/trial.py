"""Trial compilation of a grammar, in a process of its own with limits on time and memory.

llguidance bounds most of its work, but some sources take quadratic time (`a?` 60,000 times: a minute) or never end (two
`multipleOf` under `allOf`), and a compilation cannot be interrupted. A process can. What passes the trial takes about as
long in the engine.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from deepwell.errors import InvalidRequest

__all__ = ["try_to_compile"]

CPU_S: Final = 2
_WALL_S: Final = 60.0  # a busy machine may give the process little time
_MEMORY_BYTES: Final = 1 << 30
_STACK_BYTES: Final = 256 << 20
# The vocabulary hardly matters here: a token for each byte, and one that ends the text.
_PROGRAM: Final = """
import resource, sys, threading
cpu, memory, stack = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
class Bytes:
    eos_token_id, bos_token_id, special_token_ids = 256, None, [256]
    tokens = [bytes([one]) for one in range(256)] + [b"<end>"]
    def __call__(self, text):
        return list(text)
def compile():
    LLMatcher(LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=257), source, log_level=0).compute_bitmask()
source = sys.stdin.buffer.read().decode()
threading.stack_size(stack)
thread = threading.Thread(target=compile)
thread.start()
thread.join()
"""


def try_to_compile(source: str) -> None:
    """Compiles a grammar, in the form that llguidance reads, and forgets it. An error of the grammar itself is not reported.

    Raises:
        InvalidRequest: it takes too much time or memory; `param` is "grammar".
    """
    command = [sys.executable, "-I", "-c", _PROGRAM, *map(str, (CPU_S, _MEMORY_BYTES, _STACK_BYTES))]
    try:
        done = subprocess.run(
            command,
            input=source.encode("utf-8", "surrogatepass"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_S,
            check=False,
        )
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    if failed:
        raise InvalidRequest(
            f"the grammar takes more than {CPU_S} s or {_MEMORY_BYTES >> 20} MiB to compile",
            fix="send a smaller one: fewer alternatives, optional parts and definitions",
            param="grammar",
        )
