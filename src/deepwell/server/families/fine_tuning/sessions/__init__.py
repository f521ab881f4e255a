"""Session adapters: small adapters that learn what a conversation has lost from its context."""
