"""Domain errors. Each has an HTTP status, an OpenAI error type and a suggested fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from deepwell.messages import Language, render

__all__ = [
    "ContextLengthExceeded",
    "DeepwellError",
    "DownloadError",
    "EngineRestarted",
    "EngineUnavailable",
    "GrammarFailed",
    "InsufficientMemory",
    "InvalidFile",
    "InvalidModelFile",
    "InvalidRequest",
    "MissingDependency",
    "ModelNotFound",
    "NotFound",
    "PortInUse",
    "SourceError",
    "StorageError",
    "StorageUnavailable",
    "TermListNotFound",
    "UnsupportedFile",
    "UnsupportedModel",
]


class DeepwellError(Exception):
    """Base of every error a user can meet.

    ``message`` says what happened, with numbers. ``fix`` says what to do about it and is shown on its own line. Both are
    English. An error that was made by ``of`` can be said in every language of the catalogue.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: int | None = None  # seconds to wait, if waiting helps

    def __init__(self, message: str, *, fix: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.param = param
        self._key = ""
        self._values: dict[str, Any] = {}
        self._parts: tuple[DeepwellError, ...] = ()

    @classmethod
    def of(cls, key: str, /, *, param: str | None = None, **values: Any) -> Self:
        """Returns the error whose texts the catalogue of messages has under a key.

        Args:
            values: the values of its placeholders, by name.
        """
        message, fix = render(key, "en", values)
        error = cls(message, fix=fix, param=param)
        error._key, error._values = key, values
        return error

    @classmethod
    def joined(cls, errors: Sequence[DeepwellError]) -> Self:
        """Returns one error that says what several say, in their order, and each fix once."""
        fixes = dict.fromkeys(one.fix for one in errors if one.fix)
        error = cls("; ".join(one.message for one in errors), fix="; ".join(fixes))
        error._parts = tuple(errors)
        return error

    @property
    def texts(self) -> tuple[str, dict[str, str | int | float]]:
        """Key of the texts in the catalogue of messages, empty if there is none, and plain values of their placeholders."""
        values = {n: v if isinstance(v, str | int | float) else str(v) for n, v in self._values.items()}
        return self._key, values

    @texts.setter
    def texts(self, texts: tuple[str, dict[str, str | int | float]]) -> None:
        self._key, self._values = texts[0], dict(texts[1])

    def said(self, language: Language) -> tuple[str, str]:
        """Returns the message and the fix in a language; in English where the catalogue does not have them."""
        if self._key and language != "en":
            return render(self._key, language, self._values)
        if self._parts:
            said = [part.said(language) for part in self._parts]
            fixes = dict.fromkeys(fix for _, fix in said if fix)
            return "; ".join(message for message, _ in said), "; ".join(fixes)
        return self.message, self.fix

    def in_chinese(self) -> str:
        """Returns message and fix in Chinese, as one text; in English where the catalogue does not have them."""
        message, fix = self.said("zh")
        if (message, fix) == self.said("en"):
            return str(self)
        return f"{message}：{fix}" if fix else message

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


class InvalidRequest(DeepwellError):
    """Raised for a request that can never succeed as sent."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Raised when the prompt and ``max_tokens`` together do not fit the context window."""

    code = "context_length_exceeded"


class InvalidFile(InvalidRequest):
    """Raised for a document that is broken, holds no text, or takes more than the limits to read."""

    code = "invalid_file"


class UnsupportedFile(InvalidRequest):
    """Raised for a document whose format Deepwell does not read. The fix names those that it reads."""

    code = "unsupported_file"


class GrammarFailed(InvalidRequest):
    """Raised when a grammar cannot go on, or costs too much. The same request would fail again."""

    code = "grammar_failed"


class ModelNotFound(DeepwellError):
    """Raised for a model name that is neither in the store nor in the catalog."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class TermListNotFound(DeepwellError):
    """Raised when a list of terms that the guard is to use is not on this machine. The fix is the command that fetches it."""

    status = 503
    code = "term_list_not_found"


class NotFound(DeepwellError):
    """Raised for an object that does not exist or belongs to another tenant. The two cases look the same."""

    status = 404
    type = "invalid_request_error"


class StorageError(DeepwellError):
    """Raised when the database or the data folder cannot be used, or a newer Deepwell made the database."""

    type = "storage_error"


class StorageUnavailable(StorageError):
    """Raised when the database is unreachable, full or locked. The message says what became of the change."""

    status = 503
    code = "storage_unavailable"


class StorageDamaged(StorageUnavailable):
    """Raised when the database holds bytes that nobody wrote."""

    code = "storage_damaged"


class InvalidModelFile(DeepwellError):
    """Raised for a corrupt, truncated or hostile model file; the message gives the reason."""

    status = 422
    type = "invalid_model_file"


class UnsupportedModel(DeepwellError):
    """Raised for a sound model file whose architecture or format Deepwell does not run."""

    status = 422
    type = "unsupported_model"


class DownloadError(DeepwellError):
    """Raised when a download fails, or when its bytes are not the expected ones."""

    status = 502
    type = "download_error"


class SourceError(DeepwellError):
    """Raised when a source of knowledge, or one document of it, cannot be read."""

    status = 502
    type = "source_error"


class EngineUnavailable(DeepwellError):
    """Raised while there is no engine, because it is being restarted or keeps failing."""

    status = 503
    code = "engine_unavailable"


class EngineRestarted(DeepwellError):
    """Raised when the engine ends while it works on a request. The computed part is lost."""

    status = 503
    code = "engine_restarted"


class InsufficientMemory(DeepwellError):
    """Raised when the memory plan does not fit. The message has the numbers, the fix the options that would fit."""

    status = 507
    type = "insufficient_memory"


class MissingDependency(DeepwellError):
    """Raised when a command needs a package that is not installed. The fix is the command that installs it."""

    type = "missing_dependency"


class PortInUse(DeepwellError):
    """Raised when the address is in use. The message names the owner, the fix the flag."""

    type = "port_in_use"
