"""Whether a conversation is whole, and whether a history is linearizable."""
