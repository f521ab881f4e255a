"""The promises of storage, killed processes included."""
