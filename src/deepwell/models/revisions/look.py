"""Asks the sources of stored models for new revisions, each host at most once more after it did not answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from deepwell.errors import DeepwellError, DownloadError, InvalidModelFile, ModelNotFound
from deepwell.models.revisions.hub_news import news_of_hub
from deepwell.models.revisions.link_news import news_of_path, news_of_url
from deepwell.models.revisions.news import ModelNews, Report, SourceNews
from deepwell.models.revisions.package_news import (
    PackageIndex,
    news_of_npm,
    news_of_package,
    npm_registry,
    package_index,
)
from deepwell.models.store.catalog import CatalogEntry, shipped_catalog, vouching_entry
from deepwell.models.store.download import Downloader
from deepwell.models.store.hubs import HubSource, ModelScopeSource
from deepwell.models.store.manifest import Manifest
from deepwell.models.store.npm import NpmSource
from deepwell.models.store.sources import PathSource, PyPISource, Source, UrlSource, parse_source
from deepwell.models.store.store import ModelStore

__all__ = ["MOST_S", "last_report", "look_for_updates", "watched_sources"]

MOST_S: Final = 900.0
"""Seconds after which the sources that are left are not asked."""


def look_for_updates(
    store: ModelStore,
    names: Sequence[str] = (),
    *,
    catalog: Mapping[str, CatalogEntry] | None = None,
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
    most_s: float = MOST_S,
) -> Report:
    """Returns what is new on the sources of the models of a store. No weights are fetched, and no model is changed.

    Args:
        names: models to look for; empty: all of the store.
        catalog: entries whose hubs are asked too, by name, beside the shipped ones.
        offline: ask local paths alone.
        progress: told how many sources of how many were asked.
        most_s: seconds for the whole look; sources after it are reported as not asked.

    Raises:
        ModelNotFound: a name is not in the store.
    """
    entries = {**shipped_catalog(), **(catalog or {})}
    manifests: dict[str, Manifest | InvalidModelFile] = {}
    for name in names or store.names():
        try:
            manifest = store.get(name).manifest
            assert manifest is not None
            manifests[name] = manifest
        except InvalidModelFile as error:
            manifests[name] = error
    watched = {
        name: watched_sources(manifest, vouching_entry(manifest) or entries.get(name))
        for name, manifest in manifests.items()
        if isinstance(manifest, Manifest)
    }
    total, done = sum(map(len, watched.values())), 0
    found: list[ModelNews] = []
    with ExitStack() as stack:
        asking = _Asking(store, stack, offline, time.monotonic() + most_s)
        for name, manifest in manifests.items():
            if isinstance(manifest, InvalidModelFile):
                news = SourceNews("", "unasked", reason=manifest.message, fix=manifest.fix)
                found.append(ModelNews(name, (news,)))
                continue
            told: list[SourceNews] = []
            for text in watched[name]:
                told.append(asking.ask(text, manifest, name))
                done += 1
                if progress is not None:
                    progress(done, total)
            found.append(ModelNews(name, tuple(told)))
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), tuple(found))


def last_report(store: ModelStore) -> Report | None:
    """Returns the newest report on a store, without models that are gone or were pulled after it; None: nobody has looked.

    Raises:
        InvalidModelFile: the report is damaged.
    """
    report = Report.read(store.root)
    if report is None:
        return None
    kept: list[ModelNews] = []
    for news in report.models:
        try:
            manifest = store.get(news.name).manifest
        except ModelNotFound:
            continue
        except InvalidModelFile:
            manifest = None
        if manifest is None or manifest.created <= report.checked:
            kept.append(news)
    return Report(report.checked, tuple(kept))


def watched_sources(manifest: Manifest, entry: CatalogEntry | None) -> tuple[str, ...]:
    """Returns the sources to ask for a model: those that it was pulled from, and the publisher's repositories of its entry.

    Members of one package are one source.
    """
    own = [manifest.source] if manifest.source.startswith("/") else re.split(r", | \+ ", manifest.source)
    hubs = [text for text in entry.every_source if text.startswith(("hf:", "ms:"))] if entry else []
    found: dict[str, str] = {}
    for text in (*own, *hubs):
        key = text.partition("#")[0] if text.startswith(("pypi:", "npm:")) else text
        found.setdefault(key, text)
    return tuple(found.values())


class _Asking:
    """One look: a connection to each kind of host, and the hosts that did not answer."""

    def __init__(self, store: ModelStore, stack: ExitStack, offline: bool, until: float) -> None:
        self._store = store
        self._stack = stack
        self._offline = offline
        self._until = until
        self._downloaders: dict[str, Downloader] = {}
        self._closed: dict[str, DownloadError] = {}
        self._package_index: PackageIndex | None = None

    def ask(self, text: str, manifest: Manifest, name: str) -> SourceNews:
        """Returns the news of one source; of one that cannot be asked, why."""
        try:
            source = parse_source(text)
            if not isinstance(source, PathSource) and self._offline:
                raise DownloadError.of("updates_offline")
            host = self._host(source)
            if host in self._closed:
                raise self._closed[host]
            if time.monotonic() > self._until:
                raise DownloadError.of("updates_late")
            try:
                return self._asked(text, source, manifest, name)
            except DownloadError as error:
                if error.texts[0] == "hub_unreachable":
                    self._closed[host] = error
                raise
        except DeepwellError as error:
            key, values = error.texts
            return SourceNews(
                text,
                "unasked",
                before=manifest.revision,
                reason=_shown(error.message),
                fix=_shown(error.fix),
                key=key,
                values={one: _shown(str(value)) for one, value in values.items()},
            )
        except OSError as error:
            return SourceNews(text, "unasked", before=manifest.revision, reason=_shown(str(error)))

    def _host(self, source: Source) -> str:
        """Returns the address that is asked for a source; empty for a local one."""
        if isinstance(source, HubSource | ModelScopeSource):
            return urlsplit(source.endpoint).netloc
        if isinstance(source, PyPISource):
            return urlsplit(self._index().url).netloc
        if isinstance(source, NpmSource):
            return urlsplit(npm_registry()).netloc
        return urlsplit(source.url).netloc if isinstance(source, UrlSource) else ""

    def _asked(self, text: str, source: Source, manifest: Manifest, name: str) -> SourceNews:
        match source:
            case HubSource():
                downloader = self._downloader("hf", source.headers())
                return news_of_hub(text, source, manifest, self._store.root / name, downloader)
            case ModelScopeSource():
                return news_of_hub(text, source, manifest, self._store.root / name, self._downloader("", {}))
            case PyPISource():
                index = self._index()
                downloader = self._downloader("pypi", index.headers())
                return news_of_package(text, source, manifest, index, downloader)
            case NpmSource():
                return news_of_npm(text, source, npm_registry(), self._downloader("", {}))
            case UrlSource():
                return news_of_url(text, source, manifest, self._downloader("", {}))
            case PathSource():
                return news_of_path(text, source, manifest)
            case _:
                raise DownloadError(f"nothing is known of how to ask {text}")

    def _index(self) -> PackageIndex:
        if self._package_index is None:  # pip is asked once
            self._package_index = package_index()
        return self._package_index

    def _downloader(self, kind: str, headers: Mapping[str, str]) -> Downloader:
        if kind not in self._downloaders:
            self._downloaders[kind] = self._stack.enter_context(Downloader(headers=headers, attempts=1))
        return self._downloaders[kind]


def _shown(text: str) -> str:
    """Returns a text without control characters: servers' words are part of errors."""
    return "".join(one if one.isprintable() else " " for one in text)
