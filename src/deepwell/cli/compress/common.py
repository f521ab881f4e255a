"""Parts that the verbs of `deepwell compress` share: their text, their progress, and the lines that they print at the end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from deepwell.cli.output import console, extra_command, typed_model, write_json
from deepwell.cli.progress import stepped
from deepwell.messages import say

__all__ = ["followed", "need_torch", "print_losses", "print_next", "texts_of"]

_MOST_BYTES: Final = 64 << 20


def need_torch() -> None:
    """Checks that the extra `tune` is installed.

    Raises:
        MissingDependency: it is not.
    """
    from importlib.util import find_spec

    from deepwell.errors import MissingDependency

    if find_spec("torch") is None:
        raise MissingDependency.of("compress_no_torch", package="torch", command=extra_command("tune"))


def texts_of(paths: Sequence[Path]) -> list[str]:
    """Returns the texts of files, or the pages of `deepwell learn` where none is given.

    Raises:
        InvalidRequest: a file is no text, or is too large.
        OSError: a file cannot be read.
    """
    import io
    import json

    from deepwell.errors import InvalidRequest

    if not paths:
        pages = Path(__file__).parents[1] / "learn" / "pages.json"
        found = json.loads(pages.read_text(encoding="utf-8"))
        return [text for language in sorted(found) for _, text in sorted(found[language].items())]
    texts: list[str] = []
    for path in paths:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)  # a pipe or a device has no size
        if len(raw) > _MOST_BYTES:
            raise InvalidRequest.of("compress_text_large", param="text", path=path, most=_MOST_BYTES >> 20)
        try:
            texts.append(io.StringIO(raw.decode("utf-8"), newline=None).read())
        except UnicodeDecodeError:
            raise InvalidRequest.of("compress_text_form", param="text", path=path) from None
    return texts


@contextmanager
def followed(steps: Sequence[str], *, as_json: bool) -> Iterator[Callable[[str, float], None]]:
    """Shows the progress of a work in steps, as bars or as lines of JSON. Yields the function that takes a step and its share.

    Args:
        steps: names of the steps; each has a label in the catalogue of messages.
    """
    with stepped({one: say(f"compress_step_{one}") for one in steps}, shown=not as_json) as update:

        def told(step: str, done: float) -> None:
            update(step, done)
            if as_json:
                write_json({"event": "progress", "step": step, "done": round(done, 3)})

        yield told


def print_losses(card: Mapping[str, Any], change: str) -> None:
    """Prints the losses of a card, and how near the predictions are to the donor's.

    Args:
        change: what was done to the donor: "cut" or "converted".
    """
    out = console()
    donor, loss, changed = card["loss_before"], card["loss"], card["recovery"].get("loss_before")
    if changed is None:
        line = say("compress_loss", donor=donor, loss=loss)
    else:
        seen = card["recovery"]["tokens_seen"]
        line = say(f"compress_loss_{change}", donor=donor, changed=changed, loss=loss, tokens=seen)
        if changed > donor:
            line += say("compress_gap", share=(changed - loss) / (changed - donor))
    out.print(line, soft_wrap=True)
    near = say("compress_agreement", agreement=card["agreement"], divergence=card["divergence"])
    out.print(near, soft_wrap=True)


def print_next(made: Path, donor: str, *, quantisable: bool = False) -> None:
    """Prints the commands that come next: to talk with a model, to judge it beside its donor, and to write it in 4 bits."""
    out, model = console(), typed_model(made)
    out.print(say("compress_try", model=model), soft_wrap=True)
    # A folder is served with 8 bits a weight and a donor of 4 bits with 4: only at one precision are they alike.
    precision = "" if made.suffix == ".gguf" else " --precision int8"
    judge = say("compress_judge", model=model, donor=shlex.quote(donor), precision=precision)
    out.print(judge, soft_wrap=True)
    if quantisable:
        file = shlex.quote(f"{made.name}.gguf")
        out.print(say("compress_smaller_file", model=model, file=file), soft_wrap=True)
