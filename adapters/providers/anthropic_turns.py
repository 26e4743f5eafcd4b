"""OpenAI's list of messages as Claude reads it: one system prompt, and turns that take turns.

Nothing is fetched: an image's address is passed on as it is, so that no caller can make us call into our own network.
"""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from typing import Any

from domain.answer import Document
from domain.errors import InvalidRequest
from domain.models import ClaudeAbilities
from domain.request import load_object
from domain.value import value

_TEXT_ONLY = frozenset({"text"})
_ASSISTANT = frozenset({"text", "refusal"})
_USER = frozenset({"text", "image_url", "file"})
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]+")


@value
class Conversation:
    """`system` holds text blocks; `turns` alternate between user and assistant."""

    system: list[Document]
    turns: list[Document]


def converse(messages: list[Document], abilities: ClaudeAbilities) -> Conversation:
    """Raises InvalidRequest for what Claude has no counterpart of, with the place in `param`."""
    reader = _Reader(abilities)
    for place, message in enumerate(messages):
        reader.take(message, f"messages[{place}]")
    return Conversation(reader.system, reader.turns)


class _Reader:
    def __init__(self, abilities: ClaudeAbilities) -> None:
        self.system: list[Document] = []
        self.turns: list[Document] = []
        self._abilities = abilities
        self._functions = 0
        self._function_ids: dict[str, str] = {}

    def take(self, message: Document, where: str) -> None:
        role = message["role"]
        if role in ("system", "developer"):
            self.system += self._blocks(message, where, _TEXT_ONLY)
        elif role == "user":
            self._say("user", self._blocks(message, where, _USER))
        elif role == "assistant":
            self._say("assistant", self._assistant(message, where))
        elif role == "tool":
            self._hand_in(
                _tool_id(message.get("tool_call_id"), f"{where}.tool_call_id"), message, where
            )
        else:
            self._hand_in(self._function_id(message, where), message, where)

    def _say(self, role: str, blocks: list[Document]) -> None:
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})

    def _hand_in(self, call: str, message: Document, where: str) -> None:
        """All results of one assistant turn stand first in the one user turn that follows it.

        (Claude documentation, "Handle tool calls": text before a result is a 400.)
        """
        result: Document = {"type": "tool_result", "tool_use_id": call}
        if content := self._blocks(message, where, _USER):
            result["content"] = content
        if not self.turns or self.turns[-1]["role"] != "user":
            self.turns.append({"role": "user", "content": [result]})
            return
        blocks = self.turns[-1]["content"]
        last = sum(1 for block in blocks if block["type"] == "tool_result")
        blocks.insert(last, result)

    def _assistant(self, message: Document, where: str) -> list[Document]:
        if message.get("audio") is not None:
            raise InvalidRequest(
                "Claude models do not take audio.",
                param=f"{where}.audio",
                code="unsupported_parameter",
            )
        blocks = self._blocks(message, where, _ASSISTANT)
        blocks += _text(message.get("refusal"), f"{where}.refusal")
        calls = message.get("tool_calls")
        if calls is not None and type(calls) is not list:
            raise _wrong_type(f"{where}.tool_calls", "an array")
        blocks += [
            _tool_use(call, f"{where}.tool_calls[{number}]")
            for number, call in enumerate(calls or ())
        ]
        call = message.get("function_call")
        if call is not None:
            blocks.append(self._function_use(call, f"{where}.function_call"))
        return blocks

    def _function_use(self, call: Any, where: str) -> Document:
        name, arguments = _called(call, where)
        # Functions of the old kind have no ids. Made from the place, they are the same
        # in every later request of the conversation, so the provider's prompt cache still fits.
        self._functions += 1
        self._function_ids[name] = made = f"call_function_{self._functions}"
        return {"type": "tool_use", "id": made, "name": name, "input": arguments}

    def _function_id(self, message: Document, where: str) -> str:
        name = message.get("name")
        found = self._function_ids.get(name) if type(name) is str else None
        if found is None:
            raise InvalidRequest(
                "A function message must follow the assistant's call of that function.",
                param=f"{where}.name",
                code="invalid_value",
            )
        return found

    def _blocks(self, message: Document, where: str, takes: frozenset[str]) -> list[Document]:
        content = message.get("content")
        if type(content) is not list:
            return _text(content, f"{where}.content")
        blocks: list[Document] = []
        for number, part in enumerate(content):
            found = self._part(part, f"{where}.content[{number}]", takes)
            mark = part.get("cache_control")
            if found and mark is not None:
                found[-1]["cache_control"] = mark
            blocks += found
        return blocks

    def _part(self, part: Document, where: str, takes: frozenset[str]) -> list[Document]:
        kind = part["type"]
        if kind not in takes:
            raise InvalidRequest(
                f"Claude models do not take content of type '{kind[:40]}' here.",
                param=f"{where}.type",
                code="unsupported_value",
            )
        if kind == "image_url":
            return [_image(part, where, self._abilities)]
        if kind == "file":
            return [_file(part, where, self._abilities)]
        if part.get(kind) is None:
            raise _missing(f"{where}.{kind}")
        return _text(part[kind], f"{where}.{kind}")


