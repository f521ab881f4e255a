"""Storage: one database, its migrations, and a store for each kind of object. Every call names its tenant."""
