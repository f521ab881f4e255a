"""Programs that recognise or speak beside Deepwell."""
