"""Use cases: what is asked of which port in which order. They know ports and domain, no library and no socket."""
