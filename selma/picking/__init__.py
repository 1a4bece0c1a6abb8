"""Which of a prompt's images are trained on: their ratings by judges, and what a picker says of each."""
