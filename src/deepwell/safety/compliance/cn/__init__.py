"""Checks of the pack for mainland China: terms, banks of test prompts, and runs on samples of them."""
