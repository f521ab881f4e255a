"""The page on the verbs of the command line, made from their help."""

from __future__ import annotations

from deepwell.cli.pages.verbs import Parameter, Verb, verbs

__all__ = ["commands_page"]

_HEAD = """\
# Commands

`make docs` makes this page from the help of the verbs: `deepwell --help`, and `deepwell VERB --help` for each.
[The terminal](../guides/terminal.md) shows them at work. Options that are [settings](settings.md) can come from the environment
and the configuration file too.
"""


def commands_page() -> str:
    """Returns the text of the page."""
    found = verbs()
    parts = [_HEAD, *(_verb(one) for one in found if not one.path.startswith("bench"))]
    lines = [
        *("## deepwell bench", ""),
        "Benchmarks and checks of this repository, each a verb of its own. `deepwell bench VERB --help` lists its options.",
        *("", "| verb | what it does |", "|---|---|"),
        *(f"| `{one.path}` | {_cell(one.help)} |" for one in found if one.path.startswith("bench ")),
        "",
    ]
    return "\n".join([*parts, *lines])


def _verb(verb: Verb) -> str:
    lines = [f"## deepwell {verb.path}", "", verb.help, "", "```", verb.usage, "```", ""]
    arguments = [one for one in verb.parameters if not one.is_option]
    options = [one for one in verb.parameters if one.is_option]
    if arguments:
        lines += ["| argument | |", "|---|---|"]
        lines += [*(f"| {_code(one.shown)} | {_cell(one.help)} |" for one in arguments), ""]
    if options:
        lines += ["| option | values | default | |", "|---|---|---|---|", *map(_row, options), ""]
    return "\n".join(lines)


def _row(parameter: Parameter) -> str:
    default = f"`{parameter.default}`" if parameter.default else ""
    return f"| {_code(parameter.shown)} | {parameter.values} | {default} | {_cell(parameter.help)} |"


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _cell(text: str) -> str:
    return text.replace("\n\n", " ").replace("|", "\\|")
