"""Images, recordings and documents in conversations: each becomes text that the model reads, marked as what it is."""
