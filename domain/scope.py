"""What a key may ask for, where its owner has limited it to some models or endpoints.

A model's name means in a restriction what it means in a request: `openai/gpt-4o` and `gpt-4o` are one model, and a name
whose alias moves on moves the restriction along. GETs are not limited.
"""

from __future__ import annotations

from domain.errors import EndpointNotAllowed, InvalidRequest, ModelNotAllowed, ModelNotFound
from domain.project import TEST, Grant
from domain.request import MODEL_NAME, Endpoint
from domain.routing import Catalogue, route

WORDS = {endpoint.name.lower(): endpoint for endpoint in Endpoint}
"""How endpoints are called in restrictions."""

MOST_MODELS = 100


def check_restrictions(models: tuple[str, ...], endpoints: tuple[str, ...]) -> None:
    """Raises InvalidRequest for what no key can be limited to."""
    if len(models) > MOST_MODELS:
        raise InvalidRequest(f"A key is limited to {MOST_MODELS} models at most.", param="models")
    if not all(MODEL_NAME.fullmatch(name) for name in models):
        raise InvalidRequest(
            "One of the models has characters or a length no model has.", param="models"
        )
    if not WORDS.keys() >= set(endpoints):
        raise InvalidRequest(
            f"A key is limited to endpoints of {', '.join(WORDS)}.", param="endpoints"
        )


def check_endpoint(grant: Grant, endpoint: Endpoint) -> None:
    """Raises EndpointNotAllowed."""
    if grant.endpoints and endpoint.name.lower() not in grant.endpoints:
        raise EndpointNotAllowed(endpoint.value)


def check_model(grant: Grant, model: str, catalogue: Catalogue) -> None:
    """Raises ModelNotAllowed."""
    if not may_use(grant, model, catalogue):
        raise ModelNotAllowed(model)


def may_use(grant: Grant, model: str, catalogue: Catalogue) -> bool:
    if not grant.models or model in grant.models:
        return True
    if grant.kind == TEST:
        return False
    wanted = _target(model, catalogue)
    return wanted is not None and any(wanted == _target(name, catalogue) for name in grant.models)


def _target(model: str, catalogue: Catalogue) -> tuple[str, str] | None:
    """Whom a name goes to, and under which name; None for one that nobody has."""
    try:
        found = route(model, catalogue)
    except ModelNotFound:
        return None
    return found.provider, found.model
