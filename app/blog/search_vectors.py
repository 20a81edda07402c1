"""The SQL of the generated columns for the full-text search."""

from renderer import words

# Index only the beginning of a text: Postgres stores positions up to 16,383, and no tsvector over 1 MB.
SEARCH = """
    setweight(to_tsvector('english'::regconfig, "left"(title, 1000)), 'A'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(summary, 5000)), 'B'::"char")
    || setweight(to_tsvector('english'::regconfig, "left"(body, 100000)), 'C'::"char")
"""


def _lexemes(text: str, letters: int, unspaced_letters: int, weight: str) -> str:
    """Return the SQL of a tsvector with the stems of a text's words.

    For the runs of a text in a script of words.FOUND_BY_PART, it has each letter and each pair of neighbours
    instead.
    """
    spaced = f"""regexp_replace("left"({text}, {letters}), '[{words.FOUND_BY_PART}]+', ' ', 'g')"""
    unspaced = (
        f"""regexp_replace("left"({text}, {unspaced_letters}), '[^{words.FOUND_BY_PART}]+', ' ', 'g')"""
    )
    second = rf"regexp_replace({unspaced}, '\S(\S*)', '\1', 'g')"  # each run without its first letter
    pairs = [rf"regexp_replace({source}, '(\S\S)', '\1 ', 'g')" for source in (unspaced, second)]
    parts = " || ' ' || ".join([rf"regexp_replace({unspaced}, '(\S)', '\1 ', 'g')", *pairs])
    vector = f"to_tsvector('english'::regconfig, {spaced}) || to_tsvector('simple'::regconfig, {parts})"
    return f"""setweight({vector}, '{weight}'::"char")"""


LEXEMES = " || ".join(
    [
        _lexemes("title", 1000, 1000, "A"),
        _lexemes("summary", 5000, 5000, "B"),
        _lexemes("body", 100_000, 50_000, "C"),
    ]
)
