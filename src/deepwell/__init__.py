"""Deepwell: from nothing to a safe, grounded, fast service on a DeepSeek-class language model, on a plain CPU.

    from deepwell import LLM

    llm = LLM("smollm2")
    print(llm.chat([{"role": "user", "content": "What is the capital of France?"}]))

Importing the package loads nothing else: each name below is imported when it is first used.
"""

from __future__ import annotations

# onnxruntime 1.32 for Linux has telemetry, which otherwise writes an id and a database below ~/.cache from its import on.
try:
    import posix

    posix.putenv("ORT_DISABLE_TELEMETRY", "1")
except ImportError:  # Windows, where it has none
    pass

TYPE_CHECKING = False  # as type checkers know it by its name; `typing` itself takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from deepwell.errors import DeepwellError
    from deepwell.llm import LLM, AsyncLLM

    __version__: str

__all__ = ["LLM", "AsyncLLM", "DeepwellError", "__version__"]

_HOMES = {"LLM": "deepwell.llm", "AsyncLLM": "deepwell.llm", "DeepwellError": "deepwell.errors"}


def __getattr__(name: str) -> Any:
    """Imports a name of the public API when it is first used."""
    if name == "__version__":
        from deepwell.version import deepwell_version

        found: Any = deepwell_version()
    elif name in _HOMES:
        from importlib import import_module

        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
