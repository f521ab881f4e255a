"""Augmentation: texts in other words, by translation there and back or by paraphrase, and filters that keep the good ones."""
