"""Colours, style sheet and escaping: what every view has in common.

Colour is laid over the page's own background as a transparency, so one encoding is
legible on white paper, in a dark notebook theme and in print.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

from steerlens.cards import drawable

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00",
)  # fmt: skip
"""The Okabe-Ito palette, distinguishable with any common colour blindness."""

SERIES = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
GREY = "#8a8f98"
LEGIBLE = 0.72
"""The opacity up to which text on a colour can be read, in light and in dark."""

_SPECIAL = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


def text(value: object) -> str:
    """Escape `value` for HTML text and for quoted attributes.

    >>> text("</script>&'")
    '&lt;/script&gt;&amp;&#x27;'
    """
    return escape(drawable(str(value)), quote=True)


def token_text(token: str) -> str:
    """Return a token as a person should see it: line breaks, tabs and lone spaces have a sign.

    >>> token_text(chr(10)), token_text(" "), token_text(" the"), token_text("")
    ('⏎', '␣', ' the', '∅')
    """
    if not token:
        return "∅"
    if set(token) == {" "}:
        return "␣" * len(token)
    return drawable("".join(_SPECIAL.get(char, char) for char in token))


def live_token(token: str) -> str:
    """Return a token for circuitsvis, which writes it into innerHTML as it is.

    A word joiner after `<` and `&` keeps it from being a tag or an entity, and, unlike
    an HTML escape, reads the same in the text and in the tooltips.
    """
    shown = token_text(token)
    return shown.replace("<", "<\u2060").replace("&", "&\u2060")


def props_json(props: Mapping[str, object]) -> str:
    r"""Return props as JSON that may stand inside a script element.

    >>> props_json({"tokens": ["</script>"]})
    '{"tokens":["\\u003c/script\\u003e"]}'
    """
    source = json.dumps(props, allow_nan=False, separators=(",", ":"))
    return source.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def tint(colour: str, strength: float, most: float = LEGIBLE) -> str:
    """Return `colour` at a transparency, `#rrggbbaa`, by default one that leaves text legible.

    >>> tint("#0072b2", 1.0), tint("#0072b2", 0.0)
    ('#0072b2b8', '#0072b20a')
    """
    alpha = 0.04 + (most - 0.04) * min(max(strength, 0.0), 1.0)
    return f"{colour}{round(255 * alpha):02x}"


def on_white(colour: str) -> str:
    """Return what `colour` looks like at its most legible strength on white paper.

    >>> on_white("#000000")
    '#474747'
    """
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * LEGIBLE):02x}" for part in parts)


STYLE = """
.sl-view{--sl-mono:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
 margin:.6em 0 1.8em;padding:0;color:inherit;
 font:13px/1.45 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,"Liberation Sans",sans-serif}
