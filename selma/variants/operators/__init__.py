"""How experts are merged: `merges.<name>.operator`."""
