"""The parts of an HTML page that needs no other file: text, tables, images. All text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmoid.utils.atomic import atomic_write

STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --quiet: #606060; }
@media (prefers-color-scheme: dark) { :root { --line: #484848; --quiet: #a8a8a8; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p { max-width: 44rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide img { display: block; width: 100%; min-width: 38rem; background: #fff; border-radius: 4px; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
td:not(:last-child) { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; }
"""


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f'<p>{escape(text)}</p>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls sideways where the screen is narrow.

    Args:
        header: One name a column.
        rows: Integers get thousands separators; they and floats (shares, given as percentages) stand to the right.
    """
    first = rows[0] if rows else [''] * len(header)
    head = ''.join(f'<th{_align(value)}>{escape(name)}</th>' for name, value in zip(header, first))
    body = ''.join(f'<tr>{"".join(_cell(value) for value in row)}</tr>\n' for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


def image(path: str | Path, description: str) -> str:
    """A PNG file, embedded."""
    data = base64.b64encode(Path(path).read_bytes()).decode('ascii')
    return f'<div class="wide"><img src="data:image/png;base64,{data}" alt="{escape(description)}"></div>\n'


def folded(title: str, content: str) -> str:
    """HTML that is shown when its title is clicked."""
    return f'<details><summary>{escape(title)}</summary>\n{content}</details>\n'


def section(title: str, *contents: str) -> str:
    """HTML below a heading."""
    return f'<h2>{escape(title)}</h2>\n{"".join(contents)}'


def write_page(path: str | Path, title: str, body: str) -> Path:
    """Writes a whole page, atomically, and returns its path."""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n'
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return Path(path)


def _cell(value: object) -> str:
    if isinstance(value, float):
        text = f'{value:.1%}'
    else:
        text = f'{value:,}' if isinstance(value, int) else escape(str(value))
    return f'<td{_align(value)}>{text}</td>'


def _align(value: object) -> str:
    return ' class="number"' if isinstance(value, (int, float)) else ''
