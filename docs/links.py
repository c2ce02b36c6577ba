"""mkdocs hook: the site has only the pages of docs, so links to other files of the repository become plain text."""

import re


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """The text of a page without links to files of the repository."""
    return re.sub(r'\[([^\]]+)\]\(\.\./[^)]*\)', r'`\1`', markdown)
