"""Where authors work: posts, pages, comments and messages. Nobody gets in who is not signed in."""

from . import comments, errors, messages, pages, posts
from .desk import bp

__all__ = ["bp", "comments", "errors", "messages", "pages", "posts"]
