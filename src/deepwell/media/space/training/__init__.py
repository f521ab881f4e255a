"""The training of the heads and of the fusion. It needs the extra `tune`."""
