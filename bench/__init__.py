"""Measurements, one script each: `python -m bench.filter`."""

import selma  # noqa: F401  so that Ctrl-C is one line from here on
