"""Pictures, speech and transcripts in conversations, and the choice between them."""
