"""The simulator: how a fleet of replicas would serve a load, from the measured speed of one of them."""
