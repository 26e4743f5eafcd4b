"""Texts that must not be found again, the requests and answers that carry them, and what is no request at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import orjson
from attrs import asdict, define, field

from tests.chaos.broken import CRASH
from tests.chaos.client import post
from tests.chaos.stage import SECRET, House
from tests.support.upstream import Call, Reply

# fmt: off
BREAKS = (
    "401", "403", "400", "429", "500", "502_page", "reset", "close_early", "invalid_json", "html", "ok_with_error",
)
# fmt: on


def canary() -> str:
    return f"canary{secrets.token_hex(12)}"


@define
class Canaries:
    """What is looked for, by what it is. An answer may be inside the cache's values, and nothing else anywhere."""

    openai: str = field(factory=canary)
    anthropic: str = field(factory=canary)
    webhook: str = field(factory=canary)
    collector: str = field(factory=canary)
    redis: str = field(factory=canary)
    database: str = field(factory=canary)
    stranger: str = field(factory=canary)
    prompt: str = field(factory=canary)
    answer: str = field(factory=canary)
    master: str = SECRET
    customer: str = ""
    revoked: str = ""

    @property
    def named(self) -> dict[str, bytes]:
        """Of keys what is secret in them, without the prefix by which a scrubber knows them."""
        return {
            name: text.removeprefix("lgw_project_").encode() for name, text in asdict(self).items()
        }

    def settings(self, house: House) -> dict[str, str]:
        return {
            "DATABASE_URL": house.url.replace("watchllm@", f"watchllm:{self.database}@"),
            "REDIS_URL": f"redis://:{self.redis}@127.0.0.1:{house.valkey.port}",
            "OPENAI_API_KEY": f"sk-{self.openai}",
            "ANTHROPIC_API_KEY": f"sk-ant-{self.anthropic}",
            "ANTHROPIC_BASE_URL": house.upstream.anthropic,
            "STRIPE_WEBHOOK_SECRET": f"whsec_{self.webhook}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={self.collector}",
            "WATCHLLM_LOG_LEVEL": "debug",
            "WATCHLLM_ACCESS_LOG": "1",
            "WATCHLLM_TRACE_SAMPLE_RATE": "1",
        }


def answered(call: Call, canaries: Canaries) -> Reply | None:
    """A provider that says too much: it quotes the key and, when it fails, the prompt."""
    if call.method != "POST":
        return None
    for fault in BREAKS:
        if f"fault-{fault} " in str(call.body):
            if not fault.isdigit():
                call.body["model"] = f"gpt-fault-{fault}"
                return None
            key = call.headers.get("authorization") or call.headers.get("x-api-key")
            said = f"Refused {key}" if fault == "400" else f"Refused {key}: {call.raw.decode()}"
            error = {"message": said, "type": "server_error", "param": None, "code": None}
            return Reply.json(int(fault), {"error": error})
    if call.stream or call.dialect == "anthropic":
        return None
    message = {"role": "assistant", "content": canaries.answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    head = {"id": "chatcmpl-c", "object": "chat.completion", "created": 1, "model": "chaos-0"}
    return Reply.json(200, {**head, "choices": [choice], "usage": usage})


def requests(canaries: Canaries, key: str) -> Iterator[bytes]:
    prompt = canaries.prompt

    def ask(said: str, bearer: str = key, headers: str = "", **more: Any) -> bytes:
        messages = [
            {"role": "system", "content": prompt},
            {"role": "user", "content": f"{said} {prompt}"},
        ]
        document = {"model": "chaos-0", "messages": messages, "user": prompt, **more}
        return post(bearer, orjson.dumps(document), headers)

    yield ask("good")
    yield ask("good")
    yield ask("good", stream=True)
    yield ask("good", model="claude-sonnet-4-5", max_tokens=20)
    yield ask(
        "tools", tools=[{"type": "function", "function": {"name": "f", "description": prompt}}]
    )
    for bearer in (
        canaries.revoked,
        f"lgw_project_{canaries.stranger}",
        f"sk-{canaries.stranger}",
        "",
        "\x80\xff",
    ):
        yield ask("denied", bearer)
    for fault in BREAKS:
        yield ask(f"fault-{fault} ")
        yield ask(f"fault-{fault} ", stream=True)
        yield ask(f"fault-{fault} ", model="claude-sonnet-4-5", max_tokens=20)
    for _ in range(3):
        yield ask(CRASH)
    yield ask(
        "hostile", headers=f"X-Api-Key: sk-{canaries.stranger}\r\nCookie: k={key}; p={prompt}\r\n"
    )
    yield ask("hostile", headers=f"Cache-Control: {prompt}\r\nX-WatchLLM-Cache-TTL: {prompt}\r\n")
    yield ask("hostile", model="\x1b[31m\x00\r\n\u202e")
    yield ask("hostile", temperature=prompt)
    yield post(key, b'{"model": "chaos-0", "messages": [' + prompt.encode())
    yield post(key, b"\xff\xfe" + prompt.encode())
    yield post(key, b"[" * 5_000 + prompt.encode())
    for path in (
        f"GET /v1/models?key={key}&p={prompt}",
        f"GET /v1/usage/{key}?p={prompt}",
        f"GET /{key}/lgw_project_{canaries.stranger}",
        f"GET /v1/usage?since={prompt}",
        f"DELETE /v1/chat/completions?api_key=sk-{canaries.stranger}",
        f"GET /metrics?p={prompt}",
        "GET /%1b%5b31m%00%0a",
    ):
        yield f"{path} HTTP/1.1\r\nHost: chaos\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    signed = f"Stripe-Signature: t=1,v1={canaries.stranger}\r\nContent-Length: 2\r\n"
    yield f"POST /webhooks/stripe HTTP/1.1\r\nHost: chaos\r\n{signed}\r\n{{}}".encode()


def malformed(canaries: Canaries, key: str) -> Iterator[bytes]:
    """What is no HTTP, with what must not be told in the very place that is wrong."""
    line = b"POST /v1/chat/completions HTTP/1.1\r\nHost: chaos\r\n"
    secret, prompt = f"Authorization: Bearer {key}".encode(), canaries.prompt.encode()
    yield line + secret.replace(b":", b"") + b"\r\n\r\n"
    yield line + secret + b"\x00\x1b[31m\r\n\r\n"
    yield line + b"Content-Length: " + prompt + b"\r\n\r\n"
    yield line + b"Content-Length: 1\r\nContent-Length: 2\r\n" + secret + b"\r\n\r\n"
    yield line + b"Transfer-Encoding: " + prompt + b"\r\n\r\n"
    yield line + b"Transfer-Encoding: chunked\r\n\r\n" + prompt + b"\r\n"
    yield b"GET /" + prompt + b" " + key.encode() + b"\r\n\r\n"
    yield b"\x16\x03\x01" + prompt + b"\r\n\r\n"
