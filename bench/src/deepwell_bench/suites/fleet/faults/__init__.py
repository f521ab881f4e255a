"""Faults that a deployment lives through: kills, a promoted standby, wrong clocks, a full disk, a cut network."""
