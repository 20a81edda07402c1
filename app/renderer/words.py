"""Functions for texts in any script: count the words, estimate the reading time, shorten, make a slug."""

import re
import textwrap
import unicodedata
from math import ceil

import slugify as transliteration

WORDS_PER_MINUTE = 220

# The scripts that write words without spaces between them: Chinese and Japanese, then Thai, Lao, Burmese and
# Khmer. With each, the number of letters that a word has on average.
_EAST_ASIAN = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U000323af"
)
_SOUTHEAST_ASIAN = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_LETTERS_PER_WORD = ((re.compile(f"[{_EAST_ASIAN}]"), 2), (re.compile(f"[{_SOUTHEAST_ASIAN}]"), 4))
_UNSPACED = re.compile(f"[{_EAST_ASIAN}{_SOUTHEAST_ASIAN}]")
# The search finds parts of words in these scripts. Korean has spaces, but its words have many endings.
# These are characters of a regular expression, both in Python and in Postgres.
FOUND_BY_PART = rf"{_EAST_ASIAN}{_SOUTHEAST_ASIAN}\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"
_END_OF_PHRASE = re.compile(r"[\s\u3001\u3002\uff01\uff0c\uff1b\uff1f]")


def count(text: str) -> int:
    """Return the number of words. In scripts without spaces between words, it is an estimate."""
    tokens = text.split()
    unspaced = [token for token in tokens if _UNSPACED.search(token)]
    number, rest = len(tokens) - len(unspaced), " ".join(unspaced)
    for characters, letters_per_word in _LETTERS_PER_WORD:
        letters = sum(map(str.isalpha, characters.findall(rest)))
        number, rest = number + ceil(letters / letters_per_word), characters.sub(" ", rest)
    return number + len(re.findall(r"[^\W_]+", rest))


def minutes(words: int) -> int:
    """Return the time in minutes to read this number of words; at least 1."""
    return max(1, round(words / WORDS_PER_MINUTE))


def shorten(text: str, limit: int) -> str:
    """Return the text on one line, with at most `limit` characters; an ellipsis marks a cut."""
    line = " ".join(text.split())
    short = textwrap.shorten(line, limit, placeholder=" …")
    if len(line) <= limit or len(short) > limit // 2:
        return short
    # No space is near the limit, so look for the end of a phrase, and else cut between letters.
    end = limit - 1
    while end > 1 and unicodedata.category(line[end])[0] in "MC":  # marks, joiners and surrogates
        end -= 1
    ends = [found.end() for found in _END_OF_PHRASE.finditer(line, limit // 2, end)]
    return f"{line[: ends[-1] if ends else end].rstrip()}…"


def slugify(text: str) -> str:
    """Return `text` as lower-case ASCII words joined by hyphens. The result may be empty.

    Other scripts are transliterated: "Straße nach Łódź" becomes "strasse-nach-lodz".
    """
    words = text.replace(",", " ")  # the library joins the digits of 1,000
    return transliteration.slugify(
        words, entities=False, decimal=False, hexadecimal=False, backend="text-unidecode"
    )
