"""`RegistryStore`: versions of models, and their roll-outs behind aliases. Each call is one transaction.

A roll-out goes from nothing to `canary`, takes any number of steps of its share, and ends as `promoted`, `rolled_back` or
`aborted`. The alias, its history and
the ledger change together or not at all, so that a process that is killed leaves the state before or the state after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.aliases import Alias, Canary, change_in, check_alias, find_in, require_as_told
from deepwell.storage.database import Database
from deepwell.storage.registry.ledger import (
    Entry,
    Ledger,
    append_entry,
    check_author,
    entries_in,
    lock_ledger,
    trusted_entries,
)
from deepwell.storage.registry.story import Outcome, Rollout, Steps, Story, Version, told

__all__ = ["NewVersion", "RegistryStore", "newest_promotion"]

T = TypeVar("T")
_MOST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version as it is registered: see `Version`."""

    model: str
    artefact: str = ""
    artefact_sha256: str = ""
    parents: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])


class RegistryStore:
    """Versions and roll-outs. They belong to the server and not to a tenant, as models and aliases do."""

    def __init__(self, database: Database, ledger: Ledger | None = None) -> None:
        self._database = database
        self.ledger = ledger or Ledger(database)

    async def story(self, alias: str | None = None) -> Story:
        """Returns what the ledger tells of an alias, or of all.

        Raises:
            LedgerChanged: it tells no story.
        """
        return told(await self.ledger.entries(alias))

    async def trusted_story(self, alias: str) -> Story:
        """Returns what the ledger tells of an alias, for whoever acts on it.

        Raises:
            LedgerChanged: it does not hold.
        """
        remembered = await self.ledger.remembered()
        return told(
            await self._database.read(lambda connection: trusted_entries(connection, remembered, alias))
        )

    async def register(self, alias: str, version: NewVersion, by: str) -> Version:
        """Adds the next version of an alias, which need not exist yet.

        Raises:
            InvalidRequest: no alias can have this name, or no model that.
        """
        check_alias(alias, version.model)

        def work(connection: Connection) -> Version:
            number = len(told(entries_in(connection, alias)).versions) + 1
            values = {name: getattr(version, name) for name in NewVersion.__dataclass_fields__}
            values |= {"version": f"{alias}#{number}", "number": number, "parents": list(version.parents)}
            entry = append_entry(connection, "version", alias, by, values)
            return told([entry]).versions[f"{alias}#{number}"]

        return await self._change(by, work)

    async def gate(self, version: str, report: Mapping[str, Any], by: str) -> Version:
        """Notes what the gates say of a version. `report["passed"]` is the verdict, and the newest report counts.

        Raises:
            NotFound: there is no such version.
        """
        alias = version.rpartition("#")[0]

        def work(connection: Connection) -> Version:
            story = told(entries_in(connection, alias))
            _version(story, version)
            append_entry(connection, "gates", alias, by, {"version": version, "report": report})
            return told(entries_in(connection, alias)).versions[version]

        return await self._change(by, work)

    async def start(
        self,
        version: str,
        share: float,
        plan: Mapping[str, Any],
        by: str,
        *,
        ungated: str = "",
        tenants: Sequence[str] = (),
        steps: Steps | None = None,
    ) -> Rollout:
        """Gives the `share` of users of an alias one of its versions.

        Args:
            ungated: the reason for rolling out a version that its gates did not let pass; the ledger keeps it.
            tenants: tenants whose votes decide; empty: all.
            steps: shares that a deployment takes one after the other; with them, the `share` may begin at 0.

        Raises:
            NotFound: there is no such version, or no such alias.
            InvalidRequest: another roll-out is under way, the alias means this model already, or the gates refused it.
            LedgerChanged: the ledger does not hold.
        """
        if not (0 < share < 1 or (steps is not None and share == 0)):
            raise InvalidRequest.of("rollout_share", param="share", share=f"{share:g}")
        alias = version.rpartition("#")[0]
        id = f"rollout_{secrets.token_hex(12)}"  # random, because users are split by it

        def work(connection: Connection, before: Alias, entries: Sequence[Entry]) -> Rollout:
            found = _version(told(entries), version)
            if before.candidate is not None:
                raise InvalidRequest.of("rollout_running", alias=alias, candidate=before.candidate)
            if found.model == before.model:
                raise InvalidRequest(f"{alias!r} means {found.model!r} already", fix="name another version")
            if not found.passed and not ungated:
                key = "rollout_unseen" if found.gates is None else "rollout_refused"
                raise InvalidRequest.of(key, alias=alias, version=version)
            change_in(connection, alias, before.model, by, Canary(found.model, share, id))
            values = {
                "rollout": id,
                "version": version,
                "model": before.model,
                "candidate": found.model,
                "share": share,
                "plan": plan,
                "tenants": list(tenants),
                "reason": _checked(ungated),
                **({} if steps is None else steps.to_json()),
            }
            return told([append_entry(connection, "canary", alias, by, values)]).rollouts[id]

        return await self._act(alias, by, work)

    async def step(
        self,
        alias: str,
        share: float,
        by: str,
        *,
        rollout: str,
        numbers: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """Gives the candidate of an alias to another share of the users, and leaves its roll-out under way.

        Args:
            share: 0 to 1, another one than now.
            numbers: what was decided by.
            rollout: id of the roll-out that is meant.

        Raises:
            NotFound: there is no such alias.
            InvalidRequest: this roll-out is not under way, or the share is the one of now or none at all.
        """
        if not 0 <= share <= 1:
            raise InvalidRequest.of("rollout_share", param="share", share=f"{share:g}")

        def work(connection: Connection, before: Alias, entries: Sequence[Entry]) -> Rollout:
            if before.candidate is None or rollout != before.rollout:
                raise InvalidRequest.of("rollout_ended", alias=alias, rollout=rollout)
            if share == before.share:
                raise InvalidRequest(
                    f"{100 * share:g} % of the users of {alias!r} get the candidate already",
                    fix="name another share",
                    param="share",
                )
            change_in(connection, alias, before.model, by, Canary(before.candidate, share, rollout))
            values = {"rollout": rollout, "share": share, "before": before.share, "numbers": numbers or {}}
            made = append_entry(connection, "step", alias, by, values)
            return told([*entries, made]).rollouts[rollout]

        return await self._act(alias, by, work)

    async def end(
        self,
        alias: str,
        outcome: Outcome,
        by: str,
        *,
        reason: str = "",
        numbers: Mapping[str, Any] | None = None,
        rollout: str | None = None,
    ) -> Rollout:
        """Ends the roll-out of an alias: all users get the candidate if it is promoted, else nobody does.

        A ledger that does not hold keeps nobody from taking a candidate away.

        Args:
            numbers: what was decided by.
            rollout: id of the roll-out that is meant; None: the one that is under way.

        Raises:
            NotFound: there is no such alias.
            InvalidRequest: no roll-out is under way, or another one than is meant.
            LedgerChanged: a candidate is to be promoted, and the ledger does not hold.
        """

        def work(connection: Connection, before: Alias, entries: Sequence[Entry]) -> Rollout:
            if before.candidate is None or rollout not in (None, before.rollout):
                key = "rollout_none" if rollout is None else "rollout_ended"
                raise InvalidRequest.of(key, alias=alias, rollout=rollout or "")
            model = before.candidate if outcome == "promoted" else before.model
            change_in(connection, alias, model, by)
            values = {
                "rollout": before.rollout,
                "model": model,
                "before": before.model,
                "reason": _checked(reason),
                "numbers": numbers or {},
            }
            made = append_entry(connection, outcome, alias, by, values)
            return told([*entries, made]).rollouts[before.rollout or ""]

        if outcome == "promoted":
            return await self._act(alias, by, work)
        return await self._change(
            by,
            lambda connection: work(connection, _alias(connection, alias), entries_in(connection, alias)),
        )

    async def revert(self, alias: str, by: str, *, reason: str = "") -> Alias:
        """Undoes the newest promotion: the alias means again what it meant before.

        Raises:
            NotFound: there is no such alias.
            InvalidRequest: a roll-out is under way, or nothing was promoted since the alias was set.
        """

        def work(connection: Connection, before: Alias, entries: Sequence[Entry]) -> Alias:
            if before.candidate is not None:
                raise InvalidRequest.of("rollout_under_way", alias=alias, candidate=before.candidate)
            promoted = newest_promotion(entries)
            if promoted is None or promoted.fields["model"] != before.model:
                raise InvalidRequest.of("rollout_unreverted", alias=alias, model=before.model)
            model = promoted.fields["before"]
            made = change_in(connection, alias, model, by)
            values = {"model": model, "before": before.model, "reason": _checked(reason)}
            append_entry(connection, "reverted", alias, by, values)
            return made

        return await self._act(alias, by, work)

    async def _act(self, alias: str, by: str, work: Callable[[Connection, Alias, Sequence[Entry]], T]) -> T:
        """Gives users another version of an alias, if the ledger holds. `work` takes the alias, and its entries.

        Raises:
            NotFound: there is no such alias.
            LedgerChanged: the ledger does not hold, or the alias is not as it says.
        """
        remembered = await self.ledger.remembered()

        def trusted(connection: Connection) -> T:
            entries = trusted_entries(connection, remembered, alias)
            before = _alias(connection, alias)
            require_as_told(told(entries), [before])
            return work(connection, before, entries)

        return await self._change(by, trusted)

    async def _change(self, by: str, work: Callable[[Connection], T]) -> T:
        check_author(by)

        def locked(connection: Connection) -> T:
            lock_ledger(connection)
            return work(connection)

        done = await self._database.write(locked)
        await self.ledger.remember()
        return done


def _checked(reason: str) -> str:
    if len(reason) > _MOST_REASON:
        raise InvalidRequest(
            f"a reason has at most {_MOST_REASON} characters, and this has {len(reason)}",
            fix="say it shorter",
            param="reason",
        )
    return reason


def newest_promotion(entries: Sequence[Entry]) -> Entry | None:
    """Returns the promotion of an alias that nothing has undone or replaced since; None: there is none."""
    for entry in reversed(entries):
        if entry.event == "promoted":
            return entry
        if entry.event in ("alias", "alias_removed", "reverted"):
            return None
    return None


def _alias(connection: Connection, name: str) -> Alias:
    if (found := find_in(connection, name)) is None:
        raise NotFound(
            f"there is no alias {name!r}",
            fix=f"make it: deepwell models alias set {name} MODEL",
            param="alias",
        )
    return found


def _version(story: Story, id: str) -> Version:
    if (found := story.versions.get(id)) is None:
        known = ", ".join(story.versions)
        key = "version_unknown" if known else "version_none"
        raise NotFound.of(key, param="version", name=id, known=known, alias=id.rpartition("#")[0])
    return found
