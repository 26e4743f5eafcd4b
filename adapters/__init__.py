"""Translations between the ports and the world: one family a folder, foreign exceptions kept in."""
