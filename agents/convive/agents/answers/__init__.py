"""Suspended runs: answering them and going on."""
