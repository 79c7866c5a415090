"""Copies of conversations: export, import, fork, and where two differ."""
