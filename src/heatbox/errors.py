"""The one error a user can cause."""


class InputError(ValueError):
    """Input that heatbox cannot use, said in one sentence.

    The message names what is wrong, where (file, row, key) and what would be right. The command line
    prints it without a traceback and exits with code 2; anything else that is raised is a bug of ours.
    Line breaks, which names in a user's files may hold, are written as ``\\n`` and ``\\r``.
    """

    def __init__(self, message: object) -> None:
        super().__init__(str(message).replace("\r", "\\r").replace("\n", "\\n"))
