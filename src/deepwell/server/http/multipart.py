"""Forms with files, read as they arrive: files go to disk, and memory holds about a megabyte of each at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from deepwell.errors import InvalidRequest
from deepwell.server.http.errors import BodyTooLarge
from deepwell.storage.blobs import Draft

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = [
    "BINARY",
    "FORM_OVERHEAD_BYTES",
    "DeferredForm",
    "Form",
    "checked_name",
    "form_schema",
    "read_form",
]

BINARY = {"type": "string", "format": "binary"}
"""Schema of a file in a form."""
FORM_OVERHEAD_BYTES = 64 << 10  # most bytes of a form around its file
_FIELD_BYTES = 4096
_MOST_PARTS = 16
_MOST_PARTS_OF_MANY = 32  # where a form may have several files
_FLUSH_BYTES = 1 << 20
_LONGEST_NAME = 255


@dataclass(slots=True)
class Form:
    """A form's plain fields, and its files: drafts that the holder of the form must use up or discard.

    Attributes:
        lists: the values of those fields that may come more than once.
        further: the files of further fields, by the field's name.
    """

    file: Draft
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict[str, str])
    lists: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    further: dict[str, Draft] = field(default_factory=dict[str, Draft])

    def discard(self) -> None:
        """Deletes the files unless they have become blobs."""
        for one in (self.file, *self.further.values()):
            one.discard()


def form_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Returns what FastAPI adds to the OpenAPI document for a route that reads a form itself."""
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


class DeferredForm(dict[str, Any]):
    """The same as `form_schema` returns, made when the document is: the schemas of fields build their validators.

    Args:
        make: returns it.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._make = make

    def __bool__(self) -> bool:
        return True

    def items(self) -> Any:
        return self._make().items()


async def read_form(
    request: Request,
    file_field: str,
    draft: Callable[[], Draft],
    limit: int,
    fix: str,
    *,
    lists: Collection[str] = (),
    further: Collection[str] = (),
) -> Form:
    """Reads a form from the request's body.

    Args:
        file_field: name of the file's field. Brackets behind it, as lists of files have them, make no difference.
        limit: most bytes of a file.
        fix: the fix that the error for a larger file names.
        lists: names of fields that may come more than once.
        further: names of the fields of further files, which may be left out.

    Raises:
        InvalidRequest: the body is not such a form. The message names the fault.
        BodyTooLarge: the file is too large.
        DiskFull: there is no room on the disk.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest(
            "the body is not a form", fix=f"send multipart/form-data with the file as {file_field!r}"
        )
    form = Form(await asyncio.to_thread(draft))
    try:
        for name in further:
            form.further[name] = await asyncio.to_thread(draft)
        reader = _Reader(form, file_field, boundary, lists)
        async for chunk in request.stream():
            reader.feed(chunk)
            for incoming in reader.files.values():
                if incoming.draft.bytes + len(incoming.pending) > limit:
                    raise BodyTooLarge(limit, fix, "the file")
                if len(incoming.pending) >= _FLUSH_BYTES:
                    await asyncio.to_thread(incoming.flush)
        reader.finish()
        for incoming in reader.files.values():
            await asyncio.to_thread(incoming.flush)
    except BaseException:
        form.discard()
        raise
    for name in set(further) - {name for name, incoming in reader.files.items() if incoming.seen}:
        form.further.pop(name).discard()
    return form


@dataclass(slots=True)
class _Incoming:
    """A file of a form. `pending` holds its bytes that wait to be written; `seen` says that the form has it."""

    draft: Draft
    pending: bytearray = field(default_factory=bytearray)
    seen: bool = False

    def flush(self) -> None:
        data, self.pending = bytes(self.pending), bytearray()
        self.draft.write(data)


class _Reader:
    """Parses a form. `files` holds its files by the name of their field."""

    def __init__(self, form: Form, file_field: str, boundary: bytes, lists: Collection[str] = ()) -> None:
        self.files = {
            file_field: _Incoming(form.file),
            **{name: _Incoming(draft) for name, draft in form.further.items()},
        }
        self._form = form
        self._file_field = file_field
        self._lists = lists
        self._most_parts = _MOST_PARTS_OF_MANY if form.further else _MOST_PARTS
        self._file: _Incoming | None = None  # the file whose bytes come
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._text: bytearray | None = None  # value of a plain field, or None in a file
        self._parts = 0
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _broken(str(error)) from None

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _broken(str(error)) from None

    def finish(self) -> None:
        if not self._ended:
            raise _broken("it ends before its last boundary")
        if not self.files[self._file_field].seen:
            raise InvalidRequest(
                f"missing parameter {self._file_field!r}",
                fix=f"send the file in a form field called {self._file_field!r}",
                param=self._file_field,
            )

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._most_parts:
            raise _broken(f"it has more than {self._most_parts} fields")
        self._disposition = b""

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""), "the name of a field")
        found = self.files.get(self._name) or self.files.get(self._name.removesuffix("[]"))
        if found is None:
            self._text = bytearray()
            if self._name in self._form.fields:
                raise InvalidRequest(f"{self._name!r} comes twice", fix="send it once", param=self._name)
            return
        self._text, self._file = None, found
        if found.seen:
            raise InvalidRequest(
                f"{self._name!r} comes twice", fix="send one file a request", param=self._name
            )
        found.seen = True
        name = checked_name(_text(options.get(b"filename", b""), "the file's name"))
        if found.draft is self._form.file:
            self._form.filename = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            assert self._file is not None
            self._file.pending += memoryview(data)[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD_BYTES:
            raise InvalidRequest(
                f"{self._name!r} is longer than {_FIELD_BYTES} bytes",
                fix=f"send a file as {self._file_field!r}",
                param=self._name,
            )

    def _part_end(self) -> None:
        if self._text is not None:
            text = _text(bytes(self._text), repr(self._name))
            if self._name in self._lists:
                self._form.lists.setdefault(self._name, []).append(text)
            else:
                self._form.fields[self._name] = text

    def _end(self) -> None:
        self._ended = True


def checked_name(name: str) -> str:
    """Checks a file's name and returns it. It is only ever shown, but a client may use it in a path.

    Raises:
        InvalidRequest: the name has directories or control characters in it, or is too long.
    """
    if len(name.encode()) > _LONGEST_NAME:
        raise InvalidRequest(
            f"the file's name has more than {_LONGEST_NAME} bytes", fix="shorten it", param="filename"
        )
    if name in (".", "..") or any(mark in name for mark in "/\\") or not name.isprintable():
        raise InvalidRequest(
            f"the file's name {name[:80]!r} is not a plain name",
            fix="send it without directories and control characters",
            param="filename",
        )
    return name


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what} is not UTF-8", fix="encode it as UTF-8") from None


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the form cannot be read: {why}", fix="send multipart/form-data as RFC 7578 has it"
    )
