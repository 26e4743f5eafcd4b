"""Observers: each tells one system of what happened. None is imported unless a setting asks for it."""
