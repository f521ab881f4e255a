"""Contexts of compliance checks, prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepwell.safety.compliance.context import Context
from deepwell.safety.guard import Guard
from deepwell.safety.patterns import Patterns
from deepwell.safety.personal import Personal
from deepwell.safety.policy import Policy
from deepwell.safety.secrets import Secrets
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import Term, TermList
from deepwell.settings import Settings

Make = Callable[..., Context]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a context of policy text, terms and whatever else is given."""
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path / "home"))

    def made(
        policy: str | None = "strict",
        terms: Sequence[tuple[str, str, str]] = (),
        settings: dict[str, Any] | None = None,
        **more: Any,
    ) -> Context:
        loaded = Settings.load(**(settings or {}))
        if policy is None:
            return Context(loaded, **more)
        path: str | Path = policy
        if ":" in policy:
            path = tmp_path / "policy.yaml"
            path.write_text(policy, encoding="utf-8")
        read = Policy.load(path)
        mine = TermList("mine", [Term(*term) for term in terms], "file", "-", "0" * 64)  # type: ignore[arg-type]
        detectors = [Terms([mine]), Patterns(), Personal(), Secrets()]
        guard = Guard({"input": detectors, "context": detectors, "output": detectors}, read)
        return Context(loaded, read, guard, **more)

    return made
