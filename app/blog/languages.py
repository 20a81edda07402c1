"""Languages of texts, named by BCP 47 tags such as "en", "pt-BR" or "zh-Hant"."""

import re

from flask import Blueprint
from markupsafe import Markup

# Languages and scripts that are written from right to left.
_RIGHT_TO_LEFT = set("ar arc ckb dv fa he nqo ps sd syr ug ur yi".split())
_SCRIPTS = set("arab hebr nkoo syrc thaa".split())

bp = Blueprint("languages", __name__)


def is_language(text: str) -> bool:
    """Tell whether the text has the form of a BCP 47 tag."""
    return re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", text) is not None


@bp.app_template_filter()
def direction(language: str) -> str:
    """Return the direction in which a language is written, as in the HTML attribute `dir`: "ltr" or "rtl"."""
    first, *others = language.lower().split("-")
    script = next((part for part in others if len(part) == 4 and part.isalpha()), None)
    is_rtl = script in _SCRIPTS if script else first in _RIGHT_TO_LEFT
    return "rtl" if is_rtl else "ltr"


@bp.app_template_filter()
def language_attributes(language: str) -> Markup:
    """Return the HTML attributes `lang` and `dir` for a text.

    If the language is not known, the browser takes the direction from the letters.
    """
    if not language:
        return Markup(' dir="auto"')
    return Markup(' lang="{}" dir="{}"').format(language, direction(language))
