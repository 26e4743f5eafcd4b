"""What several journeys begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.full import Full, full_house
from tests.support.postgres import PostgresServer
from tests.support.valkey import valkey_server


@pytest.fixture(scope="module")
def full(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    own_postgres: PostgresServer,
) -> Iterator[Full]:
    """A full installation, shared by the tests of one module, with that module's `SETTINGS`."""
    more = getattr(request.module, "SETTINGS", {})
    own_postgres.start()
    with (
        valkey_server() as valkey,
        full_house(tmp_path_factory.mktemp("full"), valkey, own_postgres, more) as full,
    ):
        yield full
