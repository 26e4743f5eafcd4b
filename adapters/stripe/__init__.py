"""Stripe: telling its events from forged ones, reading them, and asking it for checkouts, portals and changes."""
