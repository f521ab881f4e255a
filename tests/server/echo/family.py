from __future__ import annotations

from tests.server.echo.bodies import Echo
from tests.server.echo.routes import router
from tests.server.echo.schema import EchoRequest

from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/echo",
                Echo,
                request=EchoRequest,
                name="echo",
                batches=True,
                example='{"model": "$model", "text": "$text"}',
            ),
        )
    ),
    router,
)
