"""The family of reranking and scoring, with vLLM's paths, of which Cohere and Jina have some too."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.ranking.bodies import Ranking, ScoreList
from deepwell.server.families.ranking.routes import RERANK_PATHS, SCORE_PATHS, router
from deepwell.server.families.ranking.schema import RerankRequest, ScoreRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_RERANK = '{"model": "$model", "query": "$text", "documents": ["$text", "another"]}'
_SCORE = '{"model": "$model", "text_1": "$text", "text_2": ["$text", "another"]}'

FAMILY = Family(
    Declaration(
        (
            *(
                Operation("post", path, Ranking, request=RerankRequest, name="rerank", example=_RERANK)
                for path in RERANK_PATHS
            ),
            *(
                Operation("post", path, ScoreList, request=ScoreRequest, name="score", example=_SCORE)
                for path in SCORE_PATHS
            ),
        ),
        api="vllm",
    ),
    router,
)
