"""Labelling: people label the texts of a file, and a learner beside the labels chooses which to ask about next."""
