"""Tools that stand above one server: promotion of models, and later roll-out over several servers."""
