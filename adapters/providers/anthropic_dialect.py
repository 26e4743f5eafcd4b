"""Anthropic's dialect without a socket: the front of five small modules, and all that the HTTP half needs.

OpenAI's chat body becomes a Messages body, a message becomes a completion, a stream of events becomes
chunks, a refusal becomes an error. Nothing here waits, reads a clock or opens a connection. The tables of
what is mapped, dropped and refused are in `docs/providers.md`.
"""

from __future__ import annotations

from adapters.providers.anthropic_abilities import abilities_from_listing
from adapters.providers.anthropic_answer import from_message
from adapters.providers.anthropic_faults import failure
from adapters.providers.anthropic_request import Outgoing, to_messages
from adapters.providers.anthropic_stream import MessageStream

__all__ = [
    "MessageStream",
    "Outgoing",
    "abilities_from_listing",
    "failure",
    "from_message",
    "to_messages",
]
