"""How experts are merged: `merge.operator`."""
