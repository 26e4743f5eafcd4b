"""The promises of docs/chaos.md against real servers that are killed, stopped, cut off and flooded."""
