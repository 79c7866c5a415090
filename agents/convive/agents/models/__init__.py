"""Models: what asks them and what they answer, their providers, their prices, and stand-ins for tests."""
