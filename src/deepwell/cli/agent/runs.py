"""`open_runs`: the runs of a running server, else those of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deepwell.cli.agent.asked import Runs
from deepwell.cli.answers import ServerFailed
from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["open_runs"]


def open_runs(settings: Settings, *, is_local: bool = False) -> Runs:
    """Returns the runs of the running server, or those of this machine if no server serves the model.

    Args:
        is_local: whether the task is about files or knowledge of this machine.

    Raises:
        InvalidRequest: a server is named for a task about this machine.
        ServerFailed, InvalidKey: the server that is named cannot be used.
    """
    from deepwell.cli.servers import client_key, examine_server, require_key, server_url

    origins = settings.origins()
    is_pinned = settings.url is not None or origins["port"].startswith("flag")
    if is_pinned and is_local:
        raise InvalidRequest.of("agent_folder_is_local")
    if not is_local:
        url, key = server_url(settings), client_key(settings)
        found = examine_server(url, key)
        if is_pinned and found.state == "absent":
            raise ServerFailed.of("server_absent", url=url, port=urlsplit(url).port or 80)
        if is_pinned and not found.is_deepwell:
            raise ServerFailed.of("server_foreign", url=url)
        if found.is_deepwell and (is_pinned or found.state in ("keyed", "serving")):
            require_key(found, key)
            model = found.own_model if origins["model"] == "default" and found.models else settings.model
            if is_pinned or model in found.models:
                from deepwell.cli.agent.remote import RemoteRuns

                return RemoteRuns(url, model, key)
    from deepwell.cli.agent.local import LocalRuns

    return LocalRuns(settings)
