"""Seats and the supervisor: who takes turns, who grants them, and redriving both."""
