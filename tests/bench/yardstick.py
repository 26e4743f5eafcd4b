"""The yardstick H: the least a Tornado RequestHandler can do for a chat request.

It parses the JSON body and answers 1 kB with seven headers of its own, on kept connections. Every other figure of the
benchmark is a multiple of this one, measured in the same sitting, because the machine's own speed drifts.
"""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser

from tornado.web import Application, RequestHandler

from tests.bench.loop import run

ANSWER = json.dumps({"id": "chatcmpl-h", "object": "chat.completion", "choices": "x" * 960})

HEADERS = {
    "x-WatchLLM-cached": "HIT",
    "x-WatchLLM-cost-usd": "0",
    "x-WatchLLM-cost-basis": "exact",
    "x-WatchLLM-latency-ms": "0.10",
    "x-WatchLLM-provider": "openai",
    "x-WatchLLM-tokens-saved": "22",
    "x-WatchLLM-cache-reason": "exact",
}


class Chat(RequestHandler):
    async def post(self) -> None:
        json.loads(self.request.body)
        for name, text in HEADERS.items():
            self.set_header(name, text)
        self.set_header("Content-Type", "application/json")
        self.finish(ANSWER)


def _silent(_: object) -> None:
    """No access log: the product writes none either."""


async def serve(port: int) -> None:
    app = Application([(r"/v1/chat/completions", Chat)], log_function=_silent)
    app.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = ArgumentParser(description="The benchmark's yardstick.")
    parser.add_argument("--port", type=int, required=True)
    run(serve(parser.parse_args().port))
