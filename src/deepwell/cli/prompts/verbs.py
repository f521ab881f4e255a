"""`deepwell prompts load|list|show|use|remove|packs`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.prompts.registry import TenantOption, opened_registry, tenant_named

if TYPE_CHECKING:
    from deepwell.cli.prompts.registry import Registry
    from deepwell.dialogue.prompts.content import PromptContent
    from deepwell.dialogue.prompts.pack import PromptPack
    from deepwell.storage.database import Tenant
    from deepwell.storage.registry.prompts import StoredPrompt

__all__ = ["list_prompts", "load", "packs", "remove", "show", "use"]

_PAGE = 100  # prompts of one read
_LAST = 999_999_999  # number of a version

PromptId = Annotated[
    str, typer.Argument(help="Id of the prompt, as `deepwell prompts list` shows it.", metavar="ID")
]


def load(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of packs (TOML files), one file, or the id of a pack that comes along.",
            metavar="FOLDER",
        ),
    ],
    tenant: TenantOption = "local",
    json: JsonFlag = False,
) -> None:
    """Store the prompts of a folder, each under its id and version, and make them current.

    A version that is stored already stays unchanged, and becomes current again if a newer one was. All files are read before
    the first prompt is stored.
    """
    with reported_errors(as_json=json), opened_registry() as registry:
        from deepwell.dialogue.prompts.pack import read_packs
        from deepwell.dialogue.prompts.shipped import shipped_packs

        known = {one.id: one for one in shipped_packs()}
        if source in known and not Path(source).exists():
            found: Sequence[PromptPack] = [known[source]]
        else:
            found = read_packs(Path(source))
        loaded = asyncio.run(_loaded(registry, tenant_named(tenant), found))
        if json:
            write_json({"tenant": tenant, "data": loaded})
            return
        print_table(
            ("prompt", "version", "state", "purpose"),
            [(one["id"], one["version"], one["state"], one["purpose"]) for one in loaded],
            folded=("purpose",),
        )


def list_prompts(tenant: TenantOption = "local", json: JsonFlag = False) -> None:
    """List the stored prompts with their current versions, the newest prompt first."""
    with reported_errors(as_json=json), opened_registry() as registry:
        found = asyncio.run(_all(registry, tenant_named(tenant)))
        if json:
            write_json({"tenant": tenant, "data": [_told(one) for one in found]})
            return
        if not found:
            console().print(
                "There are no prompts yet: deepwell prompts load FOLDER, or `deepwell prompts packs`.",
                soft_wrap=True,
            )
            return
        rows = [_row(one) for one in found]
        print_table(
            ("prompt", "version", "language", "industry", "stored", "purpose"),
            rows,
            folded=("purpose",),
            optional=("stored",),
        )


def show(
    id: PromptId,
    version: Annotated[
        int | None,
        typer.Option(min=1, max=_LAST, help="Number of the version to show; unset: the current one."),
    ] = None,
    tenant: TenantOption = "local",
    json: JsonFlag = False,
) -> None:
    """Show a version of a prompt: its text, its variables, an example, and which other versions there are."""
    with reported_errors(as_json=json), opened_registry() as registry:
        stored = asyncio.run(registry.prompts.get(tenant_named(tenant), id, version))
        others = asyncio.run(registry.prompts.numbers(tenant_named(tenant), id))
        if json:
            numbers = [{"version": number, "current": is_current} for number, is_current in others]
            write_json(_told(stored) | _text_of(stored) | {"versions": numbers})
            return
        _print(stored, others)


def use(
    id: PromptId,
    version: Annotated[
        int, typer.Argument(min=1, max=_LAST, help="Number of the version.", metavar="VERSION")
    ],
    tenant: TenantOption = "local",
    json: JsonFlag = False,
) -> None:
    """Make a version of a prompt the current one, which requests get that name none."""
    with reported_errors(as_json=json), opened_registry() as registry:
        chosen = asyncio.run(_chosen(registry, tenant_named(tenant), id, version))
        if json:
            write_json(_told(chosen))
            return
        console().print(f"Version {chosen.number} of {chosen.id} is current.", soft_wrap=True)


def remove(id: PromptId, tenant: TenantOption = "local", json: JsonFlag = False) -> None:
    """Delete a prompt with all of its versions. Requests that name it are refused from then on."""
    with reported_errors(as_json=json), opened_registry() as registry:
        asyncio.run(_removed(registry, tenant_named(tenant), id))
        if json:
            write_json({"id": id, "deleted": True})
            return
        console().print(f"{id} is deleted.", soft_wrap=True)


def packs(json: JsonFlag = False) -> None:
    """List the prompts that come along with Deepwell. `deepwell prompts load ID` stores one of them."""
    with reported_errors(as_json=json):
        from deepwell.dialogue.prompts.shipped import PACKS, shipped_packs

        found = shipped_packs()
        if json:
            data = [{"id": one.id, "version": one.version, **_head(one.content)} for one in found]
            write_json({"folder": str(PACKS), "data": data})
            return
        print_table(
            ("prompt", "version", "language", "industry", "purpose"),
            [_pack_row(one) for one in found],
            folded=("purpose",),
        )


async def _loaded(registry: Registry, tenant: Tenant, found: Sequence[PromptPack]) -> list[dict[str, Any]]:
    from deepwell.dialogue.prompts.content import encode_content
    from deepwell.errors import NotFound

    told: list[dict[str, Any]] = []
    for pack in found:
        body = encode_content(pack.content)
        try:
            known = dict(await registry.prompts.numbers(tenant, pack.id))
        except NotFound:
            stored, state = await registry.prompts.create(tenant, pack.id, body, number=pack.version), "new"
        else:
            stored = await registry.prompts.add(tenant, pack.id, body, number=pack.version)
            was_current = known.get(stored.number)
            state = "new version" if was_current is None else "unchanged" if was_current else "current again"
        if state != "unchanged":
            action = {"new": "create", "new version": "add", "current again": "choose"}[state]
            await registry.audited(tenant, action, stored)
        told.append(
            {"id": stored.id, "version": str(stored.number), "state": state, "sha256": stored.sha256}
            | _head(pack.content)
        )
    return told


async def _chosen(registry: Registry, tenant: Tenant, id: str, version: int) -> StoredPrompt:
    chosen = await registry.prompts.choose(tenant, id, version)
    await registry.audited(tenant, "choose", chosen)
    return chosen


async def _removed(registry: Registry, tenant: Tenant, id: str) -> None:
    gone = await registry.prompts.get(tenant, id)
    await registry.prompts.delete(tenant, id)
    await registry.audited(tenant, "delete", gone)


async def _all(registry: Registry, tenant: Tenant) -> list[StoredPrompt]:
    found: list[StoredPrompt] = []
    after = None
    while True:
        page = await registry.prompts.list(tenant, after=after, limit=_PAGE)
        found += page.data
        if not page.has_more:
            return found
        after = page.data[-1].id


def _content(stored: StoredPrompt) -> PromptContent:
    from deepwell.dialogue.prompts.content import decode_content

    return decode_content(stored.body)


def _head(content: PromptContent) -> dict[str, Any]:
    return {
        "language": content.language,
        "industry": content.industry,
        "purpose": content.purpose,
        "license": content.license,
        "variables": dict(content.text.variables),
    }


def _told(stored: StoredPrompt) -> dict[str, Any]:
    return {
        "id": stored.id,
        "version": stored.number,
        "current": stored.is_current,
        "created_at": stored.created_at,
        "sha256": stored.sha256,
        **_head(_content(stored)),
    }


def _text_of(stored: StoredPrompt) -> dict[str, Any]:
    import msgspec

    content = _content(stored)
    return {
        "instructions": content.text.instructions,
        "messages": msgspec.to_builtins(content.text.messages),
        "example": msgspec.to_builtins(content.example),
        "report": msgspec.to_builtins(content.report),
    }


def _row(stored: StoredPrompt) -> tuple[str, ...]:
    content = _content(stored)
    day = time.strftime("%Y-%m-%d", time.localtime(stored.created_at))
    return (
        stored.id,
        str(stored.number),
        content.language or "-",
        content.industry or "-",
        day,
        content.purpose,
    )


def _pack_row(pack: PromptPack) -> tuple[str, ...]:
    content = pack.content
    return (
        pack.id,
        str(pack.version),
        content.language or "-",
        content.industry or "-",
        content.purpose,
    )


def _print(stored: StoredPrompt, others: Sequence[tuple[int, bool]]) -> None:
    content, out = _content(stored), console()
    say: Callable[[str], None] = lambda text: out.print(text, soft_wrap=True)  # noqa: E731
    numbers = ", ".join(f"{number} (current)" if is_current else str(number) for number, is_current in others)
    say(f"{stored.id}, version {stored.number} of {numbers}; sha256 {stored.sha256}")
    labels = (content.purpose, content.industry, content.language, content.license)
    say("; ".join(one for one in labels if one))
    for name, purpose in content.text.variables.items():
        say(f"variable {name}: {purpose}")
    if content.text.instructions:
        say(f"\nsystem:\n{content.text.instructions}")
    for one in content.text.messages:
        say(f"\n{one.role}:\n{one.content}")
    if content.example is not None:
        say(f"\nExample input:\n{content.example.input}\n\nExample answer:\n{content.example.answer}")
    if (report := content.report) is not None:
        gain = f"{100 * (report.score - report.start):+.1f} points"
        say(
            f"\nChosen by {report.calls:,} calls of {report.model} (metric {report.metric}, seed {report.seed}). "
            f"{report.rows} held-out rows: {100 * report.score:.1f} %, the start {100 * report.start:.1f} %, so {gain}, "
            f"95 % interval {100 * report.low:+.1f} to {100 * report.high:+.1f}."
        )
