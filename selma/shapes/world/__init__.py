"""Scenes, the language about them, pictures of them, and the exam."""
