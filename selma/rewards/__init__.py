"""What pictures are worth to a policy: judges' scores, weighted, of training and of dev prompts."""
