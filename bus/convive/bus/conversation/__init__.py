"""Conversations: the floor, what is said, memory, and the bus that holds them."""
