"""The family of tokenizing, with vLLM's paths."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.tokenize.bodies import Detokenized, Tokenized
from deepwell.server.families.tokenize.routes import router
from deepwell.server.families.tokenize.schema import DetokenizeRequest, TokenizeRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/tokenize",
                Tokenized,
                request=TokenizeRequest,
                example='{"model": "$model", "prompt": "$text"}',
            ),
            Operation(
                "post",
                "/detokenize",
                Detokenized,
                request=DetokenizeRequest,
                example='{"model": "$model", "tokens": [97, 98, 99]}',
            ),
        ),
        api="vllm",
    ),
    router,
)
