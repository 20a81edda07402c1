"""Convert Markdown to safe HTML, in a separate process with limits: see blog/markdown.py.

This package does not import the package `blog`, so that the process is small and starts fast.
"""

NO_MEMORY = 70  # the exit code of the process if a text needs too much memory
