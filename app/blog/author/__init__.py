"""The "desk": the pages below /author, where authors write, and administrators manage pages and messages.

Every view requires a signed-in user.
"""

from . import comments, errors, messages, pages, posts, tags
from .desk import bp

__all__ = ["bp", "comments", "errors", "messages", "pages", "posts", "tags"]
