"""What the server is told about files and batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepwell.settings import Settings

__all__ = ["FileOptions"]


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are kept and batches run; the settings of the same names describe each."""

    folder: Path | None = None  # of the files; None: one that is gone with the server
    max_file_bytes: int = 512 << 20
    max_upload_bytes: int = 8 << 30
    batch_concurrency: int = 16
    job_lease_s: float = 10.0

    @classmethod
    def of(cls, settings: Settings) -> FileOptions:
        """As the settings say."""
        return cls(
            settings.data_dir / "files",
            settings.max_file_bytes,
            settings.max_upload_bytes,
            settings.batch_concurrency,
            settings.job_lease_s,
        )
