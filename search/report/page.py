"""The report of a search: one HTML page that needs nothing else, on disk or inside MLflow.

Whatever comes from outside (names, labels, reasons, addresses) is escaped here, or set as text by the script. The
page's own policy forbids it to load anything. Knows the story of a search, nothing of MLflow.
"""

import json
from collections.abc import Mapping
from html import escape
from importlib import resources

from plotly.offline import get_plotlyjs

from search.report.chart import chart
from search.report.points import with_unit
from search.report.story import Importance, Story
from search.report.tables import Cell, Links, Table, confirmation_table, front_table
from search.report.words import advice, confirmed, standing

SERVER = "http://127.0.0.1:5000"  # of `archsearch ui`, for a page on disk whose links begin with #
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
MADE_BY = '<meta name="generator" content="archsearch report">'
MOST_BARS = 12  # decisions of an objective

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
{made_by}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: Pareto front</title>
<style>{style}</style>
</head>
<body>
<h1>{name}</h1>
<p>{standing}</p>
<p class="advice">{advice}</p>
{sections}
<script type="application/json" id="data">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""

FRONT = """<section>
<h2>Trials</h2>
<div class="choose">
<label>up <select id="y"></select></label> <label>across <select id="x"></select></label>
<span class="hint">Point at a trial to see what it is; click it to open its run.</span>
</div>
<div id="front"></div>
<p id="placeless" class="hint"></p>
<aside id="chosen" hidden></aside>
</section>"""

HISTORY = """<section>
<h2>Hypervolume</h2>
<div class="choose"><label>over <select id="clock"><option value="trainings">trainings that have ended</option>
<option value="hours">hours since the first began</option></select></label></div>
<div id="history"></div>
</section>"""


def front_page(story: Story, *, links: Links) -> str:
    """The page as text of HTML, about 5 MB, most of it plotly.js.

    Args:
        links: the address of a trial's run. One that begins with `#` is on the MLflow that shows the page, else on
            that of `archsearch ui`.
    """
    sections = [FRONT]
    if story.confirmation is not None:
        table = _table(confirmation_table(story.confirmation, story.front, links))
        sections.append(f"<section><h2>Confirmed</h2><p>{escape(confirmed(story.confirmation))}</p>{table}</section>")
    if story.front.members:
        table = _table(front_table(story.front, links, inherits=bool(story.start)))
        sections.append(f"<section><h2>Front</h2>{table}{_command(story)}</section>")
    sections.append(f'<div class="pair">{HISTORY}{_importance(story.importance())}</div>')
    return PAGE.format(
        policy=POLICY,
        made_by=MADE_BY,
        name=escape(story.name),
        standing=escape(standing(story)),
        advice=escape(advice(story)),
        sections="\n".join(sections),
        style=_part("page.css"),
        data=_json({**chart(story, links), "server": SERVER}),
        plotly=get_plotlyjs(),
        script=_part("page.js"),
    )


def _part(name: str) -> str:
    return resources.files("search.report").joinpath(name).read_text(encoding="utf-8")


def _json(data: Mapping[str, object]) -> str:
    """JSON that no HTML can begin or end in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _command(story: Story) -> str:
    first = story.front.members[0].network.id
    return f"<p>To take one: <code>archsearch pick {escape(story.name)} --id {escape(first)}</code></p>"


def _importance(importance: Importance) -> str:
    """A bar for each decision, an objective below the other."""
    if not importance:
        return "<section><h2>What matters</h2><p>Too few trials have ended to tell.</p></section>"
    blocks = []
    for objective, shares in importance.items():
        rows = [
            f'<tr><th>{escape(name)}</th><td><div class="bar" style="width:{100 * share:.1f}%"></div></td>'
            f"<td>{share:.0%}</td></tr>"
            for name, share in list(shares.items())[:MOST_BARS]
        ]
        more = len(shares) - MOST_BARS
        rest = f'<p class="hint">and {more} that explain less</p>' if more > 0 else ""
        blocks.append(f'<h3>{escape(with_unit(objective))}</h3><table class="bars">{"".join(rows)}</table>{rest}')
    hint = (
        '<p class="hint">How much of what sets the best tenth of the trials apart each decision explains '
        "(PED-ANOVA); rough while trials are few.</p>"
    )
    return f"<section><h2>What matters</h2>{''.join(blocks)}{hint}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th><button>{escape(name)}</button></th>" for name in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell(cell: Cell) -> str:
    order = "" if cell.order is None else f' class="number" data-order="{cell.order!r}"'
    text = escape(cell.text)
    if cell.link is not None:
        text = f'<a class="run" data-link="{escape(cell.link)}">{text}</a>'
    return f"<td{order}>{text}</td>"
