"""What params.yaml chooses between: a folder a door, a file a choice (selma/runtime/variants.py)."""
