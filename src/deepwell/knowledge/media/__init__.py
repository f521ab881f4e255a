"""Pictures and recordings in knowledge bases: how they are told from documents, and become text."""
