"""How the sampler is guided: a file a method; selma/images/guide.py says what a file states, docs/guidance.md how to
write one."""
