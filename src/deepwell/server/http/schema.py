"""The parts that request models share: strictness, and refusals with a reason."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "MAX_ENTRIES",
    "TAG_MARK",
    "Metadata",
    "MetadataRequest",
    "Strict",
    "counted",
    "crossed",
    "either",
    "kind_of",
    "only_kinds",
    "only_values",
    "refuse",
    "text_of",
    "unsupported",
]

MAX_ENTRIES = 2048
"""The most entries of a list of messages or items, and of a list of parts within one."""


TAG_MARK = "\0"  # in front of the tags of `either`, which are not part of a parameter's name


_Label = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], _Label], Field(max_length=16)]


class Strict(BaseModel):
    """Unknown parameters are errors, and nothing is converted.

    A model's validator is built by the first request that needs it: those of all models take a tenth of a server's start.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class MetadataRequest(Strict):
    """`POST /v1/conversations/{id}` and `/v1/chat/completions/{id}`."""

    metadata: Metadata | None


def refuse(reason: str, *harmless: Any) -> BeforeValidator:
    """Returns a validator that accepts a known parameter only if it asks for nothing: `None` or one of `harmless`."""

    def check(value: Any) -> Any:
        if value is None or any(value == ok and type(value) is type(ok) for ok in harmless):
            return value
        raise unsupported(reason)

    shown = WithJsonSchema({"enum": [None, *harmless], "description": f"Otherwise refused: {reason}."})
    return BeforeValidator(check, json_schema_input_type=Annotated[Any, shown])


def either(text: Any, other: Any) -> Any:
    """Returns a type that is `text` for a string and `other` for anything else. Errors then speak of that one alone."""

    def tag(value: Any) -> str:
        return TAG_MARK + ("text" if isinstance(value, str) else "other")

    return Annotated[
        Annotated[text, Tag(f"{TAG_MARK}text")] | Annotated[other, Tag(f"{TAG_MARK}other")],
        Discriminator(tag),
    ]


def kind_of(value: Any, key: str = "type") -> str:
    """Returns the kind that an object states under `key`. It is empty if the object states none."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get(key)
    else:
        value = getattr(value, key, None)
    return value if isinstance(value, str) else ""


def only_kinds(noun: str, *known: str, key: str = "type", default: str = "") -> BeforeValidator:
    """Returns a validator that refuses an object of another kind by name, before a union looks for its type."""

    def check(value: Any) -> Any:
        kind = kind_of(value, key)
        if isinstance(value, dict) and key in value and value[key] is not None and kind not in known:
            raise unsupported(f"{noun} of {key} {value[key]!r} are not supported: send {', '.join(known)}")
        if not kind and not (default and isinstance(value, dict)):
            raise PydanticCustomError(
                "kind",
                "should be an object with {key}: {known}",
                {"key": key, "known": ", ".join(known)},
            )
        return value

    return BeforeValidator(check)


def only_values(noun: str, *known: str, instead: str = "") -> BeforeValidator:
    """Returns a validator that refuses any string but `known` by name. The message says what to do `instead`."""
    fix = instead or f"send {', '.join(map(repr, known))}"

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in known:
            raise unsupported(f"{noun} {value!r} is not supported: {fix}")
        return value

    return BeforeValidator(check)


def unsupported(reason: str, **details: str) -> PydanticCustomError:
    """Returns a refusal with its reason. Errors in Anthropic's shape carry `details` beside it."""
    context: dict[str, Any] = {"reason": reason, **({"details": details} if details else {})}
    return PydanticCustomError("unsupported", cast("Any", "{reason}"), context)


def crossed(param: str, reason: str) -> PydanticCustomError:
    """Returns the refusal of parameters that do not go together; `param` is the one to change."""
    return PydanticCustomError("crossed", cast("Any", "{reason}"), {"reason": reason, "param": param})


def counted(value: Any) -> Any:
    """Returns a list of parts unchanged, and anything else. A list may have `MAX_ENTRIES`.

    Raises:
        PydanticCustomError: it has more.
    """
    if isinstance(value, list) and (length := len(cast("list[Any]", value))) > MAX_ENTRIES:
        raise PydanticCustomError(
            "too_long",
            "List should have at most {max_length} items, not {actual_length}",
            {"max_length": MAX_ENTRIES, "actual_length": length},
        )
    return value


def text_of(value: Any) -> Any:
    """Returns content given as parts as one text, and anything else unchanged.

    Raises:
        PydanticCustomError: a part is not text, or there are too many of them.
    """
    if not isinstance(value, list):
        return value
    counted(value)
    texts: list[str] = []
    for part in cast("list[Any]", value):
        kind = cast("dict[str, Any]", part).get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise unsupported(f"content parts of type {kind!r} are not supported: send text")
        text = part.get("text")
        if not isinstance(text, str):
            raise PydanticCustomError("part", "a content part of type 'text' needs a string 'text'")
        texts.append(text)
    return "".join(texts)
