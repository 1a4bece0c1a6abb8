"""Scenes, the language about them, images of them, and the exam."""
