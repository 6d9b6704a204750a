"""The demo's outcome in words, on the terminal and in one offline page."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlens import views
from steerlens.cards import interval
from steerlens.demo.choosing import Cell
from steerlens.demo.first_steering import VERDICTS, Condition, Outcome
from steerlens.host import Host

SHOWN = 6
"""Completions shown in the report."""


def sentence(outcome: Outcome) -> str:
    """Return what happened, beside the placebo, in a sentence or two."""
    base, up, down = (_figure(outcome, condition) for condition in outcome.conditions)
    values = [_value(outcome, condition) for condition in outcome.placebos]
    low, high = (
        f"{value:.0%}" if outcome.setting.judge else f"{value:+.2f}"
        for value in (min(values), max(values))
    )
    judged = outcome.setting.judge is not None
    what = (
        "the share of completions judged positive"
        if judged
        else "the log-odds of the positive side, in nats a token,"
    )
    told = (
        f"Adding the {outcome.setting.concept} direction at layer {outcome.chosen.layer} moves "
        f"{what} from {base} to {up}, and subtracting it to {down}; {len(values)} random "
        f"directions of the same norm give {low} to {high}."
    )
    quality = outcome.direction.quality
    if quality is not None and not quality.beyond_placebo:
        told += (
            " The direction itself does not tell held-out items apart beyond its placebos "
            f"(AUC {quality.auc:.2f}): take this steering for what the test says, and no more."
        )
    return told


def _value(outcome: Outcome, condition: Condition) -> float:
    return condition.measure if outcome.setting.judge is None else condition.share("positive")


def _figure(outcome: Outcome, condition: Condition) -> str:
    if outcome.setting.judge is not None:
        return _share(condition, "positive")
    return f"{condition.measure:+.2f} {interval(*condition.interval)}"


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Print directions, choice, conditions and a few completions side by side."""
    out = console or Console()
    chosen = outcome.chosen
    out.print(f"\n[bold]Directions[/bold] found in {outcome.direction.items}")
    for direction in outcome.directions.values():
        out.print(f"  {direction!r}", markup=False, highlight=False, soft_wrap=True)
    out.print(
        f"\n[bold]Chosen on validation[/bold]: layer {chosen.layer}, coefficient "
        f"{chosen.coeff:.3g} ({chosen.share:.0%} of the stream's norm), "
        f"{chosen.kl:.2f} nats a token"
    )
    out.print(_conditions_table(outcome))
    out.print(_texts_table(outcome))
    out.print(f"\n{sentence(outcome)}\n", highlight=False, markup=False)


def _conditions_table(outcome: Outcome) -> Table:
    n = len(outcome.conditions[0].completions)
    table = Table(title=f"Test split, {n} completions each", title_justify="left")
    judged = outcome.setting.judge is not None
    table.add_column("condition")
    for column in VERDICTS if judged else ("propensity, nats a token",):
        table.add_column(column, justify="right")
    table.add_column("KL, nats a token", justify="right")
    for condition in outcome.conditions:
        cells = (
            [_share(condition, verdict) for verdict in VERDICTS]
            if judged
            else [f"{condition.measure:+.3f} {interval(*condition.interval)}"]
        )
        table.add_row(condition.name, *cells, f"{condition.kl:.2f}")
    table.add_row(*_placebo_row(outcome, judged))
    return table


def _placebo_row(outcome: Outcome, judged: bool) -> list[str]:
    """The mean over the random directions, and their range."""
    placebos = outcome.placebos
    kl = sum(p.kl for p in placebos) / len(placebos)
    if not judged:
        values = [p.measure for p in placebos]
        cells = [f"{sum(values) / len(values):+.3f} ({min(values):+.2f} to {max(values):+.2f})"]
    else:
        cells = []
        for verdict in VERDICTS:
            shares = [p.share(verdict) for p in placebos]
            mean = sum(shares) / len(shares)
            cells.append(f"{mean:.0%} ({min(shares):.0%} to {max(shares):.0%})")
    return [f"{len(placebos)} random", *cells, f"{kl:.2f}"]


def _share(condition: Condition, verdict: str) -> str:
    low, high = condition.share_interval(verdict)
    return f"{condition.share(verdict):.0%} [{low:.0%}, {high:.0%}]"


