"""E-mail (RFC 5322, MIME): headers, the text part or else the HTML part, and the attachments that a parser reads."""

from __future__ import annotations

import email
import email.header
import email.policy
from collections.abc import Iterator
from email.message import Message
from typing import Any, Final

from deepwell.errors import DeepwellError, InvalidFile
from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder, clean
from deepwell.knowledge.parse.detect import detect
from deepwell.knowledge.parse.encoding import decode
from deepwell.knowledge.parse.headings import one_line
from deepwell.knowledge.parse.html import parse_html
from deepwell.knowledge.parse.parse import parse_bytes

__all__ = ["parse_mail"]

_HEADERS: Final = ("Subject", "From", "To", "Cc", "Date")
_MOST_PARTS: Final = 200
_MOST_ATTACHMENTS: Final = 50
_MOST_DEPTH: Final = 3  # of mails within mails
_MARK: Final = b"\xef\xbb\xbf"


def parse_mail(data: bytes) -> Document:
    """Returns the text of a mail under its subject, then each attachment under its name.

    Attachments that cannot be read are named with the reason under `left_out` in the metadata.

    Raises:
        InvalidFile: it has no header, no text, or more than 200 parts.
    """
    return _mail(data, 0)


def _mail(data: bytes, depth: int) -> Document:
    # The older policy: the newer one parses addresses with a grammar that takes long for hostile ones, or fails.
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    if not message.keys():
        raise InvalidFile("the mail has no header", fix="save it again as .eml")
    builder = DocumentBuilder("message/rfc822")
    found = {name: _header(message, name) for name in _HEADERS}
    for name, value in found.items():
        builder.note(name.lower(), value)
    builder.title = found["Subject"] or None
    headings = (one_line(found["Subject"]),) if found["Subject"] else ()
    head = "\n".join(f"{name}: {value}" for name, value in found.items() if value)
    builder.add(head, Place(headings=headings))
    parts = list(_leaves(message))
    body = _body(parts)
    if body is not None:
        _add_body(body, headings, builder)
    _add_attachments([part for part in parts if part is not body], depth, headings, builder)
    return builder.finish()


def _header(message: Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    try:
        text = str(email.header.make_header(email.header.decode_header(value)))
    except (ValueError, LookupError):  # an encoding that is none; UnicodeError is a ValueError
        text = str(value)
    return clean(" ".join(text.split()))


def _leaves(message: Message) -> Iterator[Message]:
    """Yields the parts that hold no others, in their order; an enclosed mail is one."""
    stack = [message]
    count = 0
    while stack:
        part = stack.pop()
        count += 1
        if count > _MOST_PARTS:
            raise InvalidFile(f"the mail has more than {_MOST_PARTS} parts", fix="save its parts as files")
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            stack.extend(one for one in reversed(payload) if isinstance(one, Message))
        else:
            yield part


def _body(parts: list[Message]) -> Message | None:
    for wanted in ("text/plain", "text/html"):
        for part in parts:
            attached = part.get_content_disposition() == "attachment"
            if part.get_content_type() == wanted and not attached and _bytes(part).strip():
                return part
    return None


def _bytes(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except (ValueError, LookupError, AssertionError):  # of a broken transfer encoding
        payload = str(part.get_payload()).encode("utf-8", "replace")
    return payload if isinstance(payload, bytes) else b""


def _charset(part: Message) -> str | None:
    charset = part.get_param("charset")
    return charset if isinstance(charset, str) else None


def _add_body(part: Message, headings: tuple[str, ...], builder: DocumentBuilder) -> None:
    text = decode(_bytes(part), _charset(part)).text
    if part.get_content_type() == "text/html":
        try:
            builder.extend(parse_html(_MARK + text.encode("utf-8", "replace")), headings)
        except DeepwellError as error:
            builder.note("left_out", f"the body ({error.message})")
        return
    builder.add(text, Place(headings=headings))


def _add_attachments(
    parts: list[Message], depth: int, headings: tuple[str, ...], builder: DocumentBuilder
) -> None:
    read = 0
    for number, part in enumerate(parts, 1):
        name = _name(part, number)
        if part.get_content_type() == "text/html" and part.get_content_disposition() is None:
            continue  # the same words as the text part
        if read >= _MOST_ATTACHMENTS:
            builder.note("left_out", f"{name} (behind {_MOST_ATTACHMENTS} attachments)")
            continue
        read += 1
        try:
            builder.extend(_attached(part, name, depth), (*headings, name))
        except DeepwellError as error:
            builder.note("left_out", f"{name} ({error.message})")


def _attached(part: Message, name: str, depth: int) -> Document:
    enclosed: Any = part.get_payload()
    is_mail = part.get_content_type() == "message/rfc822" and isinstance(enclosed, list) and bool(enclosed)
    data = _bytes(part)
    if is_mail:
        first = enclosed[0]
        data = first.as_bytes() if isinstance(first, Message) else b""
    if is_mail or (data.strip() and detect(data, name) == "eml"):
        if depth + 1 >= _MOST_DEPTH:
            raise InvalidFile(f"mails within mails, more than {_MOST_DEPTH} deep")
        return _mail(data, depth + 1)
    return parse_bytes(data, name)


def _name(part: Message, number: int) -> str:
    """Returns the name of an attachment: a title, never a path to write to."""
    try:
        name = part.get_filename() or ""
        name = str(email.header.make_header(email.header.decode_header(name)))
    except (ValueError, LookupError, TypeError):
        name = ""
    name = one_line(clean(name.replace("\\", "/").rpartition("/")[2]))
    return name or f"part {number} ({part.get_content_type()[:80]})"
