"""The one error a user can cause: a single line that says what, where and what is allowed."""


class UserError(Exception):
    """Bad input. The message is one line; stages print it and exit with code 2."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not blank, or its class's name when there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
