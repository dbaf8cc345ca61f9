"""A report's page: headings, facts, tables and plots in one HTML file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import matplotlib as mpl
from jinja2 import Environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; color: #1c2833; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d5d8dc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
figcaption, .told { color: #566573; }
@media print { body { margin: 0; max-width: none; } section { break-inside: avoid; } }
</style>
<h1>{{ title }}</h1>
<p class="told">{{ told }}</p>
{% for section in sections %}
<section>
<h2>{{ section.heading }}</h2>
{% for line in section.lines %}<p>{{ line }}</p>
{% endfor %}
{% if section.plot %}<figure><img alt="{{ section.plot_says }}" src="{{ section.plot }}">
<figcaption>{{ section.plot_says }}</figcaption></figure>{% endif %}
{% if section.header %}<table>
<tr>{% for cell in section.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}
</section>
{% endfor %}
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report; what is empty is left out.

    Attributes
    ----------
    heading, lines
        Its title and paragraphs.
    header, rows
        A table.
    plot, plot_says
        A picture as a data URL (see `as_image`), and what it shows in words.
    """

    heading: str
    lines: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = field(default_factory=tuple)
    plot: str = ""
    plot_says: str = ""


def page(title: str, told: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a report; every text is escaped."""
    template = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    return template.render(title=title, told=told, sections=sections)


def as_image(figure: Figure) -> str:
    """Return a figure as SVG in a data URL."""
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "loadmaster"}):  # the same figure gives the same bytes
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}"


def number(value: float | None, places: int = 0) -> str:
    """Return a number for a reader, a dash for what is not known."""
    return "-" if value is None else f"{value:,.{places}f}"
