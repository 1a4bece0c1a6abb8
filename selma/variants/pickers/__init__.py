"""Pickers: a file says, of each of a prompt's images, whether it is trained on (docs/picking.md)."""
