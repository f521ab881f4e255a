"""The registry of models: versions, roll-outs and the loop."""
