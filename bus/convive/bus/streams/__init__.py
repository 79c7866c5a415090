"""Plain streams of records."""
