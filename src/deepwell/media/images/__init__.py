"""Pictures from text: a small rectified-flow transformer, and what comes with it."""
