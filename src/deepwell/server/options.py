"""Frozen options of the server. Each part of the server takes its own, and `of` reads them from the settings."""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import SecretStr

from deepwell.agents.kit import AgentOptions
from deepwell.agents.mcp.config import McpOptions
from deepwell.knowledge.context.fitting.policy import ContextPolicy
from deepwell.models.store.catalog import CatalogEntry, shipped_catalog
from deepwell.safety.terms.pull import lists_folder
from deepwell.server.access.quota import RateLimits
from deepwell.settings import InvalidSettings, Settings
from deepwell.storage.blobs import BlobPlace
from deepwell.storage.feedback import FeedbackLimits
from deepwell.storage.retention import RetentionPolicy
from deepwell.storage.safety.anchors import Anchors

__all__ = [
    "GUARD_TIMEOUT_S",
    "CacheOptions",
    "CatalogOptions",
    "ConnectionOptions",
    "FileOptions",
    "GuardOptions",
    "ImageServing",
    "KnowledgeOptions",
    "LimitsConfig",
    "OriginOptions",
    "RecognitionServing",
    "SemanticOptions",
    "ServerOptions",
    "SpeechServing",
    "TuningOptions",
]

GUARD_TIMEOUT_S: Final = 2.0
"""Seconds that the reading of one text may take."""

