"""Who writes prompts: `llm.provider`."""
