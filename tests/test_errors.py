"""What an error says on one line, whatever its message."""

from __future__ import annotations

import pytest

from selma.ground.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too large"), "too large"),
        (ValueError("\n\n  two lines\nof it"), "two lines"),
        (ValueError(), "ValueError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_an_error_has_a_first_line(error: BaseException, line: str) -> None:
    assert first_line(error) == line
