"""R6: a client that leaves, in whatever way, stops the provider's work at once and leaves one honest row."""

from __future__ import annotations

import asyncio
import socket
from random import Random

import orjson

from tests.chaos.books import Question, hanging, head, usage
from tests.chaos.client import Answer, ask_bytes
from tests.chaos.ledger import DISPATCHED, judge, read
from tests.chaos.node import Node
from tests.chaos.stage import House, Stage
from tests.chaos.trial import Trial, ms, percentile
from tests.support.upstream import Call, Ending, Reply

BEHIND = {
    "one byte": b"x",
    "a request": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "300 kB": b"x" * 300_000,
}
PLAIN = ("before the head", "before the head of a stream", "before the first word", "mid-stream", "half-closed")  # fmt: skip
REPLAYED = "during a replay"
KINDS = (*PLAIN, *BEHIND, REPLAYED)
WORDS = 8
AT_ONCE, AT_ONCE_BEHIND = 1.0, 2.0
"""Seconds until the provider is left, and with bytes behind the request, which hide the leaving."""
MACHINE = 0.25
NEVER = 99.0


async def r6(stage: Stage, trial: Trial) -> None:
    await _left(stage, trial, trial.scale(63, 500), "")
    with trial.control("ear for leaving", "left after") as broken:
        await _left(stage, broken, 9, "deaf")


async def _left(stage: Stage, trial: Trial, times: int, broken: str) -> None:
    async with stage.house(trial) as house:
        node = await house.started(broken=broken)
        kinds: dict[Question, str] = {}
        calls: dict[Question, Call] = {}

        def mood(question: Question, call: Call) -> Reply | None:
            kind = kinds.get(question)
            calls[question] = call
            if kind == REPLAYED:
                return _long(house, question)
            if kind == "before the first word":
                return Reply.sse([Ending.HANG])
            return (
                hanging(question, WORDS, 0.01)
                if kind == "mid-stream"
                else Reply.raw([Ending.HANG])
            )

        house.books.mood = mood
        chance = trial.chance("kinds")
        audit = house.audit()
        baseline = node.sockets()
        waits: dict[str, list[float]] = {}
        delivered: dict[Question, int] = {}
        drawn = [KINDS[number % len(KINDS)] for number in range(times)]
        chance.shuffle(drawn)
        for start in range(0, times, 12):
            batch = [(kind, house.question()) for kind in drawn[start : start + 12]]
            kinds.update({question: kind for kind, question in batch})
            replayed = [question for kind, question in batch if kind == REPLAYED]
            audit.add(await asyncio.gather(*[house.ask(node, one) for one in replayed]))
            found = await asyncio.gather(
                *[_leave(house, node, kind, one, calls, delivered, chance) for kind, one in batch]
            )
            for (kind, question), wait in zip(batch, found, strict=True):
                waits.setdefault(kind, []).append(wait)
                audit.add([Answer(question, 0.0)])
        _check_waits(trial, waits)
        if broken:
            return
        await judge(trial, house.url, audit, 10)
        await _check_rows(trial, house, kinds, delivered)
        house.clients.pop(node.port).close()
        await _check_leaks(trial, node, baseline)


async def _leave(
    house: House,
    node: Node,
    kind: str,
    question: Question,
    calls: dict[Question, Call],
    delivered: dict[Question, int],
    chance: Random,
) -> float:
    """Seconds until the provider knew."""
    stream = kind not in ("before the head", REPLAYED) and (
        kind not in BEHIND or chance.random() < 0.5
    )
    request = ask_bytes(house.keys[question.key], question, stream=stream)
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(request + BEHIND.get(kind, b""))
    if kind == REPLAYED:
        await reader.read(1_000)
        writer.transport.abort() if chance.random() < 0.5 else writer.close()
        return 0.0
    async with asyncio.timeout(10):
        while question not in calls:
            await asyncio.sleep(0.002)
    if kind == "mid-stream":
        wanted, seen = chance.randrange(1, WORDS + 1), b""
        while seen.count(b'"word ') < wanted:
            seen += await reader.readuntil(b"\n\n")
        delivered[question] = seen.count(b'"word ')
    else:
        await asyncio.sleep(chance.random() * 0.05)
    left = loop.time()
    if kind == "half-closed":
        writer.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
    else:
        writer.close()
    call = calls[question]
    try:
        async with asyncio.timeout(AT_ONCE_BEHIND + 1):
            await call.closed.wait()
    except TimeoutError:
        return NEVER
    finally:
        writer.transport.abort()
    assert call.closed_at is not None
    return call.closed_at - left


def _check_waits(trial: Trial, waits: dict[str, list[float]]) -> None:
    seen = [one for kind in PLAIN for one in waits.get(kind, [])]
    behind = [one for kind in BEHIND for one in waits.get(kind, [])]
    p99, worst = percentile(seen, 0.99), max(behind, default=0.0)
    trial.tell(f"{sum(map(len, waits.values()))} left")
    trial.tell(f"the provider was left after {ms(p99)}, with bytes behind {ms(worst)}")
    trial.must(p99 <= AT_ONCE, f"the provider was left after {ms(p99)}")
    trial.must(
        worst <= AT_ONCE_BEHIND + MACHINE, f"with bytes behind it was left after {ms(worst)}"
    )


async def _check_rows(
    trial: Trial, house: House, kinds: dict[Question, str], delivered: dict[Question, int]
) -> None:
    rows = await read(house.url)
    by_model = {row.model: row for row in rows if row.outcome in DISPATCHED}
    gone = [question for question, kind in kinds.items() if kind != REPLAYED]
    wrong = [
        question.text
        for question in gone
        if question.model not in by_model or by_model[question.model].outcome != "client_gone"
    ]
    trial.none(wrong, "without a row that says so")
    trial.must(
        len(rows) == len(gone) + 2 * (len(kinds) - len(gone)),
        f"{len(rows)} rows for {len(kinds)} who left",
    )
    short = [
        question.text
        for question, words in delivered.items()
        if by_model[question.model].output < words
    ]
    trial.none(short, "billed below what was delivered")


async def _check_leaks(trial: Trial, node: Node, baseline: int) -> None:
    until = asyncio.get_running_loop().time() + 30
    while node.sockets() > baseline + 6 and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.1)
    left = node.sockets() - baseline
    trial.tell(f"{left} sockets more than before")
    trial.must(left <= 6, f"{left} sockets leaked")
    node.signal(15)
    code = await node.wait(5)
    trial.must(code == 0 and '"running": 0' in node.log.replace('":0', '": 0'), "requests leaked")


def _long(house: House, question: Question) -> Reply:
    message = {"role": "assistant", "content": "word " * 60_000, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    document = {
        **head(question, "chat.completion"),
        "choices": [choice],
        "usage": usage(house.books.bill(question)),
    }
    return Reply.text(200, orjson.dumps(document), "application/json")
