"""Texts that would run as scripts where a page took them for markup, and the check that none did."""

from __future__ import annotations

from tests.console.browser import Console

__all__ = ["PAYLOADS", "assert_inert", "watch_scripts"]

_RUN = "ran.push(1)"
_MARKUP = [
    "<script>{run}</script>",
    "<ScRiPt>{run}</sCrIpT>",
    "<script src=data:text/javascript,{run}></script>",
    "</script><script>{run}</script>",
    "</title><script>{run}</script>",
    "</textarea><script>{run}</script>",
    "--><script>{run}</script><!--",
    "]]><script>{run}</script>",
    "<img src=x onerror={run}>",
    "<img src=x onerror='{run}'>",
    "<img/src=x/onerror={run}>",
    "<img src=x\nonerror\n=\n{run}>",
    '"><img src=x onerror={run}>',
    "'><img src=x onerror={run}>",
    "`><img src=x onerror={run}>",
    "<image src=x onerror={run}>",
    "<svg onload={run}>",
    "<svg/onload={run}//",
    "<svg><script>{run}</script></svg>",
    "<svg><script href=data:text/javascript,{run} /></svg>",
    "<svg><animate onbegin={run} attributeName=x dur=1s>",
    "<svg><a xlink:href=javascript:{run}><text y=20>x</text></a></svg>",
    "<svg><use href='data:image/svg+xml,<svg onload={run}/>#x'>",
    "<math><mtext><table><mglyph><style><img src=x onerror={run}>",
    "<math href=javascript:{run}>x</math>",
    "<body onload={run}>",
    "<body onpageshow={run}>",
    "<iframe src=javascript:{run}></iframe>",
    "<iframe srcdoc='<script>parent.{run}</script>'></iframe>",
    "<object data=javascript:{run}></object>",
    "<embed src=javascript:{run}>",
    "<a href=javascript:{run}>x</a>",
    "<a href='java\tscript:{run}'>x</a>",
    "<a href=' &#106;avascript:{run}'>x</a>",
    "<form action=javascript:{run}><input type=submit autofocus>",
    "<button formaction=javascript:{run}>x</button>",
    "<input autofocus onfocus={run}>",
    "<select autofocus onfocus={run}>",
    "<textarea autofocus onfocus={run}>",
    "<details open ontoggle={run}>x</details>",
    "<video><source onerror={run}></video>",
    "<audio src=x onerror={run}>",
    "<marquee onstart={run}>x</marquee>",
    "<style onload={run}></style>",
    "<link rel=stylesheet href=data:text/css, onload={run}>",
    "<meta http-equiv=refresh content='0;url=javascript:{run}'>",
    "<base href=javascript:{run}//>",
    "<div style=animation-name:x onanimationstart={run}>x</div>",
    "<template><script>{run}</script></template><noscript><p title='</noscript><img src=x onerror={run}>'>",
    "{{constructor.constructor('{run}')()}}${{{run}}}<%= {run} %>[x](javascript:{run})![x](x\"onerror={run})",
]

PAYLOADS: tuple[str, ...] = tuple(text.replace("{run}", _RUN) for text in _MARKUP)
"""Fifty payloads. Each would note that it ran."""

_FOUND = """() => ({
    ran: window.ran.length,
    scripts: [...document.querySelectorAll('script')].filter((one) => !one.src.startsWith(location.origin)).length,
    frames: document.querySelectorAll('iframe, object, embed, base, meta[http-equiv=refresh]').length,
    handlers: [...document.querySelectorAll('*')].filter(
        (one) => [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).length,
    addresses: [...document.querySelectorAll('[href], [src], [action], [formaction]')].filter((one) =>
        ['href', 'src', 'action', 'formaction'].some((name) =>
            /^\\s*(javascript|vbscript|data:text)/i.test(one.getAttribute(name) ?? ''))).length,
})"""


def watch_scripts(console: Console) -> None:
    """Gives payloads something to note that they ran. To be called before the page is opened."""
    console.page.add_init_script("window.ran = []")


def assert_inert(console: Console) -> None:
    """Holds that no payload ran, and that none became a script, a frame, a handler or an address."""
    found = console.page.evaluate(_FOUND)
    assert found == {"ran": 0, "scripts": 0, "frames": 0, "handlers": 0, "addresses": 0}
    console.check()
