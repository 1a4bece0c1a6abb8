"""Judges: what those in selma/variants/judges share, and the loading of one."""
