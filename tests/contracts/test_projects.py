"""What `Projects` promises, over SQLite and PostgreSQL."""

from __future__ import annotations

import attrs
import pytest

from adapters.sql.db import Db
from adapters.sql.projects import SqlProjects
from domain.errors import NotFound
from domain.project import Project
from tests.support.fixtures import async_fixture

SHOP = Project("p_1", "shop", "free", 0, 1_800_000_000.125)

AWKWARD = [
    "Robert'); DROP TABLE projects;--",
    "100% :name %(name)s %s ::text $1 ?",
    "quo\"te \\ back\\'slash",
    "Größe 漢字 🦊 \u202e",
    "line\nfeed\ttab",
]


@async_fixture
async def projects(db: Db) -> SqlProjects:
    return SqlProjects(db)


async def test_found_by_id_and_by_name(projects: SqlProjects) -> None:
    """A project comes back as it was added, whichever word is used for it."""
    added = await projects.add(SHOP)

    assert added is True
    assert SHOP == await projects.find("p_1")
    assert SHOP == await projects.find("shop")
    assert await projects.find("p_2") is None


async def test_a_taken_name(projects: SqlProjects) -> None:
    """A second project of the same name is not added and the first is as it was."""
    await projects.add(SHOP)

    added = await projects.add(Project("p_2", "shop", "pro", 3, 1_800_000_001.0))

    assert added is False
    assert [SHOP] == list(await projects.all())


async def test_added_twice(projects: SqlProjects) -> None:
    """The same project again, as after a lost answer, is no clash with itself."""
    await projects.add(SHOP)

    assert await projects.add(SHOP) is True
    assert [SHOP] == list(await projects.all())


async def test_an_id_goes_before_a_name(projects: SqlProjects) -> None:
    """Nobody can hide a project by naming another one after its id."""
    await projects.add(Project("p_0", "p_1", "free", 0, 1_700_000_000.0))
    await projects.add(SHOP)

    assert SHOP == await projects.find("p_1")


async def test_all_oldest_first(projects: SqlProjects) -> None:
    """The list is in the order of creation."""
    late, early = Project("p_a", "late", "free", 0, 20.0), Project("p_b", "early", "free", 0, 10.0)
    await projects.add(late)
    await projects.add(early)

    assert [early, late] == list(await projects.all())


async def test_plan_and_cache_epoch(projects: SqlProjects) -> None:
    """A plan changes by itself; a purge moves the epoch on by one and says where it stands."""
    await projects.add(SHOP)

    await projects.set_plan("p_1", "pro")
    first, second = await projects.purge_cache("p_1"), await projects.purge_cache("p_1")

    assert (1, 2) == (first, second)
    assert Project("p_1", "shop", "pro", 2, SHOP.created_at) == await projects.find("p_1")


async def test_a_budget(projects: SqlProjects) -> None:
    """Kept to the picodollar, from its beginning on or later; 0 takes it away."""
    await projects.add(attrs.evolve(SHOP, budget=1))
    assert [1] == [one.budget for one in await projects.all()]

    for budget in (4 * 10**18, 0):
        await projects.set_budget("p_1", budget)
        assert attrs.evolve(SHOP, budget=budget) == await projects.find("p_1")


async def test_changing_an_unknown_project(projects: SqlProjects) -> None:
    """A project that is not there is an error, not a silent nothing."""
    with pytest.raises(NotFound):
        await projects.set_plan("p_9", "pro")
    with pytest.raises(NotFound):
        await projects.set_budget("p_9", 1)
    with pytest.raises(NotFound):
        await projects.purge_cache("p_9")


@pytest.mark.parametrize("name", AWKWARD)
async def test_a_name_is_only_data(projects: SqlProjects, name: str) -> None:
    """Whatever a name holds comes back as it was and does nothing."""
    wanted = Project("p_1", name, "free", 0, 0.0)

    await projects.add(wanted)

    assert wanted == await projects.find(name)
    assert [wanted] == list(await projects.all())


async def test_a_name_with_nul(projects: SqlProjects) -> None:
    """U+0000, which PostgreSQL cannot keep, is replaced, on the way in and on the way to find it."""
    await projects.add(Project("p_1", "a\0b", "free", 0, 0.0))

    assert Project("p_1", "a\N{REPLACEMENT CHARACTER}b", "free", 0, 0.0) == await projects.find(
        "a\0b"
    )
