"""The training of the classifier of attacks: its texts, its folds, and the card of its weights."""
