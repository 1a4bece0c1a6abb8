"""Models that learn from a judge: rollouts, rewards, advantages, and the loop that the algorithms share."""
