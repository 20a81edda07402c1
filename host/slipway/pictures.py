"""Pictures of former releases, which are only files in a volume. The blog stores them in its database too."""

from slipway.shell import CommandFailure, describe, printable
from slipway.stack import Stack

# How many names a sentence has.
NAMED = 10


def adopt_pictures(stack: Stack, image: str, slot: str) -> None:
    """Run `flask media adopt`, and print a sentence about each problem.

    No problem fails a release: the command removes no file, and the next release runs it again.
    """
    try:
        answer = stack.flask(image, "media", "adopt", slot=slot)
        missing, damaged = (list(map(str, answer.get(key, []))) for key in ("missing", "damaged"))
    except CommandFailure as failure:
        # An image of a former release, or of another app, works with files only.
        if "No such command 'media'" not in failure.output:
            tell_failure(failure)
        return
    except Exception as failure:
        tell_failure(failure)
        return
    if missing:
        tell(f"Pictures without a file, which readers cannot see: {listed(missing)}. Upload them again.")
    if damaged:
        tell(f"Pictures with a damaged file: {listed(damaged)}. Delete them, and upload them again.")


def tell_failure(failure: Exception) -> None:
    """Print that the command failed."""
    tell(
        f"Pictures of former releases could not be stored in the database: {describe(failure)}\n"
        "They stay available as files, and the next release tries again."
    )


def listed(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def tell(sentence: str) -> None:
    """Print a sentence; control characters in names from the blog are escaped."""
    print(printable(sentence), flush=True)
