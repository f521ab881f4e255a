"""`PLACES`: every table, blob store, index, cache and log, with how a person's data in it are exported and erased.

A person is a tenant, or an end user of one. Rows name an end user where a request did: by `safety_identifier` or `user`, or by
one of `LABELS` among the metadata of an object or in a line of a file. What names nobody cannot be attributed, and the list
says so.

A new table, column of text, file or cache that is not listed here fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["LABELS", "MADE", "PLACES", "Place", "end_user_of", "names_end_user", "place_of_path"]

LABELS: Final = ("safety_identifier", "user", "user_id", "end_user")
"""Names of metadata and of file attributes whose value names an end user."""


def end_user_of(fields: Mapping[str, Any]) -> str:
    """Returns the end user that a request names in `safety_identifier`, in `user` or in its metadata; empty: none."""
    metadata: Any = fields.get("metadata")
    labels: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    named = (fields.get("safety_identifier"), fields.get("user"), *(labels.get(label) for label in LABELS))
    return next((one for one in named if isinstance(one, str) and one), "")


def names_end_user(fields: Any, end_user: str) -> bool:
    """Returns whether an object of JSON names an end user: itself, or in its metadata."""
    if not isinstance(fields, Mapping):
        return False
    labels: Any = fields.get("metadata")
    inside: tuple[Any, ...] = (fields, labels) if isinstance(labels, Mapping) else (fields,)
    return any(one.get(label) == end_user for one in inside for label in LABELS)


Kind = Literal["table", "blobs", "index", "cache", "log", "file"]


@dataclass(frozen=True, slots=True)
class Place:
    """One place.

    Attributes:
        name: of the table, or a name of its own.
        words: columns of a table that may hold what a client wrote: a text, a name, a label, an id of its own.
        made: columns of text that cannot, each for its reason in `MADE`.
        paths: patterns of its files, below `data_dir` or `state_dir`.
        modules: modules that hold it, if it lives in memory or elsewhere.
        tenant: how the data of a whole tenant are exported and erased.
        person: how those of one end user are.
    """

    name: str
    kind: Kind
    tenant: str
    person: str
    words: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


_ROWS = "rows of the tenant are exported and deleted"
_WITH = "exported and deleted with {}"
_NOBODY = "names no end user"
_SHARED = "no personal data, shared by all tenants, with random ids of keys"
_MADE = "those made from a file of the end user are exported and deleted"
_LABELLED = "rows whose metadata name the end user are exported and deleted"


def _table(name: str, person: str, tenant: str = _ROWS, *, words: str = "", made: str = "") -> Place:
    return Place(name, "table", tenant, person, tuple(words.split()), tuple(made.split()))


_REASONS: Final[Mapping[str, str]] = {
    "given by the operator; the rows go with the tenant": "tenant",
    "drawn at random by the server, or the id of a row that is there": (
        "id batch_id chain conversation_id error_file_id eval_id file_id input_file_id job_id key_id output_file_id person "
        "previous_id project_id pseudonym result_file rollout run_id salt source_id store_id study_id training_file upload_id "
        "validation_file"
    ),
    "a hash": (
        "digest embedder_hash hash input_sha256 pruned_hash seal sha256 source_sha256 training_sha256 validation_sha256"
    ),
    "one of the server's words": (
        "choice completion_window endpoint error_code kind level pack purpose question rating reached scope scopes source "
        "status strategy type"
    ),
    "given by the operator, not by a client": (
        "alias base candidate changed_by embedder model model_aliases.name model_alias_changes.name model_ledger.entry"
    ),
    "numbers, or text made of them": "chunk_removals.keys chunking counts folder media_usage.size metrics",
    "host and process id of a worker": "owner",
    "the ends of a key; overwritten with the tenant": "hint",
    "what clients name stands in it as a hash with the salt of the chain, and end users as pseudonyms": "audit_entries.entry",
    "a hash of who voted; the row goes with the end user": "feedback.voter",
}
MADE: Final = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Reasons why columns of text hold no client's words: by name, or by table and name where another table differs."""


