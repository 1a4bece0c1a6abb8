"""Algorithms of online self-improvement, a file each: what a policy minimises (docs/self-improvement.md)."""
