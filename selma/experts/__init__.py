"""Training a LoRA expert: examples, the loop, its random draws, the checkpoints it leaves."""
