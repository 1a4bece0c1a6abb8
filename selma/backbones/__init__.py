"""Text-to-image models: loading one, its schedulers, encoding texts for it."""
