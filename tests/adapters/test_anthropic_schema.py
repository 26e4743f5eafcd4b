"""Schemas for Claude's structured outputs, and abilities read from Anthropic's list of models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from anthropic import transform_schema
from anthropic.types import ModelInfo

from adapters.providers.anthropic_dialect import abilities_from_listing
from adapters.providers.anthropic_schema import narrow
from domain.answer import Document
from domain.models import ClaudeAbilities

SCHEMAS: list[tuple[str, Any, Any]] = [
    ("type", {"type": "string"}, {"type": "string"}),
    ("types", {"type": ["integer", "null"]}, {"type": ["integer", "null"]}),
    ("enum", {"enum": ["a", 1, None]}, {"enum": ["a", 1, None]}),
    ("enum of objects", {"enum": [{"a": 1}]}, {"description": '{enum: [{"a":1}]}'}),
    ("const", {"const": "x"}, {"const": "x"}),
    ("format", {"type": "string", "format": "uuid"}, {"type": "string", "format": "uuid"}),
    (
        "other format",
        {"type": "string", "format": "iri"},
        {"type": "string", "description": '{format: "iri"}'},
    ),
    (
        "limits",
        {"type": "string", "description": "A name.", "minLength": 1, "pattern": "^a"},
        {"type": "string", "description": 'A name.\n\n{minLength: 1, pattern: "^a"}'},
    ),
    (
        "array",
        {"type": "array", "items": {"type": "number", "maximum": 2}, "minItems": 1, "maxItems": 3},
        {
            "type": "array",
            "items": {"type": "number", "description": "{maximum: 2}"},
            "minItems": 1,
            "description": "{maxItems: 3}",
        },
    ),
    (
        "minItems 2",
        {"type": "array", "items": {"type": "null"}, "minItems": 2},
        {"type": "array", "items": {"type": "null"}, "description": "{minItems: 2}"},
    ),
    (
        "object",
        {"type": "object", "properties": {"minimum": {"type": "integer", "minimum": 0}}},
        {
            "type": "object",
            "properties": {"minimum": {"type": "integer", "description": "{minimum: 0}"}},
            "additionalProperties": False,
        },
    ),
    (
        "open object",
        {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {}, "additionalProperties": False},
    ),
    (
        "anyOf",
        {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 1}]},
        {"anyOf": [{"type": "null"}, {"type": "string", "description": "{maxLength: 1}"}]},
    ),
    ("oneOf", {"oneOf": [{"type": "null"}]}, {"anyOf": [{"type": "null"}]}),
    ("allOf", {"allOf": [{"type": "null"}]}, {"allOf": [{"type": "null"}]}),
    (
        "references",
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": "#/$defs/Node",
            "description": "dropped",
            "$defs": {
                "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
            },
        },
        {
            "$ref": "#/$defs/Node",
            "$defs": {
                "Node": {
                    "type": "object",
                    "properties": {"next": {"$ref": "#/$defs/Node"}},
                    "additionalProperties": False,
                }
            },
        },
    ),
]
AS_THE_SDK = ("type", "const", "format", "object", "open object", "anyOf", "oneOf", "array")


@pytest.mark.parametrize(
    ("schema", "expected"), [row[1:] for row in SCHEMAS], ids=[row[0] for row in SCHEMAS]
)
async def test_schemas(schema: Any, expected: Any) -> None:
    """Supported keywords stay, limits move into the description, and the caller's schema is left alone."""
    before = deepcopy(schema)

    assert narrow(schema) == expected
    assert schema == before


@pytest.mark.parametrize(
    "schema", [row[1] for row in SCHEMAS if row[0] in AS_THE_SDK], ids=AS_THE_SDK
)
async def test_the_sdk_agrees(schema: Any) -> None:
    """Anthropic's own SDK makes the same of it."""
    assert narrow(schema) == transform_schema(schema)


@pytest.mark.parametrize("schema", [True, None, 7, "x", [], {}, {"items": [1]}, {"properties": 3}])
async def test_schemas_that_are_none(schema: Any) -> None:
    """Nonsense does not crash; the provider says what is wrong with it."""
    narrow(schema)


