"""The beginning of a project, and of a whole installation."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from app.services.keys import FreshKey, KeyRing
from domain.errors import ApiError, InvalidRequest, NotFound
from domain.project import PROJECT, TEST, Project
from domain.value import value
from ports.storage import Projects

DEFAULT_NAME = "default"
DEFAULT_PLAN = "unlimited"
MAX_NAME = 100

_ID = "prj_"


@value
class FirstStart:
    """What a fresh installation has, to be shown once."""

    project: Project
    key: FreshKey
    test_key: FreshKey


@define
class ProjectBook:
    projects: Projects
    clock: Callable[[], float]
    random: Callable[[int], bytes]

    async def create(self, name: str, *, plan: str) -> Project:
        """A name is unique and never looks like an id, since commands take either."""
        if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
            raise InvalidRequest(
                f"A project's name has 1 to {MAX_NAME} printable characters and no space at its ends.",
                param="name",
            )
        if name.startswith(_ID):
            raise InvalidRequest(
                f"A project's name does not begin with {_ID}, as ids do.", param="name"
            )
        project = Project(
            id=f"{_ID}{self.random(10).hex()}",
            name=name,
            plan=plan,
            cache_epoch=0,
            created_at=self.clock(),
        )
        if not await self.projects.add(project):
            raise ApiError(f"A project named {name} exists already.")
        return project

    async def find(self, id_or_name: str) -> Project:
        project = await self.projects.find(id_or_name)
        if project is None:
            raise NotFound(f"No project has the id or name {id_or_name}.")
        return project


async def first_start(book: ProjectBook, ring: KeyRing) -> FirstStart | None:
    """Gives an installation without any project its first one; None if it has some."""
    if await book.projects.all():
        return None
    project = await book.create(DEFAULT_NAME, plan=DEFAULT_PLAN)
    return FirstStart(
        project=project,
        key=await ring.create(project.id, kind=PROJECT, name="first"),
        test_key=await ring.create(project.id, kind=TEST, name="first test"),
    )
