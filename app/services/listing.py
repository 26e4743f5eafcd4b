"""The models this house offers: what each configured provider lists, kept fresh in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

import orjson
from attrs import define, field

from domain.answer import Document
from domain.errors import ApiError, ModelNotFound
from domain.models import ListedModel
from domain.project import TEST, Grant
from domain.routing import Catalogue
from domain.scope import may_use
from ports.providers import Provider

log = logging.getLogger(__name__)

EVERY = 600.0
AFTER_FAILURE = 30.0


@define
class Listing:
    """Until a provider has answered, its models are the packaged table's. Test keys see the whole table.

    A key that is limited to some models sees those.
    """

    providers: Mapping[str, Provider]
    catalogue: Catalogue
    _fetched: dict[str, dict[str, ListedModel]] = field(factory=dict)
    _failing: set[str] = field(factory=set)

    async def keep_fresh(self) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(EVERY if await self.refresh() else AFTER_FAILURE)

    async def refresh(self) -> bool:
        """Asks every provider once; False if one did not answer."""
        answered = await asyncio.gather(*[self._fetch(name) for name in self.providers])
        return all(answered)

    async def _fetch(self, name: str) -> bool:
        try:
            models = await self.providers[name].models()
        except ApiError as error:
            if name not in self._failing:
                log.warning(
                    "a provider's model list is not to be had",
                    extra={"provider": name, "status": error.status},
                )
            self._failing.add(name)
            return False
        self._failing.discard(name)
        if models:
            self._fetched[name] = {model.id: model for model in models}
        return True

    def fetched(self, provider: str, model: str) -> ListedModel | None:
        return self._fetched.get(provider, {}).get(model)

    def all(self, grant: Grant) -> bytes:
        return orjson.dumps(
            {
                "object": "list",
                "data": [
                    _document(model)
                    for model in self._seen_by(grant)
                    if may_use(grant, model.id, self.catalogue)
                ],
            }
        )

    def one(self, grant: Grant, wanted: str) -> bytes:
        for model in self._seen_by(grant):
            if model.id == wanted and may_use(grant, wanted, self.catalogue):
                return orjson.dumps(_document(model))
        raise ModelNotFound(wanted)

    def _seen_by(self, grant: Grant) -> Iterable[ListedModel]:
        if grant.kind == TEST:
            return self._packaged(None)
        found: dict[str, ListedModel] = {}
        for name in self.providers:
            for model in self._fetched.get(name, {}).values() or self._packaged(name):
                found.setdefault(model.id, model)
        return found.values()

    def _packaged(self, provider: str | None) -> list[ListedModel]:
        return [
            ListedModel(model.id, model.provider)
            for model in self.catalogue.models
            if provider in (None, model.provider)
        ]


def _document(model: ListedModel) -> Document:
    found: Document = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.provider,
    }
    if model.shutdown_date is not None:
        found["shutdown_date"] = model.shutdown_date
    return found