async def test_properties_keep_their_order() -> None:
    """The model writes properties in the order of the schema."""
    names = ["zeta", "alpha", "mu"]
    found = narrow({"type": "object", "properties": {name: {"type": "null"} for name in names}})

    assert list(found["properties"]) == names


# --- abilities --------------------------------------------------------------------------------------


def told(*names: str, among: tuple[str, ...]) -> Document:
    return {name: {"supported": name in names} for name in among}


def entry(thinking: tuple[str, ...], effort: tuple[str, ...], most: int, **held: bool) -> Document:
    kinds = told(*thinking, among=("adaptive", "enabled", "disabled", "between_tools"))
    levels = told(*effort, among=("low", "medium", "high", "xhigh", "max"))
    plain = ("batch", "citations", "image_input", "pdf_input", "structured_outputs")
    return {
        "id": "claude-x",
        "type": "model",
        "display_name": "Claude X",
        "created_at": "2026-09-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 1_000_000,
        "max_tokens": most,
        "capabilities": {
            "thinking": {"supported": True, "types": kinds},
            "effort": {"supported": bool(effort), **levels},
            **{name: {"supported": held.get(name, True)} for name in plain},
        },
    }


ALL = ("low", "medium", "high", "xhigh", "max")
LISTED: list[tuple[str, Document, ClaudeAbilities]] = [
    ("always thinking", entry(("adaptive",), ALL, 128_000), ClaudeAbilities()),
    (
        "between tools",
        entry(("adaptive", "between_tools"), ALL, 128_000),
        ClaudeAbilities(thinking=frozenset({"adaptive", "between_tools"})),
    ),
    (
        "switchable",
        entry(("adaptive", "disabled"), ALL, 128_000),
        ClaudeAbilities(thinking=frozenset({"adaptive", "disabled"}), forced_tools=True),
    ),
    (
        "4.6",
        entry(("adaptive", "enabled", "disabled"), ("low", "medium", "high", "max"), 128_000),
        ClaudeAbilities(
            sampling=True,
            thinking=frozenset({"adaptive", "enabled", "disabled"}),
            forced_tools=True,
            effort=frozenset({"low", "medium", "high", "max"}),
        ),
    ),
    (
        "4.5",
        entry(("enabled", "disabled"), (), 64_000, pdf_input=False, structured_outputs=False),
        ClaudeAbilities(
            max_output=64_000,
            sampling=True,
            thinking=frozenset({"enabled", "disabled"}),
            forced_tools=True,
            prefill=True,
            effort=frozenset(),
            structured=False,
            pdf=False,
        ),
    ),
    ("nothing told", {"id": "claude-x", "capabilities": {}}, ClaudeAbilities()),
]


@pytest.mark.parametrize(
    ("listed", "expected"), [row[1:] for row in LISTED], ids=[row[0] for row in LISTED]
)
async def test_abilities(listed: Document, expected: ClaudeAbilities) -> None:
    """The list's own words make the table; what it does not tell goes with the kinds of thinking."""
    ModelInfo.construct(**listed)

    assert abilities_from_listing(listed) == expected


@pytest.mark.parametrize(
    "listed",
    [{}, {"capabilities": None}, {"capabilities": []}],
)
async def test_an_entry_that_tells_nothing(listed: Document) -> None:
    """Without capabilities nothing is known."""
    assert abilities_from_listing(listed) is None


@pytest.mark.parametrize("odd", [None, 7, "yes", [], {"supported": "yes"}, {"types": 3}])
async def test_odd_entries(odd: Any) -> None:
    """Odd shapes count as not told."""
    names = ("thinking", "effort", "image_input", "pdf_input", "structured_outputs")
    found = abilities_from_listing({"max_tokens": odd, "capabilities": dict.fromkeys(names, odd)})

    assert found is not None
    assert found.max_output in (7, 128_000)
    assert found.images
