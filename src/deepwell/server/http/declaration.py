"""The declarations of the API families' routes, and the table in which the server looks them up.

A path stands in its family's declaration and nowhere else. Keys and scopes, errors, metrics, caches, batches, the OpenAPI
document and the pages made from it all read it here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from deepwell.server.http.documented import document

__all__ = ["OPEN", "Api", "Declaration", "DeclarationError", "Operation", "RouteTable"]

Api = Literal["openai", "anthropic", "ollama", "vllm", "deepwell"]
"""The API whose documentation describes a family."""

OPEN = "open"
"""Scope of a family that needs no key."""

_DEFAULT_SCOPE = "inference"
_DEFAULT_OPERATION_NAME = "chat"


class DeclarationError(Exception):
    """Raised when a family's declaration is incomplete, or contradicts its routes. The server does not start."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path.

    Attributes:
        method: HTTP method in lower case.
        path: path as in the OpenAPI document, with parameters in braces.
        answer: body of a 200: a type that msgspec encodes as JSON, or "text", "html", "bytes" or "jsonl".
        streams: whether it may answer with a stream instead: JSON lines in ollama's API, server-sent events in the others.
        request: model of the JSON body. The error for an unknown parameter suggests the nearest of its names.
        name: `gen_ai.operation.name` of what it computes, or None if it computes nothing.
        batches: whether the requests of a batch may call it.
        replays: whether a request of equal bytes may get a kept answer without being parsed.
        example: a body that is answered with 200. In it, `$model` and `$text` stand for a served model and any text.
    """

    method: Literal["get", "head", "post", "delete"]
    path: str
    answer: Any
    streams: bool = False
    request: type[BaseModel] | None = None
    name: str | None = None
    batches: bool = False
    replays: bool = False
    example: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The method and the path."""
        return self.method, self.path

    @property
    def root(self) -> str:
        """The path up to its first parameter: `/v1/files` for `/v1/files/{file_id}/content`."""
        return self.path.partition("/{")[0]


@dataclass(frozen=True, slots=True)
class Declaration:
    """The operations of a family, and the way they are served.

    Attributes:
        scope: the scope that a key needs (`access.principal.SCOPES`), or `OPEN`.
        limited: whether its requests count against rate limits and have a deadline. Those of an `OPEN` family never do.
        in_one_process: whether it keeps work in the memory of HTTP worker 0. The other workers forward its requests there.
        not_served: operations of its API that are not served, each with the reason.
        accepts: of the kinds that `documented.toml` lists for a parameter (`POST /v1/responses input[].type`), those that are
            accepted. All others are refused by name.
    """

    operations: Sequence[Operation]
    api: Api = "openai"
    scope: str = _DEFAULT_SCOPE
    limited: bool = True
    in_one_process: bool = False
    not_served: Mapping[str, str] = field(default_factory=dict[str, str])
    accepts: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    def roots(self) -> tuple[str, ...]:
        """The shortest paths with which all of its paths begin."""
        found: list[str] = []
        for root in sorted({operation.root for operation in self.operations}):
            if not any(root.startswith(f"{other}/") for other in found):
                found.append(root)
        return tuple(found)


