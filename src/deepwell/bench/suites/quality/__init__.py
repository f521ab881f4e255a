"""What the engine's answers keep: perplexity, size, the same bits in any company."""
