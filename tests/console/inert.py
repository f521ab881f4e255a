"""`assert_inert`: holds that nothing which a page shows as text became a part of the page."""

from __future__ import annotations

from tests.console.browser import Console

__all__ = ["assert_inert"]

_FOUND = """() => ({
    ran: window.ran ?? 0,
    scripts: [...document.querySelectorAll('script')].filter((one) => !one.src.startsWith(location.origin)).length,
    frames: document.querySelectorAll('iframe, object, embed, base, meta[http-equiv=refresh]').length,
    handlers: [...document.querySelectorAll('*')].filter(
        (one) => [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).length,
    addresses: [...document.querySelectorAll('[href], [src], [action], [formaction]')].filter((one) =>
        ['href', 'src', 'action', 'formaction'].some((name) =>
            /^\\s*(javascript|vbscript|data:text)/i.test(one.getAttribute(name) ?? ''))).length,
})"""


def assert_inert(console: Console) -> None:
    """Holds that no script ran, and that no text became a script, a frame, a handler or an address.

    Scripts note that they ran in `window.ran`, as those of `payloads.PAYLOADS` do.
    """
    console.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    found = console.page.evaluate(_FOUND)
    assert found == {"ran": 0, "scripts": 0, "frames": 0, "handlers": 0, "addresses": 0}
    console.check()
