"""The one error a user can cause: a single line that says what, where and what is allowed."""


class UserError(Exception):
    """Bad input. The message is one line; stages print it and exit with code 2."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of what an error says, or its class's name where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