# An idle connection takes about 6.5 KB, so that this many take 14 MB.
_DEFAULT_CONNECTIONS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Options of files and batches, and of what else a server keeps. The settings of the same names describe each.

    Attributes:
        anchors: directory of the audit trail's anchors; None: a cut of the trail may go unnoticed.
        blobs: bucket of the files, of which the folder then has copies; None: the folder has them alone.
    """

    folder: Path | None = None  # for the files; None means a temporary one, gone with the server
    max_file_bytes: int = 512 << 20
    max_upload_bytes: int = 8 << 30
    batch_concurrency: int = 16
    job_lease_s: float = 10.0
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    anchors: Path | None = None
    blobs: BlobPlace | None = None

    @classmethod
    def of(cls, settings: Settings) -> FileOptions:
        """Reads the options from the settings."""
        return cls(
            folder=settings.data_dir / "files",
            max_file_bytes=settings.max_file_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            batch_concurrency=settings.batch_concurrency,
            job_lease_s=settings.job_lease_s,
            retention=RetentionPolicy.of(settings),
            anchors=Anchors.of(settings).folder,
            blobs=BlobPlace.of(settings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeOptions:
    """Options of knowledge. The settings of the same names describe each.

    Attributes:
        folder: directory of the side files of indexes; None: a temporary one.
        ground: name of the knowledge base that grounds every chat answer.
    """

    embedder: str = "e5-small-q4"
    folder: Path | None = None
    models_dir: Path | None = None
    ingest_jobs: int = 2
    ground: str | None = None
    min_score: float = 0.0
    hosts: tuple[str, ...] = ()
    max_file_bytes: int = 512 << 20
    vectors: Literal["files", "pgvector"] = "files"
    reranker: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> KnowledgeOptions:
        """Reads the options from the settings."""
        return cls(
            embedder=settings.knowledge_embedder,
            folder=settings.data_dir / "knowledge",
            models_dir=settings.models_dir,
            ingest_jobs=settings.ingest_jobs,
            ground=settings.knowledge,
            min_score=settings.knowledge_min_score,
            hosts=tuple(settings.knowledge_hosts),
            max_file_bytes=settings.max_file_bytes,
            vectors=settings.knowledge_vectors,
            reranker=settings.knowledge_reranker,
        )


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """Options of the guard.

    Attributes:
        policy: a preset, or the path of a YAML file, which is read again when it changes.
        terms: folder of the lists of terms that were fetched.
        timeout_s: seconds that the reading of one text may take.
    """

    policy: str
    terms: Path
    timeout_s: float = GUARD_TIMEOUT_S

    @classmethod
    def of(cls, settings: Settings) -> GuardOptions | None:
        """Reads the options from the settings; None: there is no guard."""
        return None if settings.guard is None else cls(settings.guard, lists_folder(settings.models_dir))


@dataclass(frozen=True, slots=True)
class CatalogOptions:
    """Options of the catalog and of pulls.

    Attributes:
        settings: name the model store, and how a model would be loaded.
        catalog: the models that can be fetched by name; None: the shipped catalog, whose models' sizes are known.
    """

    settings: Settings
    catalog: Mapping[str, CatalogEntry] | None = None

    @property
    def entries(self) -> Mapping[str, CatalogEntry]:
        """The models that can be fetched, by name."""
        return shipped_catalog() if self.catalog is None else self.catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """Options of fine-tuning.

    Attributes:
        folder: directory of the runs; None: one that is gone with the server.
        jobs: trainings at a time; 0: jobs are refused.
        rounds: directory of the rounds of improvement; None: there are none on this host.
        command: program that trains, which gets the run's folder; None: the package's own, which needs the extra `tune`.
        session_idle_s: time after its last use for which the adapter of a conversation is kept.
    """

    folder: Path | None = None
    jobs: int = 1
    rounds: Path | None = None
    command: tuple[str, ...] | None = None
    session_idle_s: float = 3600.0

    @classmethod
    def of(cls, settings: Settings) -> TuningOptions:
        """Reads the options from the settings."""
        rounds = (settings.adapter_dir or settings.state_dir) / "improve"
        return cls(
            folder=settings.data_dir / "fine_tuning",
            jobs=settings.fine_tuning_jobs,
            rounds=rounds,
            session_idle_s=settings.context_adapter_idle_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionServing:
    """Options of the recognition of speech.

    Attributes:
        model: the model that stands for OpenAI's: a name in the store, or a path.
        models_dir: directory of the model store; None: there is no store.
        most_s: longest recording, in seconds.
        threads: processor threads of a model; 0: all that this process may use.
    """

    model: str = "whisper-tiny.en"
    models_dir: Path | None = None
    most_s: float = 3600.0
    threads: int = 0

    @classmethod
    def of(cls, settings: Settings) -> RecognitionServing:
        """Reads the options from the settings."""
        return cls(
            model=settings.recognition_model,
            models_dir=settings.models_dir,
            most_s=settings.recognition_most_s,
            threads=settings.threads or 0,
        )


@dataclass(frozen=True, slots=True)
class SpeechServing:
    """Options of speech.

    Attributes:
        model: the model that stands for OpenAI's: a name in the store, or a path.
        models_dir: directory of the model store; None: there is no store.
        threads: processor threads of a model; 0: all that this process may use.
    """

    model: str = "kokoro"
    models_dir: Path | None = None
    threads: int = 0

    @classmethod
    def of(cls, settings: Settings) -> SpeechServing:
        """Reads the options from the settings."""
        return cls(model=settings.speech_model, models_dir=settings.models_dir, threads=settings.threads or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageServing:
    """Options of images. The settings `image_*` describe each.

    Attributes:
        model: the model that stands for OpenAI's: a name in the store, or a path.
        models_dir: directory of the model store; None: there is no store.
        threads: processor threads of the model that looks at images; 0: all that this process may use.
    """

    model: str = "deepwell-draw"
    models_dir: Path | None = None
    threads: int = 0
    guard: Literal["auto", "required", "off"] = "auto"
    guard_score: float = 0.8
    mark: bool = True
    certificate: Path | None = None
    certificate_key: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> ImageServing:
        """Reads the options from the settings."""
        return cls(
            model=settings.image_model,
            models_dir=settings.models_dir,
            threads=settings.threads or 0,
            guard=settings.image_guard,
            guard_score=settings.image_guard_score,
            mark=settings.image_mark,
            certificate=settings.image_certificate,
            certificate_key=settings.image_certificate_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """The limits of a server; 0 means no limit.

    `table` is the file that the processes of a host share. None means that there is no other process.
    """

    rates: RateLimits = field(default_factory=RateLimits)
    request_timeout_s: float = 0.0
    max_wait_s: float = 0.0
    table: Path | None = None
    valkey_url: SecretStr | None = None
    feedback: FeedbackLimits = field(default_factory=FeedbackLimits)

    @classmethod
    def of(cls, settings: Settings) -> LimitsConfig:
        """Reads the options from the settings."""
        return cls(
            rates=RateLimits(
                settings.requests_per_minute,
                settings.tokens_per_minute,
                settings.audio_seconds_per_minute,
                settings.images_per_minute,
            ),
            request_timeout_s=settings.request_timeout_s,
            max_wait_s=settings.max_wait_s,
            table=settings.data_dir / "limits",
            valkey_url=settings.valkey_url,
            feedback=FeedbackLimits(settings.feedback_per_user, settings.feedback_per_tenant),
        )


@dataclass(frozen=True, slots=True)
class SemanticOptions:
    """Options of the semantic cache.

    `min_cosine` is the least similarity that the embedder must find between two questions. `ttl_s` is the time for which an
    answer may be given again.
    """

    min_cosine: float = 0.8
    capacity_bytes: int = 16 << 20
    ttl_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Options of the answer caches.

    `response_bytes` is the memory for whole answers; 0 means that none are kept. Without `semantic` there is no semantic cache.
    """

    response_bytes: int = 0
    response_ttl_s: float = float("inf")
    semantic: SemanticOptions | None = None

    @classmethod
    def of(cls, settings: Settings) -> CacheOptions:
        """Reads the options from the settings."""
        semantic = None
        if settings.semantic_cache == "on":
            semantic = SemanticOptions(
                settings.semantic_min_cosine, settings.semantic_cache_mb << 20, settings.semantic_ttl_s
            )
        return cls(
            response_bytes=settings.response_cache_mb << 20,
            response_ttl_s=settings.response_cache_ttl_s,
            semantic=semantic,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Options of the connections that one HTTP process holds. The settings of the same names describe each."""

    max_connections: int = 0
    max_connections_per_address: int = 0
    trusted_proxies: Sequence[str] = ()
    client_timeout_s: float = 30.0
    keep_alive_s: float = 75.0

    @classmethod
    def of(cls, settings: Settings) -> ConnectionOptions:
        """Reads the options from the settings."""
        return cls(
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            trusted_proxies=settings.trusted_proxies,
            client_timeout_s=settings.client_timeout_s,
            keep_alive_s=settings.keep_alive_s,
        )

    def most(self) -> int:
        """Returns how many connections this process may hold, by the option and by its limit of descriptors.

        A quarter of the descriptors, at least 64, is left for files, databases and the engine.

        Raises:
            InvalidSettings: the option asks for more than the descriptors allow.
        """
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            return self.max_connections or _DEFAULT_CONNECTIONS
        allowed = max(descriptors - max(descriptors // 4, 64), 16)
        if self.max_connections > allowed:
            raise InvalidSettings(
                f"max_connections is {self.max_connections}, but {descriptors} open files allow {allowed} connections",
                fix=f"raise the limit first: ulimit -n {self.max_connections * 4 // 3 + 64}",
            )
        return self.max_connections or min(allowed, _DEFAULT_CONNECTIONS)

    def trusted_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Returns the reverse proxies as networks."""
        return tuple(ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies)


@dataclass(frozen=True, slots=True)
class OriginOptions:
    """The names that the server is called by, and the origins whose pages may call it.

    `host` is the address that the server binds. The settings of the other names describe them.
    """

    host: str = "127.0.0.1"
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Settings) -> OriginOptions:
        """Reads the options from the settings."""
        return cls(
            host=settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of one HTTP process.

    Attributes:
        api_keys: keys of the settings. Those in the database are not among them.
        adapter_dir: directory that clients may load adapters from. None means that they may load none.
        worker: number of this HTTP process. Process 0 does what only one process may do.
        model_host: address of the process that loads models on demand. Empty means that there are none.
        engine_wait_s: longest wait for an engine that is being restarted.
        context_policy: what is done with conversations that do not fit, where the request does not say.
        release: models that aliases mean here whatever the database says, by alias. Empty: users are split here.
        settings: those that the options were read from. Compliance checks look at them; None: at the defaults.
    """

    max_body_bytes: int = 8 << 20
    api_keys: Sequence[SecretStr] = ()
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    caches: CacheOptions = field(default_factory=CacheOptions)
    files: FileOptions = field(default_factory=FileOptions)
    adapter_dir: Path | None = None
    connections: ConnectionOptions = field(default_factory=ConnectionOptions)
    origins: OriginOptions = field(default_factory=OriginOptions)
    worker: int = 0
    model_host: str = ""
    engine_wait_s: float = 30.0
    knowledge: KnowledgeOptions = field(default_factory=KnowledgeOptions)
    guard: GuardOptions | None = None
    catalog: CatalogOptions | None = None  # None: there is no API of the catalog
    settings: Settings | None = None
    tuning: TuningOptions = field(default_factory=TuningOptions)
    context_policy: ContextPolicy = "strict"
    recognition: RecognitionServing = field(default_factory=RecognitionServing)
    speech: SpeechServing = field(default_factory=SpeechServing)
    images: ImageServing = field(default_factory=ImageServing)
    mcp: McpOptions = field(default_factory=McpOptions)
    agents: AgentOptions = field(default_factory=AgentOptions)
    release: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, settings: Settings, *, worker: int = 0, model_host: str = "") -> ServerOptions:
        """Reads the options from the settings."""
        return cls(
            max_body_bytes=settings.max_body_bytes,
            api_keys=settings.api_keys,
            limits=LimitsConfig.of(settings),
            caches=CacheOptions.of(settings),
            files=FileOptions.of(settings),
            adapter_dir=settings.adapter_dir,
            connections=ConnectionOptions.of(settings),
            origins=OriginOptions.of(settings),
            worker=worker,
            model_host=model_host,
            engine_wait_s=settings.engine_wait_s,
            knowledge=KnowledgeOptions.of(settings),
            guard=GuardOptions.of(settings),
            catalog=CatalogOptions(settings),
            settings=settings,
            tuning=TuningOptions.of(settings),
            context_policy=settings.context_policy,
            recognition=RecognitionServing.of(settings),
            speech=SpeechServing.of(settings),
            images=ImageServing.of(settings),
            mcp=McpOptions.of(settings),
            agents=AgentOptions.of(settings),
            release=settings.released(),
        )
