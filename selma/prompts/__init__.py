"""From a skill to its training prompts: the request, the replies, the filter."""