class RouteTable:
    """The declarations of all families of a server.

    Raises:
        DeclarationError: two families declare the same operation.
    """

    def __init__(self, declarations: Sequence[Declaration]) -> None:
        self.declarations = tuple(declarations)
        self.operations: dict[tuple[str, str], Operation] = {}
        for operation in (one for declaration in declarations for one in declaration.operations):
            if operation.key in self.operations:
                raise DeclarationError(f"{operation.method.upper()} {operation.path} is declared twice")
            self.operations[operation.key] = operation
        operations = self.operations.values()
        self.batch_endpoints = tuple(
            sorted(
                one.path
                for declaration in declarations
                if declaration.api == "openai"
                for one in declaration.operations
                if one.batches
            )
        )
        self.replay_paths = frozenset(one.path for one in operations if one.replays)
        self.open_paths = frozenset(
            one.path
            for declaration in declarations
            if declaration.scope == OPEN
            for one in declaration.operations
        )
        self._open_roots = tuple(sorted(path.partition("{")[0] for path in self.open_paths if "{" in path))
        self._names = {one.path: one.name for one in operations if one.name is not None}
        self._requests = {one.path: one.request for one in operations if one.request is not None}
        scopes = [(root, one.scope) for one in declarations if one.scope != OPEN for root in one.roots]
        self._scopes = sorted(scopes, key=lambda pair: -len(pair[0]))  # the longest root decides
        self._limited = tuple(
            root for one in declarations if one.limited and one.scope != OPEN for root in one.roots
        )
        self._anthropic = self.roots(api="anthropic")
        refused = [
            (one.api, method.lower(), path, reason)
            for one in declarations
            for operation, reason in one.not_served.items()
            for method, _, path in [operation.partition(" ")]
        ]
        ollama = (path.partition("/{")[0] for api, _, path, _ in refused if api == "ollama")
        self._ollama = (*self.roots(api="ollama"), *ollama)
        documented = [(method, path, reason) for (method, path), reason in self.not_served.items()]
        self._not_served = [
            (method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), reason)
            for method, path, reason in (*documented, *(one[1:] for one in refused))
        ]

    @property
    def not_served(self) -> dict[tuple[str, str], str]:
        """Documented operations that no family declares: the reason by method (in lower case) and path."""
        served = {(method, _anonymous(path)) for method, path in self.operations}
        reasons = {key: why for one in self.declarations for key, why in one.not_served.items()}
        found: dict[tuple[str, str], str] = {}
        for family in document().families:
            for operation in family.operations:
                method, path = operation.split(" ")
                if (method.lower(), _anonymous(path)) not in served:
                    found[method.lower(), path] = reasons.get(operation) or family.not_served
        return found

    @property
    def undocumented(self) -> list[tuple[str, str]]:
        """Method and path of operations that belong to OpenAI's families and that their document does not have."""
        known = {one.lower() for family in document().families for one in map(_anonymous, family.operations)}
        return [
            one.key
            for declaration in self.declarations
            if declaration.api == "openai"
            for one in declaration.operations
            if f"{one.method} {_anonymous(one.path)}".lower() not in known
        ]

    def why_not(self, method: str, path: str) -> str | None:
        """Returns the reason why an operation is not served, or None if it is served or unknown.

        Known are those of OpenAI's document, and those that a declaration refuses: of ollama's API, or of an SDK newer than
        the document.
        """
        for known, pattern, reason in self._not_served:
            if known == method.lower() and pattern.fullmatch(path):
                return reason
        return None

    def roots(self, *, api: Api | None = None, in_one_process: bool = False) -> tuple[str, ...]:
        """Returns the roots of all families, or of those with one API, or of those in one process."""
        return tuple(
            root
            for one in self.declarations
            if (api is None or one.api == api) and one.in_one_process >= in_one_process
            for root in one.roots
        )

    def is_open(self, path: str) -> bool:
        """Returns whether requests to a path need no key."""
        return path in self.open_paths or path.startswith(self._open_roots)

    def scope_of(self, path: str) -> str:
        """Returns the scope that a path needs. A path that nobody declares belongs to inference."""
        for root, scope in self._scopes:
            if path == root or path.startswith(f"{root}/"):
                return scope
        return _DEFAULT_SCOPE

    def is_limited(self, path: str) -> bool:
        """Returns whether requests to a path count against rate limits and have a deadline."""
        if path.startswith("/v1/"):  # what nobody declares counts too: it might be a mistake that repeats
            return True
        return any(path == root or path.startswith(f"{root}/") for root in self._limited)

    def is_anthropic(self, path: str) -> bool:
        """Returns whether errors on a path have the shape of Anthropic's API."""
        return path.startswith(self._anthropic)

    def is_ollama(self, path: str) -> bool:
        """Returns whether errors on a path have the shape of ollama's API."""
        return path.startswith(self._ollama)

    def name_of(self, path: str) -> str:
        """Returns `gen_ai.operation.name` of what a path computes ("chat" if it declares none)."""
        return self._names.get(path, _DEFAULT_OPERATION_NAME)

    def parameters_of(self, path: str) -> list[str]:
        """Returns the names that a JSON body may have on a path. There are none if the path declares no request."""
        model = self._requests.get(path)
        return [] if model is None else list(model.model_fields)


def _anonymous(path: str) -> str:
    """Returns a path with nameless parameters: the document and the declarations may name them differently."""
    return re.sub(r"\{\w+\}", "{}", path)