PLACES: Final = (
    _table(
        "responses",
        "rows whose request named the end user are exported, and emptied: only the id and the place in a chain stay, until "
        "retention removes them",
        words="input body events",
        made="id status previous_id owner",
    ),
    _table(
        "conversations",
        "those whose metadata name the end user, and those to which one of the end user's responses was added",
        words="metadata",
        made="id",
    ),
    _table("conversation_items", _WITH.format("their conversation"), words="id body", made="conversation_id"),
    _table(
        "completions",
        "rows whose request or metadata name the end user are exported and deleted",
        words="model metadata messages body end_user",
        made="id",
    ),
    _table(
        "completion_metadata",
        _WITH.format("their completion"),
        _WITH.format("their completion"),
        words="key value",
    ),
    _table(
        "jobs",
        "those of the end user's responses, batches, files, agents and session adapters, and searches and compressions that "
        "name the end user or read a file of the end user",
        words="payload progress result error",
        made="id kind status owner",
    ),
    _table(
        "files",
        "those whose attributes in a vector store, or whose store or batch, name the end user, and files of JSON lines that "
        "all name the end user; from one with lines of others too, the end user's are cut",
        words="filename",
        made="id purpose sha256",
    ),
    _table(
        "uploads",
        f"{_NOBODY}: an unfinished upload expires within an hour, a finished one is a file",
        words="filename mime_type",
        made="id status purpose file_id",
    ),
    _table(
        "upload_parts", _WITH.format("their upload"), _WITH.format("their upload"), made="upload_id id sha256"
    ),
    _table(
        "batches",
        f"{_LABELLED}, with those whose every line names the end user; of any other batch, the end user's lines are cut",
        words="metadata model errors",
        made="id status endpoint input_file_id input_sha256 completion_window output_file_id error_file_id",
    ),
    _table(
        "batch_lines",
        f"{_WITH.format('their batch')}, and those that answer a line which names the end user",
        words="body end_user",
        made="batch_id",
    ),
    _table(
        "vector_stores",
        _LABELLED,
        words="name description metadata",
        made="id embedder embedder_hash chunking",
    ),
    _table(
        "vector_store_files",
        "those whose attributes, or whose store, name the end user",
        words="error attributes uri version",
        made="store_id file_id status error_code chunking batch_id job_id source_id digest",
    ),
    _table("vector_store_batches", _WITH.format("their store"), made="id store_id"),
    _table(
        "vector_store_sources",
        f"{_WITH.format('their store')}; a source of a shared store {_NOBODY}",
        words="spec error",
        made="store_id id",
    ),
    _table("documents", _WITH.format("the last file that has their text"), words="body", made="digest"),
    _table("chunks", _WITH.format("their file"), words="text place", made="store_id file_id digest"),
    _table(
        "embeddings",
        f"{_WITH.format('the last chunk of their text')}; the vectors are left out of an export",
        f"{_ROWS}; the vectors are left out of an export: they are computed from the chunks",
        words="vector",
        made="embedder_hash digest",
    ),
    _table(
        "chunk_removals",
        "keys of removed chunks, without a text: deleted where a file is erased",
        made="store_id keys",
    ),
    _table(
        "api_keys",
        f"a key {_NOBODY}: give a person whose keys are to be erased a tenant",
        "exported without the digest; revoked, and name, tenant, digest and hint are overwritten. The row stays, because a "
        "server without any key would be open to everybody",
        words="name",
        made="id digest hint scopes seal",
    ),
    _table("installation", "no personal data", "no personal data: the identity of the database", made="id"),
    _table(
        "audit_chains",
        _NOBODY,
        "the name of the tenant and the salt are deleted, so that the chain is nobody's and still verifies",
        made="id salt hash pruned_hash",
    ),
    _table(
        "audit_entries",
        "exported; they name a random pseudonym, which is nobody's once `audit_persons` is erased. Ids of requests and names "
        "of prompts and tuned models that clients chose stand in them as hashes",
        "exported; they name neither the tenant nor, but for random pseudonyms, end users. They are kept as the law asks",
        made="chain entry hash",
    ),
    _table(
        "audit_persons",
        "the row that ties the end user to the pseudonym is deleted",
        "the rows that tie end users to pseudonyms are deleted",
        words="digest",
        made="chain pseudonym",
    ),
    _table(
        "audit_texts",
        "texts that the policy keeps beside the entries: the end user's are exported and deleted; the entries hold a salted "
        "hash of each",
        "texts that the policy keeps beside the entries: exported and deleted; the entries hold a salted hash of each",
        words="text",
        made="chain salt person",
    ),
    _table("compliance_answers", _NOBODY, words="answer evidence answered_by", made="pack question"),
    _table(
        "model_aliases",
        _NOBODY,
        f"{_SHARED}: further names of models",
        made="name model changed_by candidate rollout",
    ),
    _table(
        "model_alias_changes",
        _NOBODY,
        f"{_SHARED}: the changes of further names of models",
        made="id name model changed_by candidate",
    ),
    _table(
        "model_ledger",
        _NOBODY,
        f"{_SHARED}: versions of models and their roll-outs, with counts of votes and no voter",
        made="alias entry hash",
    ),
    _table("model_ledger_head", _NOBODY, f"{_SHARED}: the newest entry of `model_ledger`", made="hash"),
    _table(
        "usage",
        f"{_NOBODY}; the name of a model that is erased loses what the client called it",
        f"{_ROWS}: numbers of tokens by hour, key and model",
        words="model",
        made="key_id",
    ),
    _table(
        "media_usage",
        f"{_NOBODY}; the name of a model that is erased loses what the client called it",
        f"{_ROWS}: numbers of characters, seconds and images by hour, key and model",
        words="model",
        made="key_id source size",
    ),
    _table(
        "feedback",
        "rows whose request named the end user, and those about one of the end user's responses or completions, are exported "
        "and deleted, with the copies of conversations in them",
        words="target_id reason model messages end_user correction",
        made="id rating voter source key_id",
    ),
    _table(
        "fine_tuning_jobs",
        f"{_LABELLED}, and {_MADE}",
        words="suffix hyperparameters options metadata fine_tuned_model error",
        made="id status model training_file training_sha256 validation_file validation_sha256 result_file",
    ),
    _table(
        "fine_tuning_events", _WITH.format("their job"), words="message data", made="job_id id level type"
    ),
    _table("fine_tuning_checkpoints", _WITH.format("their job"), made="job_id id folder metrics"),
    _table(
        "fine_tuned_models",
        f"{_WITH.format('the job that made them')}: a model may repeat what it was trained on",
        words="name",
        made="base job_id folder",
    ),
    _table(
        "evals",
        _LABELLED,
        words="name data_source_config testing_criteria metadata",
        made="id",
    ),
    _table(
        "eval_runs",
        f"{_LABELLED}, and those with rows that name the end user; {_MADE}",
        words="name model data_source metadata error summary",
        made="id eval_id status source_sha256",
    ),
    _table("eval_output_items", _WITH.format("their run"), words="body", made="run_id status"),
    _table(
        "agent_runs",
        _LABELLED,
        words="model task request text reason pending",
        made="id status reached",
    ),
    _table("agent_steps", _WITH.format("their run"), words="body", made="run_id kind"),
    _table(
        "prompts",
        f"{_NOBODY}: a prompt that holds what a person wrote is deleted through the API",
        words="id",
    ),
    _table("prompt_versions", _WITH.format("their prompt"), words="prompt_id body", made="sha256"),
    _table(
        "labelling_projects",
        "those made from a file of the end user",
        words="name classes",
        made="id file_id strategy",
    ),
    _table(
        "labelling_items",
        f"{_WITH.format('their project')}, and those made of a line that names the end user",
        words="text record label",
        made="project_id",
    ),
    _table(
        "rating_studies",
        "those made from a file of the end user, or from one with lines of the end user",
        words="name first second",
        made="id file_id",
    ),
    _table("rating_pairs", _WITH.format("their study"), words="prompt first second", made="study_id"),
    _table(
        "rating_votes",
        f"{_WITH.format('their study')}, and those of a rater who gave the end user's name",
        words="rater",
        made="study_id choice",
    ),
    _table(
        "erasures",
        "no personal data",
        "no personal data: the proof that something was erased",
        made="id scope counts",
    ),
    _table("alembic_version", "no personal data", "no personal data: the revision of the tables"),
    _table("chunk_vectors", _WITH.format("their chunk"), "deleted; PostgreSQL with pgvector alone"),
    _table("chunk_vector_states", "no personal data", "deleted; PostgreSQL with pgvector alone"),
    Place(
        "database",
        "file",
        "SQLite's file is rewritten and its log emptied, so that deleted rows are not left in free pages. PostgreSQL reuses "
        "the space; VACUUM FULL rewrites its tables, and its write-ahead log and backups are the operator's",
        "as for a tenant",
        paths=("deepwell.db", "deepwell.db-wal", "deepwell.db-shm"),
    ),
    Place(
        "blobs",
        "blobs",
        "the bytes of files, parts of uploads and inputs of batches are exported, and deleted unless another tenant has the "
        "same bytes; in an object store (setting `blobs`) as well, where copies on other hosts go with a server's next sweep",
        "as for a tenant, for the end user's files",
        paths=("files/[0-9a-f][0-9a-f]/*",),
    ),
    Place(
        "file_lines",
        "blobs",
        "exported and deleted with their file",
        "lines of JSON that name the end user, in files for batches, training and evaluations and in those of purpose "
        "`user_data`: exported, and cut; what was trained or judged with such a file is deleted. Lines of a result are found "
        "by the name of their request, while the batch's input is there",
    ),
    Place(
        "drafts",
        "blobs",
        "uploads in flight; what a killed process left is deleted within an hour",
        "as for a tenant",
        paths=("files/drafts/*",),
    ),
    Place(
        "side_indexes",
        "index",
        "derived from chunks, so not exported; the folders of the tenant's vector stores are deleted on this host, and by a "
        "server's next sweep on every other",
        "made anew without the end user's texts: on this host at once, on another by the next search",
        paths=("knowledge/vs_*/**",),
    ),
    Place(
        "fine_tuning_runs",
        "file",
        "adapters and checkpoints of fine-tuning: weights, which are not exported; folders of the tenant's jobs are deleted on "
        "this host, and by a server's next sweep on every other, which also unloads the adapters",
        "as for a tenant, for jobs made from the end user's files",
        paths=("fine_tuning/ftjob-*/**",),
    ),
    Place(
        "session_adapters",
        "file",
        "adapters that were trained on conversations: weights, which are not exported; the training text stands in the job, "
        "and is deleted with the training's end. The tenant's folders are deleted on this host, and by a server's next sweep "
        "on every other, which also unloads the adapters",
        "as for a tenant, for conversations whose request named the end user",
        paths=("fine_tuning/session-*/**",),
    ),
    Place(
        "search_runs",
        "file",
        "rows, questions and answers of a search for a prompt that has not ended: copies of a file that is exported itself. "
        "The tenant's folders are deleted on this host, and by a server's next sweep on every other",
        "as for a tenant, for searches over the end user's files. Examples that a search took into a version of a prompt stay: "
        "delete the prompt through the API",
        paths=("fine_tuning/promptopt-*/**",),
    ),
    Place(
        "compression_runs",
        "file",
        "texts of a compression that has not ended: copies of files that are exported themselves. The tenant's folders are "
        "deleted on this host, and by a server's next sweep on every other",
        "as for a tenant, for compressions that read a file of the end user",
        paths=("fine_tuning/cmpjob-*/**",),
    ),
    Place(
        "compressed_models",
        "file",
        "results of compressions in the model store: weights, which are not exported. Those of the tenant's jobs are deleted "
        "on this host; on another, `deepwell models remove` deletes them",
        "as for a tenant, for compressions that read a file of the end user",
    ),
    Place(
        "improve_rounds",
        "file",
        "copies of votes in rounds of improvement, in `adapter_dir` if that is set: not exported, because the votes are. Those "
        "of a round with a vote of the tenant are deleted on this host, and within a minute by every server, with what was "
        "trained on them; the round makes them anew from the votes that are left. An adapter that its gates have judged stays "
        "until a later round replaces it",
        "as for a tenant, for rounds with a vote of the end user",
        paths=("improve/*/**",),
    ),
    Place(
        "limits",
        "file",
        "hashes of keys and times of the last minute; no personal data",
        "no personal data",
        paths=("limits",),
    ),
    Place(
        "operator_files",
        "file",
        "notebooks, runs of training and learned steps of whoever runs the machine, and files by which processes find others",
        "as for a tenant",
        paths=(
            "notebooks/**",
            "runs/**",
            "jupyter/**",
            "deploy/**",
            "learn.json",
            "up.json",
            "up.lock",
        ),
    ),
    Place(
        "markers",
        "file",
        "identities of databases; no personal data",
        "no personal data",
        paths=("*.marker", "stores/*.marker"),
    ),
    Place(
        "anchors",
        "file",
        "hashes of audit trails; no personal data",
        "no personal data",
        paths=("audit/*/*",),
    ),
    Place(
        "chat_history",
        "file",
        "lines typed into `deepwell chat` on this machine: exported and deleted with the tenant `local`",
        _NOBODY,
        paths=("chat_history",),
    ),
    Place(
        "answer_caches",
        "cache",
        "not exported, because they repeat answers; every server process empties them within a minute of an erasure, and an "
        "entry lives an hour at most unless a setting says otherwise",
        "as for a tenant: they are emptied as a whole",
        modules=("response_cache", "semantic_cache", "replay"),
    ),
    Place(
        "shared_answers",
        "cache",
        "answers in Valkey under hashed names: all of them are deleted, by the erasure and by every server within a minute",
        "as for a tenant",
        modules=("shared_answers",),
    ),
    Place(
        "prefix_cache",
        "cache",
        "keys and values of prompts in the memory of the engine, shared within one tenant alone; overwritten by later prompts, "
        "and gone with a restart of the server",
        "as for a tenant",
    ),
    Place(
        "access_log",
        "log",
        "lines that name the tenant are exported and removed from the file of the settings; copies that logrotate made, and "
        "what went to standard error, are the operator's",
        "a line has a hash of the tenant and the end user whom the request named, with the random id of the database: those of "
        "the end user are exported and removed, with the ids that the client gave the requests",
    ),
    Place(
        "traces_and_metrics",
        "log",
        "metrics name no tenant; traces are sent to a collector and not kept here",
        "as for a tenant",
    ),
)
"""All places, tables first."""


def place_of_path(path: str) -> Place | None:
    """Returns the place of a file below `data_dir` or `state_dir`, by its relative path; None: it is in none."""
    from pathlib import PurePosixPath

    for place in PLACES:
        for pattern in place.paths:
            if pattern.endswith("/**"):
                start = PurePosixPath(path).parts[: pattern.count("/")]
                if PurePosixPath(*start).match(pattern.removesuffix("/**")):
                    return place
            elif PurePosixPath(path).match(pattern) and path.count("/") == pattern.count("/"):
                return place
    return None
