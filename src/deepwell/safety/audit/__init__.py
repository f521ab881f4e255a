"""The audit trail of safety: what was decided about which request, verifiable afterwards."""
