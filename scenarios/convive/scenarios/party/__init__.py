"""The dinner party: guests, files, and what the small model needs."""
