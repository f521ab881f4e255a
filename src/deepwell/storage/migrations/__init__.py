"""How the tables came to be, a revision at a time; run by `Database` when it opens an older file."""
