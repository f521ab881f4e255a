"""Texts that run a script, load something or break out of their place where a page takes them for markup.

Each one that runs sets `window.ran`; what they load is at an address that does not exist.
"""

from __future__ import annotations

from playwright.sync_api import Page

__all__ = ["PAYLOADS", "RUN", "assert_nothing_ran"]

RUN = "window.ran=1"
_FAR = "http://198.51.100.7/x"

PAYLOADS: tuple[str, ...] = (
    f"<script>{RUN}</script>",
    f"<SCRIPT>{RUN}</SCRIPT >",
    f"<script src={_FAR}.js></script>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'>",
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f"</textarea><img src=x onerror={RUN}>",
    f"</title><script>{RUN}</script>",
    f"<img src={_FAR}.png>",
    f"![picture]({_FAR}.png)",
    f"![x](x' onerror='{RUN})",
    f'![x](x" onerror="{RUN})',
    f"![x](data:image/svg+xml,<svg onload={RUN}>)",
    f"![x](data:text/html,<script>{RUN}</script>)",
    f"[click](javascript:{RUN})",
    f"[click](JaVaScRiPt:{RUN})",
    f"[click](java\nscript:{RUN})",
    f"[click](&#106;avascript:{RUN})",
    "[click](data:text/html;base64,PHNjcmlwdD53aW5kb3cucmFuPTE8L3NjcmlwdD4=)",
    f"[click](vbscript:{RUN})",
    f'[click](x "title" onmouseover="{RUN}")',
    f"<a href=javascript:{RUN}>click</a>",
    f"<a href='x' onclick={RUN} autofocus onfocus={RUN}>click</a>",
    f"<javascript:{RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><use href=data:image/svg+xml,<svg id=x onload={RUN}>#x>",
    f"<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror={RUN}>'>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<iframe src=javascript:{RUN}></iframe>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    f"<object data={_FAR}></object><embed src={_FAR}>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}>",
    f"<video src=x onerror={RUN}></video><audio src={_FAR} autoplay></audio>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<style>@import '{_FAR}.css'; *{{background:url({_FAR})}}</style>",
    f"<link rel=stylesheet href={_FAR}.css>",
    f"<meta http-equiv=refresh content='0;url={_FAR}'>",
    f"<base href={_FAR}/>",
    f"<div style='background:url({_FAR});position:fixed;inset:0'>x</div>",
    f"<template><img src=x onerror={RUN}></template>",
    f"`<img src=x onerror={RUN}>`",
    f"```html\n<img src=x onerror={RUN}>\n```",
    f'```"><img src=x onerror={RUN}>\ncode\n```',
    f"| <img src=x onerror={RUN}> | b |\n|---|---|\n| <svg onload={RUN}> | {{{{constructor.constructor('{RUN}')()}}}} |",
    f"[x]: javascript:{RUN}\n\n[x]\n\n<br onclick={RUN}><sub style=color:red>s</sub>",
    f"<form action={_FAR}><input name=attributes><button formaction=javascript:{RUN}>x</button></form>",
    "<img name=getElementById><img id=app><a id=location href=x>",
    f"\u2028</script>\u0000<script>{RUN}</script>",
)


def assert_nothing_ran(page: Page) -> None:
    """Moves over the whole page, so that handlers of the pointer run too, and holds that no payload did anything."""
    page.evaluate(
        "for (const one of document.querySelectorAll('body *')) for (const name of ['pointerenter', 'mouseover', 'toggle'])"
        " one.dispatchEvent(new Event(name, {bubbles: true}))"
    )
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate("window.ran") is None
    assert page.locator("main :is(script, iframe, object, embed, img, base, style, link)").count() == 0
