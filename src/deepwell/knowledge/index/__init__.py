"""Lexical and vector indexes over the chunks of one store. They are side files, rebuilt from the database."""
