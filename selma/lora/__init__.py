"""LoRA: the adapter that is trained, its files, and kohya's layout."""
