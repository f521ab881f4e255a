"""Runs a model: architectures, packed weights, paged cache, scheduler, sampler."""
