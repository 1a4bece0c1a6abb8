"""Stages side by side: which are ready, where they run, and what becomes of a unit that is lost."""
