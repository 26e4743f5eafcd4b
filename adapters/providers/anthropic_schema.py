"""JSON schemas as Claude's structured outputs take them.

Only a part of JSON Schema is compiled there, the rest is a 400 (Claude documentation, "Structured outputs",
JSON Schema limitations). What is not, such as a length or a range, is told in the description instead, as Anthropic's own
SDKs do: the model mostly keeps to it, and the caller's own validation stays in charge.
"""

from __future__ import annotations

from typing import Any

import orjson

from domain.answer import Document

_PLAIN = frozenset({"type", "const", "required", "description", "title", "$ref"})
_NAMED = frozenset({"properties", "$defs", "definitions"})
_CHOICES = frozenset({"anyOf", "allOf"})
_BESIDE_A_REFERENCE = frozenset({"$ref", "$defs", "definitions"})
_SILENT = frozenset({"$schema", "$id", "$comment", "additionalProperties", "strict"})
_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)


def narrow(schema: Any) -> Any:
    """The same schema in supported keywords. Keeps the order of keys, which the model's output follows."""
    if type(schema) is not dict:
        return schema
    if "$ref" in schema:
        schema = {key: held for key, held in schema.items() if key in _BESIDE_A_REFERENCE}
    kept: Document = {}
    told: Document = {}
    for key, held in schema.items():
        if key in _NAMED and type(held) is dict:
            kept[key] = {name: narrow(inner) for name, inner in held.items()}
        elif key in _CHOICES and type(held) is list:
            kept[key] = [narrow(inner) for inner in held]
        elif key == "oneOf" and type(held) is list and "anyOf" not in schema:
            kept["anyOf"] = [narrow(inner) for inner in held]
        elif key == "items" and type(held) is dict:
            kept[key] = narrow(held)
        elif _is_plain(key, held):
            kept[key] = held
        elif key not in _SILENT:
            told[key] = held
    if _is_object(schema):
        kept["additionalProperties"] = False
    if told:
        _tell(kept, told)
    return kept


def _is_plain(key: str, held: Any) -> bool:
    if key == "enum":
        return type(held) is list and not any(isinstance(item, dict | list) for item in held)
    if key == "format":
        return type(held) is str and held in _FORMATS
    if key == "minItems":
        return held in (0, 1)
    return key in _PLAIN


def _is_object(schema: Document) -> bool:
    kind = schema.get("type")
    return kind == "object" or (type(kind) is list and "object" in kind) or "properties" in schema


def _tell(kept: Document, told: Document) -> None:
    limits = ", ".join(f"{key}: {orjson.dumps(held).decode()}" for key, held in told.items())
    already = kept.get("description")
    kept["description"] = f"{already}\n\n{{{limits}}}" if already else f"{{{limits}}}"
