"""One look of `deepwell serve --improve`: `python -m deepwell.cli.improving.look ORDER` goes on with the round of an alias.

It prints events, one JSON object a line, and ends with 0, with 2 after an error that the operator can mend, or with 75 when
SIGTERM stopped it. The process that serves has nothing to do with the work but to start it: whatever is computed here is
computed at the lowest priority.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    from deepwell.fleet.improve.loop import Progress
    from deepwell.settings import Settings
    from deepwell.storage.database import Database

__all__ = ["MISTAKE", "STOPPED", "Order", "command"]

MISTAKE: Final = 2
STOPPED: Final = 75

_MODULE: Final = "deepwell.cli.improving.look"
_FLAGS: Final = ("models_dir", "adapter_dir")  # settings that the server's flags may have set


@dataclass(frozen=True, slots=True)
class Order:
    """The orders of a look.

    Attributes:
        model: the model that adapters are trained on: a name in the store, or a path.
        served: the name by which it is served.
        make: whether the alias is made if it is missing.
        flags: settings that were set by flags of the server.
    """

    alias: str
    model: str
    served: str
    make: bool
    flags: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, settings: Settings, served: str) -> Order:
        """Returns the orders for the main model of a server.

        Args:
            served: its name.
        """
        flags = {name: str(value) for name in _FLAGS if (value := getattr(settings, name)) is not None}
        alias = settings.improve_alias or f"{served}@prod"
        return cls(alias, settings.model, served, settings.improve_alias is None, flags)


def command(order: Order) -> list[str]:
    """Returns the command of a look."""
    return [sys.executable, "-P", "-m", _MODULE, json.dumps(asdict(order))]


async def look(order: Order, settings: Settings, database: Database, say: Any) -> Progress | None:
    """Goes on with the round of an alias; None: another process does.

    Raises:
        DeepwellError: a step cannot be done now.
    """
    from deepwell.cli.improve import folder_of, parts_of
    from deepwell.fleet.improve.leading import lead
    from deepwell.fleet.improve.loop import Improver, ImproveTerms
    from deepwell.fleet.improve.serving import ByAlias
    from deepwell.fleet.improve.sets import SHIPPED, read_sets
    from deepwell.fleet.promotion.rollout import Rollouts
    from deepwell.server.families.fine_tuning.configured import training_threads
    from deepwell.storage.aliases import AliasStore
    from deepwell.storage.jobs.rows import JobStore
    from deepwell.storage.safety.anchors import Anchors

    sets = read_sets(SHIPPED)
    place = folder_of(None, order.alias, settings)
    terms = ImproveTerms(
        order.alias,
        order.model,
        least_new=settings.improve_least_new,
        share=settings.improve_share,
        hashes=sets.hashes,
        tenants=tuple(settings.improve_tenants),
    )

    async def work() -> Progress:
        anchors = Anchors.of(settings)
        aliases = AliasStore(database, anchors)
        if order.make and order.alias not in (await aliases.names()).models:
            await aliases.set(order.alias, order.served, "improve")
        parts = parts_of(database, settings.improve_tenants, sets, ByAlias(), training_threads())
        improver = Improver(terms, place, database, Rollouts(database, anchors), parts)
        return await improver.run(say)

    owner = f"{os.uname().nodename}:{os.getpid()}:{os.urandom(4).hex()}"
    return await lead(JobStore(database), order.alias, owner, work)


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def _until_told(order: Order, settings: Settings) -> int:
    """Looks, or stops at SIGTERM: then what is under way is given back first."""
    from deepwell.storage.database import Database

    database = Database.of(settings)
    looking = asyncio.ensure_future(look(order, settings, database, _say))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, looking.cancel)
    try:
        found = await looking
    except asyncio.CancelledError:
        return STOPPED
    finally:
        database.close()
    _say({"event": "progress", **({"led": False} if found is None else found.to_json())})
    return 0


def main(arguments: list[str]) -> int:
    """Looks once, and returns the exit status."""
    from deepwell.settings import Settings

    try:
        order = Order(**json.loads(arguments[0]))
        settings = Settings.load(**{name: Path(value) for name, value in order.flags.items()})
        with asyncio.Runner() as runner:
            code = runner.run(_until_told(order, settings))
            if code == STOPPED:
                os._exit(STOPPED)  # a measurement that computes in a thread is not waited for
            return code
    except DeepwellError as error:
        return _mistaken(error)
    except OSError as error:  # a disk that is full, a folder that may not be written
        from deepwell.cli.output import system_error

        return _mistaken(system_error(error))


def _mistaken(error: DeepwellError) -> int:
    _say({"event": "error", "message": error.message, "fix": error.fix})
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
