"""Reading images of the shapes world: what the oracle does."""
