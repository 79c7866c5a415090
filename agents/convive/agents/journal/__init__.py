"""A run's journal: its records, their fold, and what follows from them."""
