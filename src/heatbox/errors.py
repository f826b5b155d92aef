"""The error for invalid input, and the warning for what is assumed."""

from collections.abc import Iterable


class InputError(ValueError):
    """Input that heatbox cannot use, described in one sentence.

    The message names what is wrong, where (file, row, key) and what would be right. The command line
    prints it without a traceback and exits with code 2; any other exception is a bug in heatbox.
    Line breaks, which names in a user's files may contain, are written as ``\\n`` and ``\\r``.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_one_line(message))


class UnreachableError(Exception):
    """A server or store that could not be reached, described in one sentence.

    It is no `InputError`, for which an image may be left out: the images are there, and everything ends. What
    was computed is kept, and the same call goes on from there.

    Args:
        message: any object; as text, on one line.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_one_line(message))


class AssumptionWarning(UserWarning):
    """Something that could not be known is assumed, described in one sentence.

    The command line prints it as a note on standard error, each sentence once.
    """


def _one_line(message: object) -> str:
    return str(message).replace("\r", "\\r").replace("\n", "\\n")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The part of a message that suggests the names most similar to an unknown one; "" if none is similar."""
    import difflib  # which the command line needs after a typing error only

    near = difflib.get_close_matches(name, list(known), 3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def quoted(error: Exception) -> str:
    """Type and first sentence of another library's error, to quote in a message."""
    return f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}".partition("\n")[0]
