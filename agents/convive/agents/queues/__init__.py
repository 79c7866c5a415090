"""Queued runs: orders, workers, and channels to follow them."""
