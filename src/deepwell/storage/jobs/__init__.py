"""Durable jobs: their rows, and the runner that claims them."""

from __future__ import annotations

from deepwell.storage.jobs.rows import Job, JobStatus, JobStore, beat_jobs, delete_job, insert_job

__all__ = ["Job", "JobStatus", "JobStore", "beat_jobs", "delete_job", "insert_job"]
