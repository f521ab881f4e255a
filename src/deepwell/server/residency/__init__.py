"""Models that are loaded when a request names them: the policy, the process that carries it out, and its clients."""
