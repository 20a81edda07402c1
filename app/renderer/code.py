"""Highlight blocks of code."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import NoReturn

from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_all_lexers, get_lexer_by_name

_HIGHLIGHTING = "highlighting_s"  # the key in env of the CPU time that is left for a text


class _TooSlowError(BaseException):
    """Raised by a signal. Derived from BaseException, so that no lexer catches it."""


def allow_highlighting(env: EnvType, cpu_s: float) -> None:
    """Set the CPU time in seconds for the highlighting of a text. Without it, code is not highlighted."""
    env[_HIGHLIGHTING] = cpu_s


def code(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: OptionsDict, env: EnvType
) -> str:
    """Return the HTML of a block of code (a render rule).

    The code is highlighted if its language is known, and if that takes no longer than the time that is left
    for the text: the time of some lexers is exponential.
    """
    content, info = tokens[index].content, tokens[index].info
    # Pandoc writes {.python .numberLines} or {#id .python}
    language = next((word.lstrip(".") for word in info.strip("{} ").split() if word[0] != "#"), "")
    if language.lower() in _languages() and (left_s := env.get(_HIGHLIGHTING, 0)) > 0:
        began = time.process_time()
        html = _within(left_s, lambda: _highlighted(content, language))
        env[_HIGHLIGHTING] = left_s - (time.process_time() - began)
        if html is not None:
            return html
    return f'<div class="highlight"><pre><code>{escapeHtml(content)}</code></pre></div>\n'


@cache
def _languages() -> frozenset[str]:
    """Return the names of all languages. For an unknown name, Pygments would search all lexers each time."""
    return frozenset(
        alias.lower() for _name, aliases, *_rest in get_all_lexers(plugins=False) for alias in aliases
    )


def _highlighted(content: str, language: str) -> str:
    html: str = highlight(content, get_lexer_by_name(language, stripnl=False), HtmlFormatter(wrapcode=True))
    return html


def _within(cpu_s: float, work: Callable[[], str]) -> str | None:
    """Return the result of `work`, or None if it takes longer. Only the main thread can call this."""

    def stop(*_: object) -> NoReturn:
        raise _TooSlowError

    try:
        signal.signal(signal.SIGVTALRM, stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
        result = work()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooSlowError:
        return None
    return result
