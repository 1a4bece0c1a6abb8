"""Arguments of measurements: numbers in their range, or one line and exit code 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def at_least(least: int, most: int = 10**9) -> Callable[[str], int]:
    """A type for argparse: a whole number from `least` to `most`."""

    def whole(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}; it must be a whole number from {least} to {most}")
        return int(text)

    return whole


def not_negative(text: str) -> float:
    """A type for argparse: a number that is 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; it must be a number that is 0 or more")
    return number
