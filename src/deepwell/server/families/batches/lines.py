"""The lines of a batch's input, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import DecodeError, Raw

from deepwell.errors import ModelNotFound
from deepwell.safety.privacy.places import end_user_of
from deepwell.server.families.batches.bodies import BatchError
from deepwell.server.families.batches.images import IMAGES, image_bytes

__all__ = ["MAX_LINES", "Checked", "InputLine", "check_input", "read_lines"]

MAX_LINES = 50_000  # OpenAI's
_MOST_ERRORS = 100  # reported for one input
_LONGEST_ID = 512
_SIZED: Final = ("n", "size")
_objects = msgspec.json.Decoder(dict[str, Raw])
_scalars = msgspec.json.Decoder(str | bool | int | float | None)


class _Naming(msgspec.Struct):
    """The fields of a request that may name an end user."""

    safety_identifier: Any = None
    user: Any = None
    metadata: Any = None


_naming = msgspec.json.Decoder(_Naming)


@dataclass(frozen=True, slots=True)
class InputLine:
    """One request of an input; `number` is its line in the file, from 1."""

    number: int
    custom_id: str
    body: bytes
    end_user: str = ""


@dataclass(slots=True)
class Checked:
    """The result of checking an input. `model` is the one that all lines name, or None if they differ.

    `image_bytes` is the most that the answers' images may take.
    """

    total: int = 0
    image_bytes: int = 0
    model: str | None = None
    errors: list[BatchError] = field(default_factory=list[BatchError])


class _Bad(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def check_input(
    path: Path,
    endpoint: str,
    max_line_bytes: int,
    require_model: Callable[[str], object],
    max_image_bytes: int = 0,
) -> Checked:
    """Reads and checks a whole input, which can be run if there are no errors. Takes some 20 us a line.

    Args:
        max_line_bytes: the limit of a request's body.
        max_image_bytes: the limit of all images that the lines ask for, as they stand in the output file; 0: none.
        require_model: raises `ModelNotFound` for a name that is not served.
    """
    checked = Checked()
    seen: dict[str, int] = {}
    models: set[str | None] = set()
    known: dict[str, str] = {}  # error by model name; empty: the model is served

    def model_of(body: dict[str, Raw]) -> str | None:
        name = _plain(body.get("model"))
        if not isinstance(name, str):
            return None  # the route refuses it
        if name not in known:
            known[name] = ""
            try:
                require_model(name)
            except ModelNotFound as error:
                known[name] = str(error)
        if known[name]:
            raise _Bad("model_not_found", known[name], "body.model")
        return name

    for number, line in _numbered(path, max_line_bytes):
        checked.total += 1
        if checked.total > MAX_LINES:
            checked.errors.append(
                BatchError(
                    "too_many_requests",
                    f"the file has more than {MAX_LINES} requests: split it into several batches",
                )
            )
            break
        try:
            entry = _entry(line, max_line_bytes)
            custom_id = _custom_id(entry)
            first = seen.setdefault(custom_id, number)
            if first != number:
                raise _Bad(
                    "duplicate_custom_id",
                    f"custom_id {custom_id[:80]!r} is that of line {first} too: give each line its own",
                    "custom_id",
                )
            _check_target(entry, endpoint)
            body = _check_body(entry)
            models.add(model_of(body))
            if endpoint.startswith(IMAGES):
                checked.image_bytes += image_bytes({name: _plain(body.get(name)) for name in _SIZED})
                if 0 < max_image_bytes < checked.image_bytes:
                    checked.errors.append(_too_large(number, max_image_bytes))
                    break
        except _Bad as bad:
            checked.errors.append(BatchError(bad.code, str(bad), number, bad.param))
            if len(checked.errors) >= _MOST_ERRORS:
                break
    if not checked.total:
        checked.errors.append(
            BatchError("empty_file", "the file has no requests: write one a line, as JSON objects")
        )
    if len(models) == 1:
        checked.model = models.pop()
    return checked


def _too_large(number: int, most: int) -> BatchError:
    return BatchError(
        "images_too_large",
        f"the images up to this line may take more than {most} bytes: split the file, or ask for fewer or smaller images",
        number,
        "body.n",
    )


def read_lines(path: Path, done: Set[int]) -> Iterator[InputLine]:
    """Yields the requests of a checked input whose lines are not in `done`."""
    for number, line in _numbered(path, None):
        if number not in done:
            entry = _objects.decode(line)
            body = entry["body"]
            user = end_user_of(msgspec.structs.asdict(_naming.decode(body)))
            yield InputLine(number, str(_plain(entry["custom_id"])), bytes(body), user)


def _numbered(path: Path, longest: int | None) -> Iterator[tuple[int, bytes]]:
    """Yields the numbers and bytes of lines that are not blank. A line that is too long comes cut, and is the last."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(-1 if longest is None else longest + 2):
            number += 1
            if line.strip():
                yield number, line
            if longest is not None and len(line) > longest + 1 and not line.endswith(b"\n"):
                return


def _entry(line: bytes, longest: int) -> dict[str, Raw]:
    if len(line.rstrip(b"\r\n")) > longest:
        raise _Bad("line_too_long", f"the line has more than {longest} bytes: shorten the request")
    try:
        line.decode()
    except UnicodeDecodeError:
        raise _Bad("invalid_json_line", "the line is not UTF-8: encode the file as UTF-8") from None
    try:
        return _objects.decode(line)
    except (DecodeError, RecursionError) as error:
        raise _Bad(
            "invalid_json_line", f"the line is not a JSON object: {str(error)[:200]}; write one a line"
        ) from None


def _custom_id(entry: dict[str, Raw]) -> str:
    if "custom_id" not in entry:
        raise _Bad("missing_required_parameter", "custom_id is missing: give each line its own", "custom_id")
    custom_id = _plain(entry["custom_id"])
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
        raise _Bad(
            "invalid_custom_id", f"custom_id must be a string of 1 to {_LONGEST_ID} characters", "custom_id"
        )
    return custom_id


def _check_target(entry: dict[str, Raw], endpoint: str) -> None:
    method, url = _plain(entry.get("method")), _plain(entry.get("url"))
    if method != "POST":
        raise _Bad("invalid_method", 'method must be "POST"', "method")
    if url != endpoint:
        raise _Bad("mismatched_endpoint", f"url must be {endpoint!r}, the endpoint of the batch", "url")
    if unknown := entry.keys() - {"custom_id", "method", "url", "body"}:
        name = min(unknown)[:64]
        raise _Bad("unknown_parameter", f"unknown parameter {name!r}: leave it out", name)


def _check_body(entry: dict[str, Raw]) -> dict[str, Raw]:
    if "body" not in entry:
        raise _Bad("missing_required_parameter", "body is missing: send the request's JSON", "body")
    try:
        body = _objects.decode(entry["body"])
    except (DecodeError, RecursionError):
        raise _Bad("invalid_body", "body must be a JSON object: the request's", "body") from None
    for name in ("stream", "background"):
        if _plain(body.get(name)) is True:
            raise _Bad(
                "unsupported_parameter",
                f"a line of a batch is answered whole: leave {name} out",
                f"body.{name}",
            )
    return body


def _plain(raw: Raw | None) -> Any:
    """Returns the value if it is a scalar, else None; None too if there is no value."""
    if raw is None:
        return None
    try:
        return _scalars.decode(raw)
    except (DecodeError, RecursionError):
        return None
