"""The embedded world: flat coloured shapes, a language about them, an exam and an oracle that reads pictures.

It stands behind the same doors as the real parts (an LLM provider, a backbone, a benchmark, a judge).
"""
