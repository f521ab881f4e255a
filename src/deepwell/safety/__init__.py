"""Safety: what may come in and go out. Detectors find, a policy decides, an audit trail remembers."""
