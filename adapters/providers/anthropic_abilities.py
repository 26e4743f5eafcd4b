"""What a Claude model takes, read from its entry in Anthropic's own list of models."""

from __future__ import annotations

from typing import Any

from domain.answer import Document
from domain.models import ClaudeAbilities

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("adaptive", "enabled", "disabled", "between_tools")


def abilities_from_listing(entry: Document) -> ClaudeAbilities | None:
    """None if the entry says nothing. What it leaves out is taken to be as in the newest models.

    The list does not tell of sampling, forced tools and prefill. They go with the kinds of thinking in every
    model so far: the last ones with a token budget still take sampling parameters, those before
    adaptive thinking take prefill, and only models whose thinking can be turned off are sure to take a forced tool.
    """
    told = entry.get("capabilities")
    if type(told) is not dict:
        return None
    usual = ClaudeAbilities()
    thinking = _supported(told.get("thinking"), "types", _THINKING, usual.thinking)
    ceiling = entry.get("max_tokens")
    return ClaudeAbilities(
        max_output=ceiling if type(ceiling) is int and ceiling > 0 else usual.max_output,
        sampling="enabled" in thinking,
        thinking=thinking,
        forced_tools="disabled" in thinking,
        prefill="enabled" in thinking and "adaptive" not in thinking,
        effort=_supported(told, "effort", _EFFORTS, usual.effort),
        structured=_is_supported(told.get("structured_outputs"), usual.structured),
        images=_is_supported(told.get("image_input"), usual.images),
        pdf=_is_supported(told.get("pdf_input"), usual.pdf),
    )


def _supported(
    told: Any, field: str, names: tuple[str, ...], usual: frozenset[str]
) -> frozenset[str]:
    held = told.get(field) if type(told) is dict else None
    if type(held) is not dict:
        return usual
    if held.get("supported") is False:
        return frozenset()
    return frozenset(name for name in names if _is_supported(held.get(name), False))


def _is_supported(told: Any, usual: bool) -> bool:
    found = told.get("supported") if type(told) is dict else None
    return found if type(found) is bool else usual
