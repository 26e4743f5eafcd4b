"""The provider's own books: what was asked of it how often, and what each answer costs, counted without our code.

A question is a key's number and a model's name, which both stand in its text and in its ledger rows. What it is
answered follows from its name and the seed alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from hashlib import blake2b

import orjson
from attrs import define

from tests.support.upstream import Call, Ending, Reply

PRICES = {"input": "0.15", "cache_read": "0.075", "output": "0.6"}
"""Dollars per million tokens."""

PICODOLLARS = 10**12
MILLION = 10**6


@define(frozen=True)
class Question:
    key: int
    model: str

    @property
    def text(self) -> str:
        return f"chaos question {self.key} {self.model} ok"


@define(frozen=True)
class Bill:
    """Tokens by bucket: `fresh` and `cached` are the prompt's."""

    fresh: int
    cached: int
    output: int

    @property
    def cost(self) -> int:
        """Picodollars. Whole by the form of the prices, which is checked and not assumed."""
        parts = {"input": self.fresh, "cache_read": self.cached, "output": self.output}
        exact = sum(Fraction(PRICES[name]) / MILLION * count for name, count in parts.items())
        picodollars = exact * PICODOLLARS
        assert picodollars.denominator == 1
        return picodollars.numerator


class Books:
    """`answer` is what a ScriptedUpstream asks. `delay` gives the seconds before an answer and between its pieces."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dispatched: Counter[Question] = Counter()
        self.open = 0
        self.most_open = 0
        self.delay: Callable[[Question], float] = lambda _: 0.0
        self.mood: Callable[[Question, Call], Reply | None] = lambda _question, _call: None
        """Answers otherwise, if it does not say None."""

    def bill(self, question: Question) -> Bill:
        drawn = blake2b(f"{self.seed}/{question.text}".encode(), digest_size=8).digest()
        fresh, cached, output = (int.from_bytes(drawn[at : at + 2]) for at in (0, 2, 4))
        return Bill(10 + fresh % 400, cached % 100, 3 + output % 60)

    def answer(self, call: Call) -> Reply | None:
        if call.method != "POST":
            return None
        question = asked(call)
        self.dispatched[question] += 1
        other = self.mood(question, call)
        if other is not None:
            return other
        text = f"the answer to {question.text}"
        bill, delay = self.bill(question), self.delay(question)
        if call.stream:
            return streamed(question, bill, text, delay / 4)
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        document = {**head(question, "chat.completion"), "choices": [choice], "usage": usage(bill)}
        reply = Reply.json(200, document)
        return Reply(200, reply.headers, [delay, *reply.steps]) if delay else reply


def asked(call: Call) -> Question:
    _, _, key, model, _ = str(call.messages[-1]["content"]).split(" ")[:5]
    return Question(int(key), model)


def head(question: Question, kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-c", "object": kind, "created": 1_790_000_000, "model": question.model}


def usage(bill: Bill) -> dict[str, object]:
    prompt = bill.fresh + bill.cached
    return {
        "prompt_tokens": prompt,
        "completion_tokens": bill.output,
        "total_tokens": prompt + bill.output,
        "prompt_tokens_details": {"cached_tokens": bill.cached},
    }


def piece(question: Question, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    document = {
        **head(question, "chat.completion.chunk"),
        "choices": [choice],
        "usage": None,
    }
    return b"data: %b\n\n" % orjson.dumps(document)


def streamed(question: Question, bill: Bill, text: str, pause: float) -> Reply:
    words = text.split(" ")
    half = len(words) // 2
    parts = [" ".join(words[:half]), " " + " ".join(words[half:])]
    steps: list[bytes | float] = [pause, piece(question, {"role": "assistant", "content": ""})]
    for part in parts:
        steps += [pause, piece(question, {"content": part})]
    told = {**head(question, "chat.completion.chunk"), "choices": [], "usage": usage(bill)}
    steps += [pause, piece(question, {}, "stop"), b"data: %b\n\n" % orjson.dumps(told)]
    return Reply.sse([step for step in (*steps, b"data: [DONE]\n\n") if step])


def hanging(question: Question, words: int, pause: float = 0.0) -> Reply:
    """A stream of that many words of one token each, and then nothing until its reader leaves."""
    steps: list[bytes | float | Ending] = [piece(question, {"role": "assistant", "content": ""})]
    for _ in range(words):
        steps += (
            [pause, piece(question, {"content": "word "})]
            if pause
            else [piece(question, {"content": "word "})]
        )
    return Reply.sse([*steps, Ending.HANG])
