"""The one error a user can cause: a single line that says what, where and what is allowed."""


class UserError(Exception):
    """Bad input. The message is one line; stages print it and exit with code 2."""
