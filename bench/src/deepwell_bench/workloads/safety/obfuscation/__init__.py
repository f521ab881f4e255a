"""Converters that disguise prompts, after the descriptions in pyrit 1.1.0 and garak 0.17.1. None of their code is used."""
