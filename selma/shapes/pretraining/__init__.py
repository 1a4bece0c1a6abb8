"""Pretraining the embedded backbone."""
