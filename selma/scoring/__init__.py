"""From answers to scores, gains and intervals."""
