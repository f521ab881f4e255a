"""The newcomer's benchmark waits for a line that the server really prints."""

from __future__ import annotations

import inspect

from deepwell.cli import serve
from deepwell.messages import render
from deepwell_bench.suites.repository import suites


def test_the_awaited_line_is_printed_by_the_demo() -> None:
    assert suites.ANSWER_LINE in render("serve_next", "en", {})[0]
    assert 'say("serve_next")' in inspect.getsource(serve)
