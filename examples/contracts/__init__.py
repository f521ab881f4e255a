"""Review of licence texts: what they permit, demand and exclude, by rules and a model together."""
