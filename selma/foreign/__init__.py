"""LoRA files that other tools wrote, read into the layout of this repository."""
