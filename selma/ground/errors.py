"""The one error a user can cause: a single line that says what, where and what is allowed."""

LONGEST = 3000  # characters of a message


class UserError(Exception):
    """Bad input. The message is one line; stages print it and exit with code 2.

    It may quote what somebody else wrote: what would break the line or a terminal is escaped, and the middle of a
    message that is too long to be read is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
        half = LONGEST // 2
        super().__init__(line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}")


def first_line(error: BaseException) -> str:
    """The first non-empty line of what an error says, or its class's name where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