.sl-static{overflow-x:auto}
.sl-view .sl-title{font-weight:600;font-size:14px;margin:0 0 .15em}
.sl-view .sl-sub,.sl-view .sl-muted{opacity:.66;font-size:12px}
.sl-view .sl-sub{margin:0 0 .7em}
.sl-view .sl-nan{background-image:repeating-linear-gradient(45deg,#8888 0 2px,#0000 2px 5px)}
.sl-legend{display:flex;flex-wrap:wrap;align-items:center;gap:.25em 1.2em;font-size:12px;
 margin:.7em 0 0}
.sl-legend>span{display:inline-flex;align-items:center;gap:.45em}
.sl-legend i{display:inline-block;width:18px;height:11px}
.sl-legend i.sl-range{height:7px;border:solid;border-width:0 1px;
 background:linear-gradient(currentColor,currentColor) center/100% 1px no-repeat}
.sl-ramp{display:inline-flex}
.sl-flow{font:13px/2 var(--sl-mono);max-width:92ch;overflow-wrap:anywhere;margin:0 0 .5em}
.sl-flow span{display:inline-block;unicode-bidi:isolate;white-space:pre-wrap;max-width:100%;
 line-height:1.3;padding:2px 0;border-radius:2px;
 box-shadow:inset 0 0 0 .5px #8883}
.sl-mark{opacity:.66;font-size:11px;font-weight:400;letter-spacing:.03em}
.sl-view table.sl-gloss{border-collapse:separate;border-spacing:1px;margin:0 0 11px;width:auto;
 table-layout:auto;
 font:11px/1.15 var(--sl-mono)}
.sl-view tr{background:none!important}
.sl-view .sl-gloss th,.sl-view .sl-gloss td{padding:0 3px;height:13px;border:0;font-weight:400;
 text-align:center;white-space:pre;unicode-bidi:isolate}
.sl-view .sl-gloss thead th{font-size:12.5px;padding:2px 3px;height:auto}
.sl-view .sl-gloss tr>:first-child{text-align:right;min-width:6em;padding:0 8px 0 0;font-size:11px}
.sl-view .sl-gloss tbody td{box-shadow:inset 0 0 0 .5px #8886}
.sl-view .sl-gloss tbody th{opacity:.66}
.sl-view table.sl-grid{border-collapse:separate;border-spacing:1px;margin:0;width:auto;
 table-layout:auto;font-size:11.5px;line-height:1.2;font-variant-numeric:tabular-nums}
.sl-view .sl-grid th,.sl-view .sl-grid td{border:0;padding:0 4px;font-weight:400;font-size:11.5px;
 text-align:center;white-space:nowrap}
.sl-view .sl-grid td{min-width:var(--sl-cell,28px);height:22px;box-shadow:inset 0 0 0 .5px #8884}
.sl-view .sl-grid th{opacity:.66;height:17px}
.sl-view .sl-grid tr>:first-child{text-align:right;padding:0 8px 0 0}
.sl-view .sl-bare td{min-width:12px;height:14px;padding:0}
.sl-view .sl-bare th{padding:0 1px;font-size:10px;height:14px}
.sl-view .sl-grid th.sl-from{text-align:left}
.sl-view svg+table.sl-grid,.sl-view .sl-legend+table.sl-grid{margin-top:14px}
.sl-view .sl-mlp tr>:last-child{border-left:9px solid #0000;background-clip:padding-box}
.sl-heads{display:flex;flex-wrap:wrap;gap:16px 18px}
.sl-heads>div{width:150px}
.sl-head{display:flex;justify-content:space-between;font-size:12px;margin:0 0 3px}
.sl-head b{font-weight:600}
.sl-head span{font-variant-numeric:tabular-nums;padding:0 4px;border-radius:2px}
.sl-map{position:relative;width:148px;height:148px;border:1px solid #8885}
.sl-map img{display:block;width:148px;height:148px;image-rendering:pixelated;margin:0}
.sl-map div{position:absolute;inset:0;display:flex;flex-direction:column}
.sl-map i{flex:1}.sl-map i:hover{box-shadow:0 0 0 1px currentColor}
.sl-view table.sl-sides{border-collapse:collapse;width:100%;table-layout:fixed;margin:0}
.sl-view .sl-sides th,.sl-view .sl-sides td{text-align:left;vertical-align:top;
 padding:7px 16px 9px 0; border:0;border-bottom:1px solid #8884;
 overflow-wrap:anywhere;font-size:13px}
.sl-view .sl-sides th{font-size:12px;font-weight:600;padding-bottom:4px}
.sl-view .sl-sides td{white-space:pre-wrap;unicode-bidi:plaintext}
.sl-view .sl-sides mark{background:#e69f003d;color:inherit;border-radius:2px;padding:0 1px}
.sl-view .sl-sides mark.sl-first{background:#e69f0085}
.sl-badge{display:block;width:max-content;font-size:11px;line-height:1.3;padding:1px 7px;
 border-radius:9px;margin:0 0 4px;white-space:nowrap}
.sl-view svg{display:block;max-width:100%;height:auto;font-size:11.5px;
 font-family:inherit;overflow:visible;font-variant-numeric:tabular-nums}
.sl-view svg text{fill:currentColor}
.sl-view details{font-size:12px;margin:.5em 0 0}
.sl-view summary{opacity:.66;cursor:pointer}
.sl-view details table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4em 0;
 width:auto;table-layout:auto}
.sl-view details th,.sl-view details td{padding:1px 14px 1px 0;text-align:right;font-weight:400;
 border:0;font-size:12px}
.sl-view details th:first-child,.sl-view details td:first-child{text-align:left}
.sl-live:not(:empty){background:#fff;color:#222;color-scheme:light;border-radius:6px;
 padding:4px 8px 0 5px;max-width:900px}
.sl-drawn:not(.sl-plain) .sl-ramp{background:#fff}
.sl-drawn .sl-static,.sl-plain .sl-live{display:none}
.sl-plain .sl-static{display:block}
.sl-switch{float:right;font:inherit;font-size:12px;color:inherit;opacity:.66;background:none;
 border:0;padding:0 2px;cursor:pointer;text-decoration:underline;text-underline-offset:2px}
.sl-live .colored-tokens{font:13px/1.9 var(--sl-mono);padding-bottom:6px!important}
.sl-live .colored-tokens span span{border-color:#8883!important;border-radius:2px}
.sl-live label,.sl-live input,.sl-live button{font-size:11px;color:#555}
.sl-live div:has(>input){display:inline-block;margin:3px 16px 5px 0}
.sl-live>.colored-tokens span span{color:#111!important}
.sl-live input{width:7em;border:1px solid #ccc;border-radius:3px;padding:0 4px}
.sl-live h3{font-size:12px;font-weight:400;color:#666;margin:2px 0 6px!important}
.sl-live h2{display:none}
.sl-live div[style*="border-style"]{border-color:#8886!important}
.sl-live div[style*="box-shadow"]{box-shadow:0 0 0 2px #0072b2!important}
.sl-live div[style*="min("]{max-width:600px!important}
.sl-live h4{font-size:10px;font-weight:600;background:#ffffffd0!important;color:#222!important;
 padding:1px 3px!important}
@media print{.sl-live,.sl-switch{display:none!important}
 .sl-drawn .sl-static{display:block!important}
 .sl-static{overflow:visible}.sl-view table.sl-gloss{zoom:.78}
 .sl-view{break-inside:avoid;print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

PAGE_STYLE = """
:root{color-scheme:light dark}
.sl-live>div{padding-bottom:4px!important}
body{max-width:980px;margin:2.6em auto 5em;padding:0 24px;background:#fff;color:#1d1f23;
 font:15px/1.6 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,"Liberation Sans",sans-serif}
h1{font-size:25px;font-weight:650;line-height:1.25;letter-spacing:-.01em;margin:0 0 1em}
h2{font-size:17px;font-weight:650;margin:2.4em 0 .7em}
p{max-width:70ch;margin:.5em 0 1em}
footer{margin:4em 0 0;padding:1em 0 0;border-top:1px solid #8884;font-size:12px}
footer dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.4em;margin:0}
footer dt{opacity:.66}footer dd{margin:0;overflow-wrap:anywhere}
@media screen and (prefers-color-scheme:dark){body{background:#15171a;color:#e4e5e7}
 .sl-view svg{filter:brightness(1.3)}}
@media print{body{margin:0;max-width:none;font-size:11pt;background:#fff;color:#000}
 h2{break-after:avoid}details{display:none}}
"""
