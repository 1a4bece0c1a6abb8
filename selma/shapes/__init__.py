"""The embedded world: flat coloured shapes, a language about them, an exam and an oracle that reads images.

It plugs in where the real parts do (as an LLM provider, a backbone, a benchmark, a judge).
"""
