"""`options` of ollama's requests: what shapes an answer is kept, what cannot change it is ignored, the rest is refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from deepwell.dialogue.model import SamplingOptions, ServedModel
from deepwell.errors import ContextLengthExceeded
from deepwell.server.families.generation_schema import stop_strings
from deepwell.server.http.schema import Strict, refuse, unsupported

__all__ = ["OllamaOptions"]

_MOST_STOPS = 16


def _num_predict(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise unsupported("0 asks for no token: send 1 or more, or -1 for all that the context leaves")
    return value


def _only_one(reason: str) -> BeforeValidator:
    """Returns a validator that accepts the number 1 alone, with which a filter keeps every token."""

    def check(value: Any) -> Any:
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value == 1):
            return value
        raise unsupported(reason)

    shown = WithJsonSchema({"enum": [None, 1], "description": f"Otherwise refused: {reason}."})
    return BeforeValidator(check, json_schema_input_type=Annotated[Any, shown])


def _ignored(reason: str) -> Any:
    return Field(None, description=f"Accepted, changes nothing: {reason}.")


_MACHINE = "the server chooses for its machine"
_NO_SHIFT = "the context is never shifted"
_NO_MIROSTAT = "mirostat is refused"


class OllamaOptions(Strict):
    """Options of a request to ollama's API."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="-1: random.")
    num_predict: Annotated[int | None, BeforeValidator(_num_predict)] = Field(
        None, ge=-2, description="-1 or -2: all that the context leaves."
    )
    stop: Annotated[
        list[str],
        BeforeValidator(stop_strings, json_schema_input_type=str | list[str] | None),
        Field(max_length=_MOST_STOPS),
    ] = Field(default_factory=list[str])
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    num_ctx: int | None = Field(None, ge=1, description="At most the context that the model is served with.")

    repeat_last_n: Annotated[Any, refuse("penalties look at the whole context: send -1", -1)] = None
    penalize_newline: Annotated[Any, refuse("penalties count line breaks too: leave it out", True)] = None
    typical_p: Annotated[Any, _only_one("typical sampling is not supported: use top_p or min_p")] = None
    tfs_z: Annotated[Any, _only_one("tail-free sampling is not supported: use top_p or min_p")] = None
    mirostat: Annotated[Any, refuse("mirostat is not supported: use temperature, top_p or min_p", 0)] = None
    vocab_only: Annotated[Any, refuse("the whole model is loaded: leave it out", False)] = None
    embedding_only: Annotated[Any, refuse("serve it with --embedding-model instead", False)] = None

    mirostat_tau: float | None = _ignored(_NO_MIROSTAT)
    mirostat_eta: float | None = _ignored(_NO_MIROSTAT)
    num_keep: int | None = _ignored(_NO_SHIFT)
    num_thread: int | None = _ignored(_MACHINE)
    num_batch: int | None = _ignored(_MACHINE)
    num_gpu: int | None = _ignored(_MACHINE)
    main_gpu: int | None = _ignored(_MACHINE)
    numa: bool | None = _ignored(_MACHINE)
    low_vram: bool | None = _ignored(_MACHINE)
    f16_kv: bool | None = _ignored(_MACHINE)
    use_mmap: bool | None = _ignored(_MACHINE)
    use_mlock: bool | None = _ignored(_MACHINE)
    logits_all: bool | None = _ignored(_MACHINE)

    def sampling(self) -> SamplingOptions:
        """Returns the sampling parameters, as `ServedModel.sampling` takes them."""
        return SamplingOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repeat_penalty,
            seed=None if self.seed == -1 else self.seed,
        )

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; None: what is left of the context."""
        return None if self.num_predict is None or self.num_predict < 0 else self.num_predict

    def check(self, model: ServedModel) -> None:
        """Checks that the model has the context that is asked for.

        Raises:
            ContextLengthExceeded: its context is shorter.
        """
        window = model.capabilities.max_model_len
        if self.num_ctx is not None and self.num_ctx > window:
            raise ContextLengthExceeded(
                f"num_ctx asks for a context of {self.num_ctx} tokens, and {model.name!r} is served with {window}",
                fix=f"send at most {window}, or start the server with --context {self.num_ctx} if the model allows it",
                param="options.num_ctx",
            )
