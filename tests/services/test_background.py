"""Work that outlives its request is owned, bounded, reported and drained."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from app.services.background import Background


@pytest.fixture(params=["lazy", "eager"], autouse=True)
def _tasks(request, io_loop) -> None:
    """In production a task begins before `create_task` returns, where Python knows how (3.12)."""
    if request.param == "eager":
        io_loop.asyncio_loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))


async def test_it_runs_what_it_owns():
    """Without anybody waiting for it."""
    background, done = Background(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    assert background.own(work())
    await asyncio.wait_for(done.wait(), 1)


async def test_owned_work_is_not_collected():
    """The loop alone holds its tasks weakly."""
    background, gate = Background(), asyncio.Event()
    ran = []

    async def work(mark: object) -> None:
        await gate.wait()
        ran.append(mark)

    class Mark:
        pass

    mark = Mark()
    alive = weakref.ref(mark)
    background.own(work(mark))
    del mark
    await asyncio.sleep(0)
    gc.collect()

    assert alive() is not None
    gate.set()
    await background.drain(1)
    assert 1 == len(ran)


async def test_a_full_house_refuses_and_closes():
    """What is not taken is closed unstarted, without a warning that it was never awaited."""
    background, gate = Background(limit=2), asyncio.Event()
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        await gate.wait()

    assert [True, True, False] == [background.own(work(number)) for number in range(3)]
    gc.collect()
    gate.set()
    await background.drain(1)
    assert [0, 1] == begun
    assert background.own(work(3))
    await background.drain(1)


async def test_what_is_done_makes_room():
    """The bound is for work under way."""
    background = Background(limit=1)

    async def work() -> None:
        pass

    for _ in range(5):
        assert background.own(work())
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_crash_is_reported(caplog):
    """In the log, once, and the rest goes on."""
    background = Background()

    async def crash() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        background.own(crash())
        await background.drain(1)
        await asyncio.sleep(0)

    [record] = caplog.records
    assert "background work crashed" == record.message
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]


async def test_draining_waits_for_what_is_under_way():
    """Slow work within the time is not cut."""
    background, done = Background(), []

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.append(True)

    background.own(work())
    background.own(work())
    await background.drain(5)

    assert [True, True] == done


async def test_draining_cancels_what_is_late(caplog):
    """It gets the chance to clean up, and is no crash."""
    background, cleaned = Background(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    background.own(work())
    await asyncio.sleep(0)
    await background.drain(0.01)

    assert [True] == cleaned
    assert [] == caplog.records


async def test_draining_waits_for_what_the_work_begins():
    """Work that owns more work is not done before that."""
    background, done = Background(), []

    async def second() -> None:
        await asyncio.sleep(0.01)
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0.01)
        background.own(second())
        done.append("first")

    background.own(first())
    await background.drain(5)

    assert ["first", "second"] == done


async def test_draining_nothing_takes_no_time():
    """Also twice."""
    background = Background()

    await background.drain(100)
    await background.drain(100)
