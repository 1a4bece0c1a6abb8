"""Kinds of judges: `judges.<name>.kind`."""
