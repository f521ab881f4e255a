"""Decision tables: rows that people write as CSV or YAML, or decision models (JDM) of zen-engine."""
