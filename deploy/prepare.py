# ruff: noqa: INP001
"""Makes an environment small and quick to start, while an image is built.

Sources in C, type stubs and tests of packages go. Bytecode is made of what Deepwell imports and of nothing else: that of
everything would take 53 MB more. With none at all, every start would take twice as long, because the root is read-only.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from pathlib import Path

import deepwell

# What the extras bring is imported on first use. A part that cannot be imported ends the build.
ON_FIRST_USE = (
    *(
        "docx",
        "feedparser",
        "openpyxl",
        "pptx",
        "pypdfium2",
        "selectolax.lexbor",
        "tantivy",
        "usearch.index",
        "watchfiles",
    ),
    *(
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.sdk.trace",
        "psycopg",
        "valkey.asyncio",
    ),
    *(
        "jsonschema",
        "mcp",
        "obstore.store",
        "sqlglot",
    ),
)
APART = (
    "deepwell.__main__",
    "deepwell.agents.analysis.programs",  # programs of the sandbox, which run as they are read
    "deepwell_bench",
    "deepwell_bench.cli",
    "deepwell.storage.migrations.env",
)
OF_TUNE = ("torch", "transformers", "peft", "diffusers")
OF_OTHERS = ("clingo", "zen", "matplotlib")  # extras that the image lacks
UNUSED = ("**/*.c", "**/*.h", "**/*.pxd", "**/*.pyi", "**/*.pyx", "**/tests/test_*.py")


def main() -> None:
    """Removes, then imports; Python writes the bytecode."""
    packages = Path(deepwell.__path__[0]).parent
    for path in list(packages.rglob("__pycache__")):
        shutil.rmtree(path)
    for pattern in UNUSED:
        for path in packages.glob(pattern):
            path.unlink()
    load_all()


def load_all() -> None:
    """Imports the package and what its extras bring, apart from what extras run that the image lacks.

    Raises:
        ImportError: a part cannot be imported.
    """
    found = (one.name for one in pkgutil.walk_packages(deepwell.__path__, "deepwell."))
    for name in (*(one for one in found if not one.startswith(APART)), *ON_FIRST_USE):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in OF_TUNE + OF_OTHERS:
                raise


if __name__ == "__main__":
    main()
