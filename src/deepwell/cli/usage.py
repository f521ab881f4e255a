"""The command line around the verbs: a wrong verb or option names the nearest right one, in the language of the terminal."""

from __future__ import annotations

import gc
import importlib
import inspect
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deepwell.errors import InvalidRequest

__all__ = ["Verbs", "added_verbs", "application"]

_COLLECT_WHEN_READY = ("serve",)  # verbs that switch garbage collection on when they have started
_USAGE_CODE = 2  # exit code of a command that was written wrongly, as click has it
# typer carries its own copy of click in newer versions, and does not export these two.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickException: Any = typer.BadParameter.__mro__[2]


class Verbs(TyperGroup):
    """A group whose usage errors read like all other errors of Deepwell."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns a command, or None. Its help has one line a paragraph, which the terminal wraps."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            command.help = _one_line_each(command.help)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the name, the command and the rest of the arguments."""
        if args and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            error = _UsageError(f"No such command {args[0]!r}.", ctx)
            error.verb = args[0]
            raise error
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line. In standalone mode it ends the process with the exit code."""
        arguments: Any = {"args": args, "prog_name": prog_name, "complete_var": complete_var, **extra}
        if not standalone_mode:
            return super().main(standalone_mode=False, **arguments)
        try:
            code = super().main(standalone_mode=False, **arguments)
        except _ClickException as error:
            if not isinstance(error, _UsageError):
                error.show()
            elif type(error).__name__ != "NoArgsIsHelpError":  # the help is already printed
                from deepwell.cli.output import print_error

                print_error(_explained(error))
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


def _one_line_each(text: str) -> str:
    """Returns a help text whose paragraphs are one line each; paragraphs with indented lines stay as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if "\n " in one or "\b" in one else one.replace("\n", " ") for one in paragraphs)


def _explained(error: Any) -> InvalidRequest:
    """Returns a usage error in Deepwell's own words."""
    context = error.ctx
    command = context.command_path if context else "deepwell"
    if wrong := getattr(error, "verb", None):
        return _wrong_verb(wrong, command, context)
    if type(error).__name__ == "NoSuchOption":
        from deepwell.messages import nearest

        wrong = error.option_name
        if right := nearest(wrong, _options(context)):
            return InvalidRequest.of("option_near", command=command, wrong=wrong, right=right)
        return InvalidRequest.of("option_unknown", command=command, wrong=wrong)
    usage = _usage(context) if context else command
    if type(error).__name__ == "MissingParameter" and error.param is not None:
        what = _named(error.param)
        return InvalidRequest.of("usage_missing", command=command, what=what, usage=usage)
    reason = error.format_message().rstrip(".").replace("Value error, ", "")
    return InvalidRequest.of("usage_wrong", command=command, reason=reason, usage=usage)


def _usage(context: Any) -> str:
    """Returns the line of usage, with the options that must be given: click shows arguments alone."""
    usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
    usage = re.sub(r"\{([^{}|]+)\}", r"\1", usage)  # braces around one name mean that it is required
    usage = usage.replace("......", "...")
    options = [one for one in context.command.params if one.required and one.opts[0].startswith("-")]
    given = " ".join(map(_named, options))
    return usage.replace("[OPTIONS]", f"{given} [OPTIONS]", 1) if given else usage


def _named(param: Any) -> str:
    """Returns a parameter as it is written: an option with its value."""
    what = getattr(param, "metavar", None) or str(param.name).upper()
    return f"{param.opts[0]} {what}" if param.opts[0].startswith("-") else what


def _wrong_verb(wrong: str, command: str, context: Any) -> InvalidRequest:
    from deepwell.messages import nearest

    known = list(context.command.commands) if context else []
    if right := nearest(wrong, known):
        return InvalidRequest.of("verb_near", wrong=f"{command} {wrong}", right=f"{command} {right}")
    return InvalidRequest.of(
        "verb_unknown", wrong=f"{command} {wrong}", known=", ".join(known), help=f"{command} --help"
    )


def _options(context: Any) -> list[str]:
    parameters = context.command.params if context else []
    return [name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("-")]


def application(modules: Sequence[str]) -> typer.Typer:
    """Returns the command line with the verbs of some modules of `deepwell.cli`."""
    app = typer.Typer(
        name="deepwell",
        cls=Verbs,
        help="Run, serve and measure language models on a plain CPU.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in modules:
        importlib.import_module(f"deepwell.cli.{module}").register(app)
    return app


def added_verbs(group: str) -> dict[str, Callable[..., None]]:
    """Returns the verbs that other distributions add, by name: each entry point of `group` is a dictionary of them."""
    from importlib.metadata import entry_points

    return {name: verb for one in entry_points(group=group) for name, verb in one.load().items()}


def _print_version(wanted: bool) -> None:
    if wanted:
        from deepwell.version import deepwell_version

        typer.echo(f"deepwell {deepwell_version()}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.obj is not None:
        signal.signal(signal.SIGINT, context.obj)  # the verb may have something to tidy up
    if context.invoked_subcommand not in _COLLECT_WHEN_READY:
        gc.enable()  # `main` switched it off
