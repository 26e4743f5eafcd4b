"""The list of models through the official Python SDK."""

from __future__ import annotations

import pytest
from openai import AuthenticationError, NotFoundError, OpenAI
from openai.types import Model

from tests.sdk.conftest import MODELS, Seat
from tests.support.served import Served
from tests.support.upstream_openai import CREATED


@pytest.fixture
def listed(client: OpenAI) -> dict[str, Model]:
    """The providers' own lists, which a server asks for when it starts; until then it shows what it knows by itself."""
    found: list[Model] = []
    while not (found and all(model.created for model in found)):
        found = list(client.models.list())
    return {model.id: model for model in found}


def test_the_list(listed: dict[str, Model]) -> None:
    """What each provider lists, with `owned_by` for its name."""
    for provider, model in MODELS.items():
        if provider != "sandbox":
            assert provider == listed[model].owned_by
    assert {"model"} == {model.object for model in listed.values()}
    assert "2027-04-01" == listed["gpt-5.2"].shutdown_date


def test_one_model(client: OpenAI, listed: dict[str, Model]) -> None:
    model = client.models.retrieve(MODELS["openai"])

    assert listed[model.id] == model
    assert (MODELS["openai"], "openai", CREATED) == (model.id, model.owned_by, model.created)


def test_a_slash_in_the_name(seat: Seat) -> None:
    """The SDK writes it as %2F; the model is found all the same, on a server without providers, too."""
    model = seat.client.models.retrieve(MODELS["groq"])

    assert (MODELS["groq"], "groq") == (model.id, model.owned_by)


def test_an_unknown_model(seat: Seat) -> None:
    with pytest.raises(NotFoundError) as raised:
        seat.client.models.retrieve("no/such-model")

    assert "model_not_found" == raised.value.code


def test_without_v1(seat: Seat) -> None:
    root = str(seat.client.base_url).removesuffix("v1/")
    with OpenAI(base_url=root, api_key=seat.client.api_key, max_retries=0) as client:
        assert MODELS["groq"] == client.models.retrieve(MODELS["groq"]).id
        assert MODELS["openai"] in {model.id for model in client.models.list()}


async def test_async(seat: Seat) -> None:
    async with seat.open_async() as client:
        names = {model.id async for model in client.models.list()}

    assert set(MODELS.values()) <= names


def test_no_key_no_list(served: Served) -> None:
    with OpenAI(base_url=f"{served.root}/v1", api_key="lgw_project_x", max_retries=0) as client:
        with pytest.raises(AuthenticationError):
            client.models.list()


def test_without_providers(keyless: Served) -> None:
    """A project key sees nothing where nothing is configured; a test key sees every name."""
    found = {}
    for kind in ("project", "test"):
        with OpenAI(
            base_url=f"{keyless.root}/v1", api_key=keyless.keys[kind], max_retries=0
        ) as client:
            found[kind] = {model.id for model in client.models.list()}

    assert set() == found["project"]
    assert set(MODELS.values()) <= found["test"]
