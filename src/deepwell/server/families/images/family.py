"""The family of images."""

from __future__ import annotations

from collections.abc import Mapping

from deepwell.media.images.decode import MOST_BYTES
from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.images import routes
from deepwell.server.families.images.bodies import ImagesBody
from deepwell.server.families.images.schema import ImageGenerationBody
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.server.http.middleware import BodyAllowance
from deepwell.server.http.multipart import FORM_OVERHEAD_BYTES

__all__ = ["FAMILY"]

_EDITS = "/v1/images/edits"
_VARIATIONS = "/v1/images/variations"


def _allowances(context: ServerContext) -> Mapping[str, BodyAllowance]:
    return {
        _EDITS: BodyAllowance(2 * MOST_BYTES + FORM_OVERHEAD_BYTES, routes.IMAGE_FIX),
        _VARIATIONS: BodyAllowance(MOST_BYTES + FORM_OVERHEAD_BYTES, routes.IMAGE_FIX),
    }


FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/images/generations",
                ImagesBody,
                request=ImageGenerationBody,
                streams=True,
                name="image_generation",
                batches=True,
            ),
            Operation("post", _EDITS, ImagesBody, streams=True, name="image_edit"),
            Operation("post", _VARIATIONS, ImagesBody, name="image_variation"),
        ),
        in_one_process=True,  # one process of each model
    ),
    routes.router,
    body_allowances=_allowances,
)
