"""circuitsvis's script, once a page and without a network.

A figure of circuitsvis asks a public site whether it is online each time it is shown, and
carries 1.3 MB of script. Here its bundled script travels gzipped, about a third of
that, in one fragment of a page; every other fragment only asks to be drawn.
"""

from __future__ import annotations

import base64
import gzip
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from steerlens.errors import BadInputError

Policy = Literal["auto", "always", "never"]

_LOADER = """(async () => {
const queue = window.__steerlens = window.__steerlens || [];
if (queue.loading) return;
queue.loading = true;
try {
const bytes = Uint8Array.from(atob("@BUNDLE@"), char => char.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const script = document.createElement("script");
script.nonce = "@NONCE@";
script.textContent = await new Response(stream).text();
document.head.append(script);
} catch (error) { queue.loading = false; return; }
let drawn = 0;
const draw = ({key, element, props}, tries) => {
const views = document.querySelectorAll(`[data-steerlens="${key}"]:not([data-seen])`);
if (!views.length && tries) setTimeout(draw, 200, {key, element, props}, tries - 1);
for (const view of views) {
view.dataset.seen = "yes";
const live = view.querySelector(".sl-live");
live.id = `sl-live-${drawn++}`;
const button = document.createElement("button");
button.className = "sl-switch";
button.textContent = "static view";
button.onclick = () => {
button.textContent = view.classList.toggle("sl-plain") ? "interactive view" : "static view";
};
new MutationObserver(() => {
const full = live.childElementCount > 0;
view.classList.toggle("sl-drawn", full);
full ? view.prepend(button) : button.remove();
}).observe(live, {childList: true});
CircuitsVis.render(live.id, CircuitsVis[element], props);
}
};
queue.push = (...requests) => { requests.forEach(each => draw(each, 20)); return 0; };
queue.push(...queue.splice(0));
})();"""


@dataclass
class _Session:
    """What this kernel session has shown: which cell carries the script, and since which run."""

    policy: Policy = "auto"
    cell: str | None = None
    execution: int | None = None


_session = _Session()


@cache
def packed() -> str:
    """Return circuitsvis's bundled script, gzipped and in base64 (about 0.5 MB)."""
    source = resources.files("circuitsvis").joinpath("dist", "cdn", "iife.js").read_bytes()
    source = source.split(b"//# sourceMappingURL")[0]
    return base64.b64encode(gzip.compress(source, 9, mtime=0)).decode("ascii")


def loader(nonce: str = "") -> str:
    """Return the script that unpacks circuitsvis and draws whatever asked to be drawn.

    Loading it twice on a page is harmless: the second finds the first and stops.
    """
    return _LOADER.replace("@NONCE@", nonce).replace("@BUNDLE@", packed())


def embed(policy: Policy) -> None:
    """Choose which notebook outputs carry the drawing script.

    `"auto"`: the first view of a kernel session, and that cell again when it is re-run;
    `"always"`: every view (0.5 MB each), for outputs that must stand alone; `"never"`: none,
    so that the static twins stay. Call `embed("auto")` again to carry it once more, after
    the cell that carried it was cleared.

    >>> embed("auto")

    Raises BadInputError where the policy is none of the three.
    """
    if policy not in ("auto", "always", "never"):
        raise BadInputError(
            f"No embedding policy is called {policy!r}. Use 'auto', 'always' or 'never'."
        )
    _session.policy, _session.cell, _session.execution = policy, None, None


def is_due() -> bool:
    """Say whether the fragment shown now has to carry the script, and remember that it did."""
    if _session.policy != "auto":
        return _session.policy == "always"
    shell = _shell()
    if shell is None or "google.colab" in sys.modules:  # Colab isolates each output
        return True
    execution, cell = int(shell.execution_count), _cell_id(shell)
    rerun = cell is not None and cell == _session.cell and execution != _session.execution
    if _session.execution is not None and not rerun:
        return False
    _session.execution, _session.cell = execution, cell
    return True


def _shell() -> Any:
    """Return the running IPython shell, without importing IPython; None outside of it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _cell_id(shell: Any) -> str | None:
    """Return the id of the cell being run, where the front end tells it (Lab, VS Code)."""
    parent: dict[str, Any] = getattr(shell, "get_parent", dict)() or {}
    found = (parent.get("metadata") or {}).get("cellId")
    return str(found) if found else None
