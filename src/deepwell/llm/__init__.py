"""The Python API: a model from the store in five lines, without a server.

from deepwell import LLM

with LLM("smollm2") as llm:
    print(llm.chat([{"role": "user", "content": "What is the capital of France?"}]))
"""

from deepwell.llm.asynchronous import AsyncLLM
from deepwell.llm.results import Completion, CompletionChoice, Piece, Score, TokenLogprob, ToolCall
from deepwell.llm.streams import AsyncTextStream, TextStream
from deepwell.llm.synchronous import LLM

__all__ = [
    "LLM",
    "AsyncLLM",
    "AsyncTextStream",
    "Completion",
    "CompletionChoice",
    "Piece",
    "Score",
    "TextStream",
    "TokenLogprob",
    "ToolCall",
]
