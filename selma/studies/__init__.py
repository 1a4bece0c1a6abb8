"""Comparisons over whole runs: the rows of ablations.yaml, where their weights come from, what they score."""
