"""The error for invalid input."""


class InputError(ValueError):
    """Input that heatbox cannot use, described in one sentence.

    The message names what is wrong, where (file, row, key) and what would be right. The command line
    prints it without a traceback and exits with code 2; any other exception is a bug in heatbox.
    Line breaks, which names in a user's files may contain, are written as ``\\n`` and ``\\r``.
    """

    def __init__(self, message: object) -> None:
        super().__init__(str(message).replace("\r", "\\r").replace("\n", "\\n"))
