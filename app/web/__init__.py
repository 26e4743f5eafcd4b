"""Tornado: reads a request, calls the house, writes what it says. Nothing is decided here."""
