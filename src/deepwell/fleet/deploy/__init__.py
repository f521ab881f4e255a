"""Deployments: one declaration for every grade, replicas behind a front, and roll-outs that drive its traffic."""
