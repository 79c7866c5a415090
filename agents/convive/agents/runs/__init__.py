"""Running an agent: what it is, the loop, its hooks, events, limits and results."""
