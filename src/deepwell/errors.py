"""Domain errors. Each knows its HTTP status, its OpenAI error type and the fix it suggests."""

from __future__ import annotations

__all__ = [
    "ContextLengthExceeded",
    "DeepwellError",
    "DownloadError",
    "EngineRestarted",
    "EngineUnavailable",
    "InsufficientMemory",
    "InvalidModelFile",
    "InvalidRequest",
    "MissingDependency",
    "ModelNotFound",
    "NotFound",
    "PortInUse",
    "StorageError",
    "StorageUnavailable",
    "UnsupportedModel",
]


class DeepwellError(Exception):
    """Base of every error a user can meet.

    ``message`` says what happened, with numbers; ``fix`` says what to do about it and is shown on a line of its own.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: int | None = None  # seconds, where waiting helps

    def __init__(self, message: str, *, fix: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.param = param

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


class InvalidRequest(DeepwellError):
    """A request that can never succeed as sent."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and ``max_tokens`` together do not fit the context window."""

    code = "context_length_exceeded"


class ModelNotFound(DeepwellError):
    """A model name that is neither in the store nor in the catalog."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotFound(DeepwellError):
    """No such object, or one of another tenant: the two are not told apart."""

    status = 404
    type = "invalid_request_error"


class StorageError(DeepwellError):
    """The database cannot be opened, or is of a version that this Deepwell does not know."""

    type = "storage_error"


class StorageUnavailable(StorageError):
    """The database cannot serve just now: gone, full, locked; the message says what became of the change."""

    status = 503
    code = "storage_unavailable"


class InvalidModelFile(DeepwellError):
    """A corrupt, truncated or hostile model file, refused with its reason."""

    status = 422
    type = "invalid_model_file"


class UnsupportedModel(DeepwellError):
    """A sound model file of an architecture or format that Deepwell does not run."""

    status = 422
    type = "unsupported_model"


class DownloadError(DeepwellError):
    """A download that failed, or whose bytes are not those the manifest promises."""

    status = 502
    type = "download_error"


class EngineUnavailable(DeepwellError):
    """There is no engine at the moment: it is being restarted, or keeps failing."""

    status = 503
    code = "engine_unavailable"


class EngineRestarted(DeepwellError):
    """The engine ended while it worked on a request, and what it had computed is lost."""

    status = 503
    code = "engine_restarted"


class InsufficientMemory(DeepwellError):
    """The memory plan does not fit; the message carries the numbers, the fix the options that would fit."""

    status = 507
    type = "insufficient_memory"


class MissingDependency(DeepwellError):
    """A verb needs an extra that is not installed; the fix is the command that brings it."""

    type = "missing_dependency"


class PortInUse(DeepwellError):
    """The address is taken; the message names the owner, the fix the flag."""

    type = "port_in_use"
