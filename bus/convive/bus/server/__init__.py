"""The embedded server, and opening a bus."""
