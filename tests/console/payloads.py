"""Strings that would run a script if a page put them anywhere but into text, and the check that none ran."""

from __future__ import annotations

from playwright.sync_api import Page

__all__ = ["PAYLOADS", "assert_nothing_ran", "watch"]

_RUN = "window.ran=1"
PAYLOADS = (
    f"<script>{_RUN}</script>",
    f"<ScRiPt>{_RUN}</sCrIpT>",
    f"<script src=data:text/javascript,{_RUN}></script>",
    f'"><script>{_RUN}</script>',
    f"'><script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    f"</textarea><script>{_RUN}</script>",
    f"</style><script>{_RUN}</script>",
    f"</option></select><script>{_RUN}</script>",
    f"<!--><script>{_RUN}</script-->",
    f"<![CDATA[><script>{_RUN}</script>]]>",
    f"<img src=x onerror={_RUN}>",
    f"<img src=x onerror='{_RUN}'//",
    f"<img/src='x'/onerror={_RUN}>",
    f"<img src onerror = '{_RUN}'>",
    f"\"><img src=x onerror='{_RUN}'>",
    f"<<img src=x onerror={_RUN}>",
    f"<svg onload={_RUN}>",
    f"<svg/onload={_RUN}//",
    f"<svg><script>{_RUN}</script></svg>",
    f"<svg><animate onbegin={_RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{_RUN}'><text x=20 y=20>go</text></a></svg>",
    f"<svg><use href=\"data:image/svg+xml,<svg id='x' xmlns='http://www.w3.org/2000/svg' onload='{_RUN}'/>#x\">",
    f"<math><mtext><table><mglyph><style><img src=x onerror={_RUN}>",
    f'<noscript><p title="</noscript><img src=x onerror={_RUN}>">',
    f"<iframe srcdoc='<script>parent.{_RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{_RUN}></iframe>",
    f"<iframe onload={_RUN}></iframe>",
    f"<object data=javascript:{_RUN}></object>",
    f"<embed src=javascript:{_RUN}>",
    f"<a href=javascript:{_RUN}>go</a>",
    f"<a href='java\tscript:{_RUN}'>go</a>",
    f"<a href='&#106;avascript:{_RUN}'>go</a>",
    f"[go](javascript:{_RUN})",
    f"![x](x' onerror='{_RUN})",
    f"<form action=javascript:{_RUN}><button>go</button></form>",
    f"<button formaction=javascript:{_RUN}>go</button>",
    f"<input autofocus onfocus={_RUN}>",
    f"<select autofocus onfocus={_RUN}>",
    f"<details open ontoggle={_RUN}>",
    f"<video><source onerror={_RUN}></video>",
    f"<body onload={_RUN}>",
    f"<meta http-equiv=refresh content='0;url=javascript:{_RUN}'>",
    f"<base href='javascript:{_RUN}//'>",
    f"<template><script>{_RUN}</script></template><p onpointerenter={_RUN}>",
    f"<style>@keyframes x{{}}</style><b style='animation-name:x' onanimationstart={_RUN}></b>",
    f"\u202e<img src=x onerror={_RUN}>\u0000",
    f"javascript:{_RUN}",
    f"{{{{constructor.constructor('{_RUN}')()}}}}",
    f"${{{_RUN}}}`${{{_RUN}}}`",
)


def watch(page: Page) -> None:
    """Remembers scripts that ran before the page's own, too."""
    page.add_init_script("window.ran = 0")


def assert_nothing_ran(page: Page) -> None:
    """Moves over the whole page, so that handlers of the pointer run too, and holds that no payload ran."""
    page.evaluate(
        "for (const one of document.querySelectorAll('body *')) for (const name of ['pointerenter', 'mouseover', 'toggle'])"
        " one.dispatchEvent(new Event(name, {bubbles: true}))"
    )
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate("window.ran") == 0
    assert page.locator("main script, main iframe, main object, main img, main base, main style").count() == 0
