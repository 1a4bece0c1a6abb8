"""Reading pictures of the shapes world: what the oracle does."""