# --- what the assistant called ----------------------------------------------------------------------


def _tool_use(call: Any, where: str) -> Document:
    if type(call) is not dict:
        raise _wrong_type(where, "an object")
    if call.get("type", "function") != "function":
        raise InvalidRequest(
            "Claude models know function tools only.",
            param=f"{where}.type",
            code="unsupported_value",
        )
    name, arguments = _called(call.get("function"), f"{where}.function")
    return {
        "type": "tool_use",
        "id": _tool_id(call.get("id"), f"{where}.id"),
        "name": name,
        "input": arguments,
    }


def _called(function: Any, where: str) -> tuple[str, Document]:
    if type(function) is not dict:
        raise _missing(where)
    name = function.get("name")
    if type(name) is not str or not name:
        raise _missing(f"{where}.name")
    text = function.get("arguments")
    if text is None or (type(text) is str and not text.strip()):
        return name, {}
    if type(text) is not str:
        raise _wrong_type(f"{where}.arguments", "a string of JSON")
    try:
        return name, load_object(text.encode())
    except InvalidRequest:
        raise InvalidRequest(
            f"'{where}.arguments' must be the text of a JSON object.",
            param=f"{where}.arguments",
            code="invalid_value",
        ) from None


def _tool_id(given: Any, where: str) -> str:
    """Other providers make ids with dots and colons, which Claude refuses: those become a digest."""
    if type(given) is not str or not given:
        raise _missing(where)
    if _TOOL_ID.fullmatch(given):
        return given
    return f"call_{sha256(given.encode()).hexdigest()[:24]}"


# --- one part ---------------------------------------------------------------------------------------


def _text(found: Any, where: str) -> list[Document]:
    """One block, or none: a blank text block is a 400 there."""
    if found is None:
        return []
    if type(found) is not str:
        raise _wrong_type(where, "a string")
    if not found or found.isspace():
        return []
    return [{"type": "text", "text": found}]


def _image(part: Document, where: str, abilities: ClaudeAbilities) -> Document:
    if not abilities.images:
        raise InvalidRequest(
            "This model does not take images.", param=f"{where}.type", code="unsupported_value"
        )
    held = part.get("image_url")
    url = held.get("url") if type(held) is dict else None
    if type(url) is not str or not url:
        raise _missing(f"{where}.image_url.url")
    if url[:8].lower().startswith(("http://", "https://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, content = _data_url(url)
    if media_type == "image/jpg":
        media_type = "image/jpeg"
    if media_type not in _IMAGES:
        raise InvalidRequest(
            "An image must be a web address or a base64 data URL of type jpeg, png, gif or webp.",
            param=f"{where}.image_url.url",
            code="invalid_image_format",
        )
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": content},
    }


def _file(part: Document, where: str, abilities: ClaudeAbilities) -> Document:
    held = part.get("file")
    if type(held) is not dict:
        raise _missing(f"{where}.file")
    if held.get("file_id") is not None:
        raise InvalidRequest(
            "A file uploaded elsewhere means nothing to Claude; send it as 'file_data'.",
            param=f"{where}.file.file_id",
            code="unsupported_parameter",
        )
    url = held.get("file_data")
    if type(url) is not str or not url:
        raise _missing(f"{where}.file.file_data")
    block: Document = {
        "type": "document",
        "source": _document(url, f"{where}.file.file_data", abilities),
    }
    name = held.get("filename")
    if type(name) is str and name.strip():
        block["title"] = name
    return block


def _document(url: str, where: str, abilities: ClaudeAbilities) -> Document:
    media_type, content = _data_url(url)
    if media_type == "application/pdf" and abilities.pdf:
        return {"type": "base64", "media_type": media_type, "data": content}
    if not media_type.startswith("text/"):
        raise InvalidRequest(
            "A file must be a base64 data URL of a text"
            + (" or a PDF." if abilities.pdf else "."),
            param=where,
            code="unsupported_value",
        )
    try:
        text = b64decode(content, validate=True).decode()
    except ValueError:
        raise InvalidRequest(
            "The file is not UTF-8 text in base64.", param=where, code="invalid_value"
        ) from None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _data_url(url: str) -> tuple[str, str]:
    """Media type and base64 text (RFC 2397); two empty strings for anything else."""
    head, _, content = url.partition(",")
    scheme, _, rest = head.partition(":")
    media_type, *options = rest.lower().split(";")
    if scheme.lower() != "data" or not content or "base64" not in options:
        return "", ""
    return media_type.strip(), content


def _missing(where: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{where}'.", param=where, code="missing_required_parameter"
    )


def _wrong_type(where: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}' must be {wanted}.", param=where, code="invalid_type")
