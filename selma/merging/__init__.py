"""Merging experts, and the algebra of their updates."""
