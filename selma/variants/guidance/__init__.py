"""How the sampler is guided."""
