"""The catalogue that every table registers in, and the newest revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData

__all__ = ["HEAD", "Sequence", "metadata"]

HEAD = "0014"  # the newest revision

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column declared exactly INTEGER PRIMARY KEY.
Sequence = BigInteger().with_variant(Integer, "sqlite")
