"""Fronts: what stands before the replicas of a deployment and decides which release a request gets."""
