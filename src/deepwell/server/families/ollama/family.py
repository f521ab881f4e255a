"""The family of ollama's API, for clients that speak no other."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.ollama.bodies import (
    OllamaChatAnswer,
    OllamaEmbeddingAnswer,
    OllamaEmbeddingsAnswer,
    OllamaGenerateAnswer,
    OllamaModels,
    OllamaModelShown,
    OllamaRunning,
    OllamaVersion,
)
from deepwell.server.families.ollama.routes import router
from deepwell.server.families.ollama.schema import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
)
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_GREEDY = '"stream": false, "options": {"temperature": 0, "num_predict": 40}'

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/api/chat",
                OllamaChatAnswer,
                streams=True,
                request=OllamaChatRequest,
                name="chat",
                example=f'{{"model": "$model", "messages": [{{"role": "user", "content": "$text"}}], {_GREEDY}}}',
            ),
            Operation(
                "post",
                "/api/generate",
                OllamaGenerateAnswer,
                streams=True,
                request=OllamaGenerateRequest,
                name="text_completion",
                example=f'{{"model": "$model", "prompt": "$text", {_GREEDY}}}',
            ),
            Operation(
                "post",
                "/api/embed",
                OllamaEmbeddingsAnswer,
                request=OllamaEmbedRequest,
                name="embeddings",
                example='{"model": "$model", "input": ["$text"]}',
            ),
            Operation(
                "post",
                "/api/embeddings",
                OllamaEmbeddingAnswer,
                request=OllamaEmbeddingsRequest,
                name="embeddings",
                example='{"model": "$model", "prompt": "$text"}',
            ),
            Operation(
                "post",
                "/api/show",
                OllamaModelShown,
                request=OllamaShowRequest,
                example='{"model": "$model"}',
            ),
            Operation("get", "/api/tags", OllamaModels),
            Operation("get", "/api/ps", OllamaRunning),
            Operation("get", "/api/version", OllamaVersion),
        ),
        api="ollama",
        not_served={
            "POST /api/pull": "run `deepwell pull NAME` on the server's machine, then `deepwell serve NAME`",
            "POST /api/push": "models are not published from here; `deepwell models export NAME` writes one as files",
            "POST /api/create": "serve a LoRA adapter with `deepwell serve --adapter NAME=PATH`, and send `system` or options",
            "POST /api/copy": "a model has one name here; a client can keep its own names",
            "DELETE /api/delete": "run `deepwell models remove NAME` on the server's machine",
            "POST /api/blobs/{digest}": "run `deepwell pull PATH` on the server's machine for files that are there",
            "HEAD /api/blobs/{digest}": "run `deepwell models list` on the server's machine",
        },
    ),
    router,
)
