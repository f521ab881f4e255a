"""The registry of models: a ledger of versions, gates, roll-outs and aliases."""
