"""Writes the pages: `python -m deepwell.cli.pages`."""

from __future__ import annotations

from pathlib import Path

from deepwell.cli.pages.commands import commands_page
from deepwell.cli.pages.python import python_page
from deepwell.cli.pages.settings import settings_pages


def main() -> None:
    """Writes the pages on settings, on the verbs and on the Python API into `docs/reference`."""
    folder = Path(__file__).parents[4] / "docs" / "reference"
    for name, text in {
        **settings_pages(),
        "commands.md": commands_page(),
        "python.md": python_page(),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
