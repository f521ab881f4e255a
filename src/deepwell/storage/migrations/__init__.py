"""Migrations of the tables, one revision at a time. `Database` runs them when it opens an older database."""
