"""Convert Markdown to safe HTML, in a separate process with limits: see blog/markdown.py.

This package does not import the package `blog`, so that the process is small and starts fast. `blog` imports
only `renderer`, `renderer.html` and `renderer.words`, which do not load the Markdown library.
"""

from dataclasses import dataclass

SUMMARY_CHARACTERS = 220
NO_MEMORY = 70  # the exit code of the process if a text needs too much memory


@dataclass(frozen=True)
class Rendered:
    """A rendered text. html: sanitised. summary: plain text. word_count: the number of words of the text."""

    html: str
    summary: str
    word_count: int
