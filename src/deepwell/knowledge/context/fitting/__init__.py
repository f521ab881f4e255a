"""Fitting of conversations that are longer than a model's context, and the ledger of their tokens."""
