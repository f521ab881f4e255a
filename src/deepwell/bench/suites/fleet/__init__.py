"""Suites of the fleet: deployments over several servers, and engines beyond this machine."""
