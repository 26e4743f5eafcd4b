"""What the product asks of the world: Protocols and their promises, nothing else.

An adapter need not import these; it only has to keep them. The tests in `tests/contracts` are the promises
as code, run over every adapter.
"""
