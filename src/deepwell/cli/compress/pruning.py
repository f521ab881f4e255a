"""`deepwell compress prune`: leaves out layers, MLP channels and key heads, and teaches what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import stepped

if TYPE_CHECKING:
    from deepwell.tuning.compress.shapes import Way

__all__ = ["closed", "need_torch", "prune", "texts_of"]

_MOST_BYTES: Final = 64 << 20
_STEPS: Final = {
    "activations": "reading the text",
    "layers": "trying what each layer does",
    "candidates": "comparing cuts of the same size",
    "recovery": "recovering",
}


def prune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to prune: a name in the store, or a path.",
            autocompletion=stored_models,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the smaller model; it must not exist.")
    ],
    share: Annotated[
        float,
        typer.Option(min=0.0, max=0.7, help="Share of all weights to leave out, such as 0.2."),
    ] = 0.2,
    ways: Annotated[
        str,
        typer.Option(help="Parts that may be cut, of depth, width and heads, with commas between."),
    ] = "depth,width,heads",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text of the kind that the model will serve; repeatable. It chooses what goes and teaches what stays. "
            "Unset: the pages of `deepwell learn`, in English and Chinese.",
        ),
    ] = None,
    recover: Annotated[
        Literal["distil", "none"],
        typer.Option(help="Recovery after the cut: learn the donor's predictions on the text, or none."),
    ] = "distil",
    minutes: Annotated[
        float, typer.Option(min=0.05, max=1440, help="Minutes that the recovery takes, and no more.")
    ] = 10.0,
    gguf: Annotated[
        bool,
        typer.Option("--gguf", help="Write model.gguf too, for llama.cpp; the donor has to be a GGUF file."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Leave out layers, MLP channels and key heads that matter least, and write a folder that every engine loads.

    The smaller model has one width for all layers, so transformers, llama.cpp and Deepwell load it as any other. Needs the
    extra `tune`. A model of 135 million weights takes some two minutes on two processors, then the minutes of its recovery.
    """
    with reported_errors(as_json=json):
        wanted = _ways(ways)
        texts = texts_of(text or [])
        need_torch()
        from deepwell.tuning.compress.training.recover import Recovery
        from deepwell.tuning.compress.training.run import prune as run

        begin = time.perf_counter()
        with stepped(_STEPS, shown=not json) as update:

            def say(step: str, done: float) -> None:
                update(step, done)
                if json:
                    write_json({"event": "progress", "step": step, "done": round(done, 3)})

            card = run(
                model,
                out,
                share,
                texts=texts,
                ways=wanted,
                recovery=Recovery(minutes) if recover == "distil" else None,
                gguf=gguf,
                say=say,
            )
        if json:
            seconds = round(time.perf_counter() - begin, 1)
            write_json({"event": "end", "folder": str(out), "seconds": seconds, **card})
        else:
            _show(card, out)


def need_torch() -> None:
    """Checks that the extra `tune` is installed.

    Raises:
        MissingDependency: it is not.
    """
    from importlib.util import find_spec

    from deepwell.errors import MissingDependency

    if find_spec("torch") is None:
        raise MissingDependency.of("tune_missing", package="torch")


def _ways(given: str) -> list[Way]:
    """Returns the ways that an option names.

    Raises:
        InvalidRequest: one of them is none.
    """
    from deepwell.errors import InvalidRequest
    from deepwell.tuning.compress.shapes import WAYS

    wanted = [one.strip() for one in given.split(",") if one.strip()]
    if unknown := [one for one in wanted if one not in WAYS]:
        raise InvalidRequest(
            f"{unknown[0]!r} is no way to cut", fix=f"choose of {', '.join(WAYS)}", param="ways"
        )
    return [one for one in WAYS if one in wanted]


def _show(card: Mapping[str, Any], out: Path) -> None:
    shape = card["shape"]
    print_line = console().print
    print_line(
        f"{out}: {card['parameters']:,} of {card['base_parameters']:,} weights ({card['cut']:.1%} less), "
        f"{shape['layers']} layers, {shape['channels']} channels, {shape['kv_heads']} key heads",
        soft_wrap=True,
    )
    loss, donor = card["loss"], card["loss_before"]
    cut = card["recovery"].get("loss_before")
    if cut is None:
        print_line(f"loss: {donor:.3f} before, {loss:.3f} now", soft_wrap=True)
    else:
        print_line(
            f"loss: {donor:.3f} before, {cut:.3f} when cut, {loss:.3f} recovered on "
            f"{card['recovery']['tokens_seen']:,} tokens{closed(donor, cut, loss)}",
            soft_wrap=True,
        )
    print_line(
        f"the donor's likeliest token at {card['agreement']:.1%} of positions, divergence {card['divergence']:.3f}",
        soft_wrap=True,
    )
    print_line(f"try it: deepwell chat {out}", soft_wrap=True)


def closed(donor: float, cut: float, loss: float) -> str:
    """Returns how much of the gap a recovery closed, where there was one."""
    return f" ({(cut - loss) / (cut - donor):.0%} of the gap)" if cut > donor else ""


def texts_of(paths: list[Path]) -> list[str]:
    """Returns the texts of files, or the pages of `deepwell learn` where none is given.

    Raises:
        InvalidRequest: a file cannot be read, is no text, or is too large.
    """
    import io
    import json as jsons

    from deepwell.errors import InvalidRequest

    if not paths:
        pages = Path(__file__).parents[1] / "learn" / "pages.json"
        found = jsons.loads(pages.read_text(encoding="utf-8"))
        return [text for language in sorted(found) for _, text in sorted(found[language].items())]
    texts: list[str] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)  # a pipe or a device has no size
            if len(raw) > _MOST_BYTES:
                raise InvalidRequest(
                    f"{path} has over {_MOST_BYTES >> 20} MB",
                    fix="give a sample of it: some hundred thousand words are enough",
                    param="text",
                )
            texts.append(io.StringIO(raw.decode("utf-8"), newline=None).read())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise InvalidRequest(
                f"{path} cannot be read: {reason}", fix="name a file of plain text", param="text"
            ) from None
    return texts
