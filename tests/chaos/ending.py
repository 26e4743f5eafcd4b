"""R20 and R21: a server that is told to leave, and one that is not asked."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Sequence

from tests.bench.load import drive
from tests.chaos.books import Question, hanging
from tests.chaos.client import HEALTH, Answer, Client, ask_bytes
from tests.chaos.ledger import count, judge, reached
from tests.chaos.node import Node
from tests.chaos.stage import DURABLE, House, Stage
from tests.chaos.trial import Trial, ms
from tests.support.upstream import Call, Reply

_ID = re.compile(rb"\r\nx-request-id: ([0-9a-f-]{36})\r\n")
STREAMS, PLAIN, IDLE, LATE = 50, 20, 20, 5
AT_ONCE, MACHINE = 0.1, 0.15
"""Seconds until nobody new is taken, and what a machine with other work may add to it."""


async def r20(stage: Stage, trial: Trial) -> None:
    await _drained(stage, trial, "")
    await _drained_without_ledger(stage, trial)
    with trial.control("patience", "truncated") as broken:
        await _drained(stage, broken, "drain")


async def _drained(stage: Stage, trial: Trial, broken: str) -> None:
    """Streams and answers that end within the grace are whole; later ones are told; nobody new is taken."""
    lasting, grace = trial.scale((2.5, 4.0), (20.0, 60.0))
    # The provider of a late stream says nothing: that alone must not end it first.
    more = {
        "WATCHLLM_DRAIN_GRACE": f"{grace:.0f}s",
        "WATCHLLM_UPSTREAM_IDLE_TIMEOUT": f"{2 * grace:.0f}s",
    }
    async with stage.house(trial, settings=more) as house:
        node = await house.started(broken=broken)
        late = {house.question(number) for number in range(LATE)}

        def mood(question: Question, _: Call) -> Reply | None:
            return hanging(question, 3) if question in late else None

        house.books.mood, house.books.delay = mood, lambda _: lasting
        audit = house.audit()
        asking = {
            kind: [
                asyncio.create_task(house.ask(node, one, stream=stream, patience=grace + 20))
                for one in questions
            ]
            for kind, questions, stream in (
                ("late", [house.question() for _ in range(LATE)], True),
                ("streams", [house.question() for _ in range(STREAMS)], True),
                ("plain", [house.question() for _ in range(PLAIN)], False),
            )
        }
        idle = await _idle(node)
        await _dispatched(house, LATE + STREAMS + PLAIN)
        await asyncio.sleep(lasting / 3)

        node.signal(signal.SIGTERM)
        told = time.monotonic()
        closed = await _refused(node)
        trial.tell(f"nobody new after {ms(closed)}")
        trial.must(closed <= AT_ONCE + MACHINE, f"new connections were taken for {ms(closed)}")
        trial.must(await _all_closed(idle), "idle connections were kept open")
        code = await node.wait(grace + 15)
        left = time.monotonic() - told
        got = {kind: list(await asyncio.gather(*tasks)) for kind, tasks in asking.items()}
        for answers in got.values():
            audit.add(answers)
        loop_told = asyncio.get_running_loop().time() - (time.monotonic() - told)
        last = max(one.ended for answers in got.values() for one in answers) - loop_told
        trial.none([one.status for one in got["streams"] if not one.good], "truncated streams")
        trial.none([one.status for one in got["plain"] if not one.good], "plain answers cut")
        untold = [one.id for one in got["late"] if not (one.whole and _error_event(one))]
        trial.none(untold, "late streams without a word")
        trial.must(code == 0, f"it left with {code}")
        trial.tell(f"left {ms(left - last)} after the last answer")
        trial.must(left - last <= 1.0, f"it stayed {ms(left - last)} after the last answer")
        await judge(trial, house.url, audit, 2.0)
        cut = await count(house.url, "outcome = 'interrupted'")
        trial.must(cut == LATE, f"{cut} of {LATE} rows say that their stream was interrupted")


async def _drained_without_ledger(stage: Stage, trial: Trial) -> None:
    """What the ledger could not take at the end waits for the next start."""
    async with stage.house(trial) as house:
        node = await house.started()
        audit = house.audit()
        audit.add([await house.ask(node, house.question())])
        await asyncio.to_thread(house.postgres.stop)
        audit.add([await house.ask(node, house.question()) for _ in range(20)])
        node.signal(signal.SIGTERM)
        code = await node.wait(12)
        trial.must(code == 0, f"without its ledger it left with {code}")
        await asyncio.to_thread(house.postgres.start, *DURABLE)
        await node.start()
        lost = Trial(trial.name, trial.seed)
        await judge(lost, house.url, audit, 10.0)
        trial.wrong += lost.wrong
        trial.tell("20 rows waited for the next start")


async def r21(stage: Stage, trial: Trial) -> None:
    await _killed_with_rows(stage, trial, 10_000, "")
    await _killed_with_streams(stage, trial)
    with trial.control("journal on disk", "lost") as broken:
        await _killed_with_rows(stage, broken, 500, "journal")


async def _killed_with_rows(stage: Stage, trial: Trial, rows: int, broken: str) -> None:
    """Rows that the ledger does not have yet survive a kill, and a second one in the middle of the replay."""
    async with stage.house(trial) as house:
        node = await house.started(broken=broken)
        question = house.question()
        audit = house.audit()
        audit.add([await house.ask(node, question), await house.ask(node, question)])
        await reached(house.url, 2, 10)
        await asyncio.to_thread(house.postgres.stop)
        audit.add(await hits(house, node, question, rows))
        node.kill()
        await asyncio.to_thread(house.postgres.start, *DURABLE)
        await node.start()
        await reached(house.url, 3, 0.5 if broken else 5.0)
        node.kill()
        before = await count(house.url)
        serving = await node.start()
        began = time.monotonic()
        all_there = await reached(house.url, rows + 2, 3.0 if broken else 30.0)
        replayed = time.monotonic() - began
        trial.tell(f"{rows} rows unflushed, {before} there at the second kill")
        trial.tell(f"serving after {serving:.1f} s, replayed in {replayed:.1f} s")
        trial.must(serving <= 3.0, f"it served only after {serving:.1f} s")
        trial.must(all_there is not None and replayed <= 10.0, f"replay took {replayed:.1f} s")
        await judge(trial, house.url, audit, 1.0)


async def _killed_with_streams(stage: Stage, trial: Trial) -> None:
    """Every call that reached the provider has exactly one row."""
    async with stage.house(trial) as house:
        node = await house.started()
        audit = house.audit()
        audit.add([await house.ask(node, house.question())])
        house.books.delay = lambda _: 4.0
        asking = [
            asyncio.create_task(house.ask(node, house.question(), stream=True)) for _ in range(100)
        ]
        await _dispatched(house, 101)
        await asyncio.sleep(trial.chance("kill").uniform(0.5, 2.5))
        node.kill()
        audit.add(await asyncio.gather(*asking))
        await node.start()
        await reached(house.url, 101, 10)
        await judge(trial, house.url, audit, 2.0)
        interrupted = await count(house.url, "outcome = 'interrupted' AND estimated AND cost > 0")
        trial.must(interrupted == 100, f"{interrupted} of 100 rows say that they were interrupted")


async def hits(house: House, node: Node, question: Question, times: int) -> list[Answer]:
    ids: list[bytes] = []

    def check(head: bytes, _: bytes) -> str | None:
        found = _ID.search(head)
        if found is None or b"\r\nx-watchllm-cached: hit\r\n" not in head:
            return f"no hit: {head!r}"
        ids.append(found[1])
        return None

    request = ask_bytes(house.keys[question.key], question)
    await drive(node.port, lambda _: request, check, count=times, connections=16, seconds=30)
    return [
        Answer(question, 0.0, status=200, id=one.decode(), cached="hit", whole=True) for one in ids
    ]


async def _dispatched(house: House, wanted: int) -> None:
    async with asyncio.timeout(20):
        while house.books.dispatched.total() < wanted:
            await asyncio.sleep(0.01)


async def _idle(node: Node) -> Sequence[asyncio.StreamReader]:
    """Connections that have asked once and wait."""
    readers = []
    for _ in range(IDLE):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(HEALTH)
        await reader.readuntil(b'"dependencies"')
        readers.append(reader)
    return readers


async def _all_closed(readers: Sequence[asyncio.StreamReader]) -> bool:
    try:
        async with asyncio.timeout(1):
            await asyncio.gather(*[reader.read() for reader in readers])
    except TimeoutError:
        return False
    return True


async def _refused(node: Node) -> float:
    """Seconds until a new connection is refused, or answered that it must go."""
    began = time.monotonic()
    while time.monotonic() - began < 5:
        client = Client(node.port)
        answer = await client.ask(HEALTH, patience=1)
        client.close()
        if answer.status in (0, 503):
            break
    return time.monotonic() - began


def _error_event(answer: Answer) -> bool:
    return b"event: error" in answer.body and b"[DONE]" not in answer.body
