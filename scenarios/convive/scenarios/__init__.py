"""Scenarios: where concrete guests, models and servers are chosen, and the command line that runs them."""

from convive.scenarios.cli._cli import app, main
from convive.scenarios.party._party import Guest, Party, PartyError
from convive.scenarios.party._party_file import load_party

__all__ = ["Guest", "Party", "PartyError", "app", "load_party", "main"]
