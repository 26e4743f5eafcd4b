"""The application: the composition root, the use cases, the web, the command line."""

from __future__ import annotations


def version() -> str:
    """The installed version; a checkout that was never installed has none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("watchllm")
    except PackageNotFoundError:
        return "0+checkout"
