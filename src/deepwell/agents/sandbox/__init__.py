"""A sandbox for code that a model wrote: a separate process without network, files, rights or other processes."""

from deepwell.agents.sandbox.limits import SandboxLimits, SandboxResult, SandboxUnavailable
from deepwell.agents.sandbox.root import Way
from deepwell.agents.sandbox.sandbox import Sandbox, available, sandbox_way

__all__ = [
    "Sandbox",
    "SandboxLimits",
    "SandboxResult",
    "SandboxUnavailable",
    "Way",
    "available",
    "sandbox_way",
]
