"""Traces: the tree of runs as a fold, read and followed."""
