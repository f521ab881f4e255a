"""The quality of the engine's answers: perplexity, size, the same bits in any company."""
