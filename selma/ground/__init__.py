"""What stages hand each other: JSON, CSV, images, ids, seeds, benchmark items. Every stage depends on it as a whole."""
