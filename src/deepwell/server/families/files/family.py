"""The family of files."""

from __future__ import annotations

from collections.abc import Mapping

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.files.bodies import File, FileDeleted, FileList
from deepwell.server.families.files.routes import FILE_FIX, router
from deepwell.server.families.files.schema import PURPOSES
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.server.http.middleware import BodyAllowance
from deepwell.server.http.multipart import FORM_OVERHEAD_BYTES

__all__ = ["FAMILY"]

_FILES = "/v1/files"
_FILE = "/v1/files/{file_id}"


def _allowances(context: ServerContext) -> Mapping[str, BodyAllowance]:
    return {_FILES: BodyAllowance(context.options.files.max_file_bytes + FORM_OVERHEAD_BYTES, FILE_FIX)}


FAMILY = Family(
    Declaration(
        (
            Operation("post", _FILES, File),
            Operation("get", _FILES, FileList),
            Operation("get", _FILE, File),
            Operation("delete", _FILE, FileDeleted),
            Operation("get", f"{_FILE}/content", "bytes"),
        ),
        scope="files",
        accepts={"POST /v1/files purpose": PURPOSES},
    ),
    router,
    body_allowances=_allowances,
)