def _texts_table(outcome: Outcome, rows: int = 3) -> Table:
    table = Table(title="Side by side", title_justify="left", show_lines=True)
    for name in ("prompt", *(condition.name for condition in outcome.conditions)):
        table.add_column(name, overflow="fold", ratio=1)
    for i in range(min(rows, len(outcome.conditions[0].completions))):
        texts = [condition.completions[i].text.strip() for condition in outcome.conditions]
        cells = [outcome.conditions[0].completions[i].prompt, *texts]
        table.add_row(*(Text(cell) for cell in cells))  # Text: brackets are not markup
    return table


def write_report(model: Host, outcome: Outcome, path: str | Path) -> Path:
    """Write one self-contained page that opens offline: figures, texts, tokens and heads."""
    steered = outcome.conditions[1].completions[0].encoded
    after = outcome.chosen.layer + 1
    layers = [after] if after < model.cfg.n_layers else []  # no head reads the last layer's output
    sections: list[views.View | str | views.HasHtml] = [
        views.prose(sentence(outcome)),
        "What came out",
        *([_verdict_bars(outcome)] if outcome.setting.judge else []),
        _texts(outcome),
        "How layer and dose were chosen",
        _layers(outcome),
        _doses(outcome),
        "Where it writes" + ", and which heads respond" * bool(layers),
        views.tokens(outcome.trace),
        *(views.heads(model, outcome.steering, steered, layer) for layer in layers),
        "The direction",
        outcome.direction,
        outcome.steering,
    ]
    title = f"Steering {outcome.setting.concept}"
    return views.save_page(path, views.page(title, sections, _provenance(outcome)))


def _verdict_bars(outcome: Outcome) -> views.View:
    rows = [
        views.Bar(
            condition.name,
            {verdict: condition.share(verdict) for verdict in VERDICTS},
            condition.share_interval("positive"),
            n=len(condition.completions),
        )
        for condition in (*outcome.conditions, *outcome.placebos)
    ]
    return views.bars(rows, title="What the judge says of completions on the test split")


def _texts(outcome: Outcome) -> views.View:
    base, up, down = outcome.conditions
    rows = []
    for i in range(min(SHOWN, len(base.completions))):
        row: dict[str, object] = {
            "prompt": base.completions[i].prompt,
            "base": base.completions[i].text,
            "steered": {c.name: c.completions[i].text for c in (up, down)},
        }
        if outcome.setting.judge:
            row["verdicts"] = {c.name: c.verdicts[i] for c in (base, up, down)}
        rows.append(row)
    return views.side_by_side(rows)


def _layers(outcome: Outcome) -> views.View:
    found = [d for d in outcome.directions.values() if d.quality is not None]
    layers = [direction.layer for direction in found]
    quality = [direction.quality for direction in found if direction.quality]
    auc = views.Line(
        "held-out AUC",
        layers,
        [q.auc for q in quality],
        [q.auc_interval[0] for q in quality],
        [q.auc_interval[1] for q in quality],
    )
    placebo = views.Band(
        "shuffled labels, 95%",
        layers,
        [q.shuffled_band[0] for q in quality],
        [q.shuffled_band[1] for q in quality],
    )
    return views.curve(
        [auc],
        x_label="layer",
        y_label="AUC",
        band=placebo,
        y_range=(0, 1),
        title="How well the direction tells held-out items apart, layer by layer",
    )


def _doses(outcome: Outcome) -> views.View:
    by_layer: dict[int, list[Cell]] = defaultdict(list)
    for cell in outcome.cells:
        by_layer[cell.layer].append(cell)
    lines = [
        views.Line(f"layer {layer}", [c.share for c in cells], [c.effect for c in cells])
        for layer, cells in by_layer.items()
    ]
    costs = [
        views.Line(f"layer {layer}", [c.share for c in cells], [c.kl for c in cells])
        for layer, cells in by_layer.items()
    ]
    effect = "effect, nats a token" if outcome.setting.judge is None else "effect, mean score"
    return views.panels(
        [views.Panel(effect, lines), views.Panel("KL, nats a token", costs)],
        x_label="length of what is added, share of the stream's norm",
        title="Effect and cost of each layer and dose on the validation split",
    )


def _provenance(outcome: Outcome) -> dict[str, object]:
    return {
        **outcome.provenance,
        "items": outcome.setting.source,
        "seed": outcome.seed,
        "steering": repr(outcome.steering),
    }
