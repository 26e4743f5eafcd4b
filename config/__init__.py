"""What an operator may change: the tables of models and plans, and the code that reads them.

`models.toml` and `plans.toml` are read by `config.catalogue`; `config.export_models` writes the first of them
and is run by a developer when prices change, never by the product.
"""
