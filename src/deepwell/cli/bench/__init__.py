"""`deepwell bench`: speed, quality and size against roofs and peers; every promised figure.

A verb is a function in the module of its suite, and a line in `VERBS`.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from deepwell.cli.bench import (
    align,
    context,
    deploy,
    engine,
    fine_tuning,
    knowledge,
    models,
    quality,
    repository,
    safety,
    security,
    service,
    storage,
    targets,
    tuning,
    tuning_data,
    tuning_evaluate,
    tuning_speed,
)
from deepwell.cli.usage import Verbs

__all__ = ["VERBS", "register"]

VERBS: dict[str, Callable[..., None]] = {
    "roofline": engine.roofline,
    "decode": engine.decode,
    "adapters": engine.adapters,
    "prefill": engine.prefill,
    "batch": engine.batch,
    "profile": engine.profile,
    "python": engine.python,
    "load": service.load,
    "ladder": engine.ladder,
    "versus": engine.versus,
    "prefix": engine.prefix,
    "embeddings": engine.embeddings,
    "footprint": service.footprint,
    "start": service.start,
    "size": quality.size,
    "quality": quality.quality,
    "kv": quality.kv,
    "latent": engine.latent,
    "context-endless": context.context_endless,
    "context-session-adapter": context.context_session_adapter,
    "mixture": engine.mixture,
    "prediction": engine.prediction,
    "determinism": quality.determinism,
    "speculation": engine.speculation,
    "parity": repository.parity,
    "newcomer": repository.newcomer,
    "ci": repository.ci,
    "targets": targets.targets,
    "tuning-speed": tuning_speed.tuning_speed,
    "tuning-parallel": tuning_speed.tuning_parallel,
    "tuning-exactness": tuning.tuning_exactness,
    "tune-readme": tuning.tune_readme,
    "lora": tuning.lora,
    "parsing": service.parsing,
    "grammar": service.grammar,
    "timing": service.timing,
    "clients": service.clients,
    "ollama": service.ollama,
    "webui": service.webui,
    "setups": service.setups,
    "moderation": safety.moderation,
    "streaming": safety.streaming,
    "batches": storage.batches,
    "faults": repository.faults,
    "tests": repository.repository_tests,
    "several-models": models.several_models,
    "soak": service.soak,
    "cache": service.cache,
    "metrics": service.metrics,
    "on-demand": models.on_demand,
    "semantic": service.semantic,
    "unchanged": repository.unchanged,
    "regression": repository.regression,
    "wheel": repository.wheel,
    "sdk": service.sdk,
    "fuzz": service.fuzz,
    "latency": service.latency,
    "siege": security.siege,
    "audit": security.audit,
    "erasure": security.erasure,
    "jobs": storage.jobs,
    "storage": storage.storage,
    "retention": storage.retention,
    "safety-terms": safety.safety_terms,
    "attacks": safety.attacks,
    "safety-time": safety.safety_time,
    "safety-obfuscation": safety.safety_obfuscation,
    "safety-peers": safety.safety_peers,
    "safety-failures": safety.safety_failures,
    "safety-first-token": safety.safety_first_token,
    "cranfield": knowledge.cranfield,
    "law": knowledge.law,
    "current": knowledge.current,
    "search": knowledge.search,
    "million": knowledge.million,
    "vector-stores": knowledge.vector_stores,
    "postgres-vectors": knowledge.postgres_vectors,
    "documents": knowledge.documents,
    "citations": knowledge.citations,
    "languages": knowledge.languages,
    "medical": knowledge.medical,
    "rerank": knowledge.rerank,
    "context-survival": knowledge.context_survival,
    "active-learning": tuning_data.active_learning,
    "back-translation": tuning_data.back_translation,
    "container": deploy.container,
    "up": deploy.up,
    "console": deploy.console,
    "near-duplicates": tuning_data.near_duplicates,
    "evaluate-parity": tuning_evaluate.evaluate_parity,
    "served-precision": tuning_evaluate.served_precision,
    "fine-tuning-sdk": fine_tuning.fine_tuning_sdk,
    "fine-tuning-served": fine_tuning.fine_tuning_served,
    "feedback-sdk": align.feedback_sdk,
    "ledger": align.ledger,
    "rollout-kills": align.rollout_kills,
    "alignment-losses": align.alignment_losses,
    "gates-refuse": align.gates_refuse,
    "improve-loop": align.improve_loop,
    "kto-votes": align.kto_votes,
    "ppo-maths": align.ppo_maths,
    "ppo-safety": align.ppo_safety,
    "ppo-sentiment": align.ppo_sentiment,
    "safety-layers": align.safety_layers,
    "rollouts": align.rollouts,
}
"""The verbs in the order of `deepwell bench --help`."""


def register(parent: typer.Typer) -> None:
    """Adds the verb."""
    app = typer.Typer(
        cls=Verbs, help="Measure speed, quality and size against roofs and peers.", no_args_is_help=True
    )
    for name, verb in VERBS.items():
        app.command(name)(verb)
    parent.add_typer(app, name="bench")
