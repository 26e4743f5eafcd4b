"""The smallest example of a JSON schema (draft 2020-12, and the older words that tools still use).

The schema is a customer's, so it is never trusted: steps and sizes are bounded, and no expression of theirs
is ever matched against anything. Not a validator.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, isinf
from typing import Any
from urllib.parse import unquote

from adapters.providers.sandbox_pattern import example
from domain.answer import Document
from domain.errors import InvalidRequest

MAX_STEPS = 5_000
"""Parts of a schema that are looked at for one example."""

MAX_SIZE = 20_000
"""Characters and array elements in one example."""

OPTIONAL_DEPTH = 3
"""Deeper than this only what is required is written, so that a schema that holds itself comes to an end."""

MAX_DEPTH = 40

WORD = "sandbox"

FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "idn-email": "sandbox@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "iri": "https://example.com/",
    "uri-reference": "/sandbox",
    "uri-template": "/sandbox/{id}",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/sandbox",
    "regex": "sandbox",
    "byte": "c2FuZGJveA==",
    "decimal": "1.5",
}

SCALARS = frozenset({"null", "boolean", "integer", "number", "string"})


class _NoExample(Exception):
    """This part of the schema has none; another choice beside it may have one."""


def sample(schema: Any, param: str) -> Any:
    """A value that the schema accepts, always the same one. Raises InvalidRequest, with `param`, if none is found."""
    try:
        return _Sampler(schema).value(schema, 0)
    except _NoExample as exc:
        raise InvalidRequest(
            f"The sandbox finds no example for this schema: {exc}.", param=param
        ) from None
    except (OverflowError, RecursionError, ValueError):
        raise InvalidRequest(
            "The sandbox finds no example for this schema.", param=param
        ) from None


class _Sampler:
    """Walks one schema; the steps and the size left are its only state."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = MAX_STEPS
        self._size = MAX_SIZE

    def value(self, schema: Any, depth: int, number: int = 0) -> Any:
        """`number` tells the elements of an array apart, where they have to differ."""
        self._step(1 + depth // MAX_DEPTH * MAX_STEPS)
        if schema is True:
            return WORD
        if type(schema) is not dict:
            raise _NoExample("a part of it accepts nothing")
        schema = self._whole(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return _one_of(schema["enum"], number)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._choice(schema, word, depth, number)
        kind = _kind(schema, depth)
        write = _WRITERS.get(kind)
        if write is None:
            raise _NoExample("it names an unknown type")
        return write(self, schema, depth, number)

    def _whole(self, schema: Document) -> Document:
        """The schema with its `$ref` and `allOf` written out in place."""
        for _ in range(MAX_DEPTH):
            if "$ref" in schema:
                rest = {word: part for word, part in schema.items() if word != "$ref"}
                schema = self._merged(self._found(schema["$ref"]), rest)
            elif "allOf" in schema:
                parts = schema["allOf"]
                schema = {word: part for word, part in schema.items() if word != "allOf"}
                for part in parts if type(parts) is list else ():
                    schema = self._merged(schema, self._whole(part) if type(part) is dict else {})
            else:
                return schema
        raise _NoExample("a reference leads to itself")

    def _found(self, reference: Any) -> Document:
        """What a JSON pointer inside the document means (RFC 6901); nothing is ever fetched."""
        if type(reference) is not str or not reference.startswith("#") or len(reference) > 1_000:
            raise _NoExample("a reference leads out of it")
        found = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if type(found) is list and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif type(found) is dict and name in found:
                found = found[name]
            else:
                raise _NoExample("a reference leads nowhere")
        if type(found) is not dict:
            raise _NoExample("a reference leads to no schema")
        return found

    def _choice(self, schema: Document, word: str, depth: int, number: int) -> Any:
        options = schema[word]
        if type(options) is not list or not options:
            raise _NoExample(f"{word} has no choices")
        if depth > OPTIONAL_DEPTH:
            options = sorted(options, key=_weight)
        rest = {name: part for name, part in schema.items() if name != word}
        for option in options:
            try:
                whole = option
                if type(option) is dict:
                    whole = self._merged(rest, self._whole(option))
                return self.value(whole, depth + 1, number)
            except _NoExample:
                continue
        raise _NoExample(f"no choice of {word} has one")

    def object(self, schema: Document, depth: int, number: int) -> Document:
        properties = schema.get("properties")
        properties = properties if type(properties) is dict else {}
        required = schema.get("required")
        names = [name for name in required if type(name) is str] if type(required) is list else []
        if not names and depth <= OPTIONAL_DEPTH:
            names = list(properties)
        # Models write the properties in the schema's own order.
        wanted = frozenset(names)
        names = [*(name for name in properties if name in wanted), *names]
        others = schema.get("additionalProperties", True)
        found: Document = {}
        for name in dict.fromkeys(names):
            found[name] = self.value(properties.get(name, others), depth + 1, number)
        least = _whole_number(schema, "minProperties")
        while len(found) < least:
            self._spend(1)
            found[f"{WORD}{len(found)}"] = self.value(others, depth + 1, number)
        return found

    def array(self, schema: Document, depth: int, number: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if type(first) is list else []
        others = schema.get("items", True)
        if type(others) is list:
            first, others = others, schema.get("additionalItems", True)
        most = _whole_number(schema, "maxItems", MAX_SIZE)
        wanted = max(len(first), 1 if "items" in schema and depth <= OPTIONAL_DEPTH else 0)
        if others is False:
            wanted = len(first)
        wanted = max(_whole_number(schema, "minItems"), min(wanted, most))
        self._spend(wanted)
        return [
            self.value(first[place] if place < len(first) else others, depth + 1, place)
            for place in range(wanted)
        ]

    def string(self, schema: Document, depth: int, number: int) -> str:
        least = _whole_number(schema, "minLength")
        most = _whole_number(schema, "maxLength", MAX_SIZE)
        self._spend(least)
        text = self._text(schema, number)
        self._spend(len(text))
        if len(text) < least and "pattern" not in schema:
            text += "x" * (least - len(text))
        if len(text) > most and "format" not in schema and "pattern" not in schema:
            text = text[:most] if not number else text[len(text) - most :]
        return text

    def _text(self, schema: Document, number: int) -> str:
        pattern = schema.get("pattern")
        if type(pattern) is str:
            found = example(pattern, _whole_number(schema, "minLength"))
            if found is None:
                raise _NoExample("its pattern is beyond the sandbox")
            return found
        form = schema.get("format")
        if type(form) is str and form in FORMATS:
            return FORMATS[form]
        return f"{WORD}{number}" if number else WORD

    def number(self, schema: Document, depth: int, number: int) -> int | float:
        whole = _kind(schema, depth) == "integer"
        low, high = _bounds(schema)
        step = _number(schema, "multipleOf", 1 if whole else 0)
        if step > 0:
            return _multiple(low, high, step, number, whole)
        near = 1.5 + number
        if low < near < high:
            return near
        found = _between(low, high)
        if not low <= found <= high:
            raise _NoExample("its numbers have no room")
        return found

    def boolean(self, schema: Document, depth: int, number: int) -> bool:
        return number % 2 == 0

    def null(self, schema: Document, depth: int, number: int) -> None:
        return None

    def _merged(self, first: Document, second: Document) -> Document:
        """Both at once, near enough: properties and required add up, of other words the second's stands."""
        found = {**first, **second}
        properties = _joined_maps(first.get("properties"), second.get("properties"))
        if properties is not None:
            found["properties"] = properties
        required = _joined_lists(first.get("required"), second.get("required"))
        if required is not None:
            found["required"] = required
        # Copying is work too: a small schema can ask for much of it.
        self._step(1 + (len(found) + len(properties or ()) + len(required or ())) // 8)
        return found

    def _step(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _NoExample("it is too large or never ends")

    def _spend(self, size: int) -> None:
        self._size -= size
        if self._size < 0:
            raise _NoExample("it asks for too much")


_WRITERS: dict[str, Callable[[_Sampler, Document, int, int], Any]] = {
    "object": _Sampler.object,
    "array": _Sampler.array,
    "string": _Sampler.string,
    "integer": _Sampler.number,
    "number": _Sampler.number,
    "boolean": _Sampler.boolean,
    "null": _Sampler.null,
}


def _kind(schema: Document, depth: int) -> str:
    kind = schema.get("type")
    if type(kind) is list:
        kinds = [one for one in kind if type(one) is str]
        if depth > OPTIONAL_DEPTH and "null" in kinds:
            return "null"
        kind = kinds[0] if kinds else None
    if type(kind) is str:
        return kind
    if "properties" in schema or "required" in schema or "minProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema or "minItems" in schema:
        return "array"
    if "minimum" in schema or "maximum" in schema or "multipleOf" in schema:
        return "number"
    return "string"


def _weight(option: Any) -> int:
    """How little a choice asks for: what ends a schema that holds itself comes first."""
    if type(option) is not dict:
        return 3
    if option.get("type") == "null":
        return 0
    if "const" in option or "enum" in option or option.get("type") in SCALARS:
        return 1
    return 2


def _joined_maps(first: Any, second: Any) -> Document | None:
    if type(first) is not dict or type(second) is not dict:
        return second if type(second) is dict else first if type(first) is dict else None
    found: Document = {**first, **second}
    for name in first.keys() & second.keys():
        if type(first[name]) is dict and type(second[name]) is dict:
            found[name] = {**first[name], **second[name]}
    return found


def _joined_lists(first: Any, second: Any) -> list[Any] | None:
    if type(first) is not list or type(second) is not list:
        return second if type(second) is list else first if type(first) is list else None
    return list(dict.fromkeys(name for name in [*first, *second] if type(name) is str))


def _one_of(options: Any, number: int) -> Any:
    if type(options) is not list or not options:
        raise _NoExample("an enum is empty")
    return options[number % len(options)]


def _whole_number(schema: Document, word: str, absent: int = 0) -> int:
    found = _number(schema, word, -1)
    return ceil(found) if found >= 0 else absent


def _bounds(schema: Document) -> tuple[float, float]:
    """The least and the greatest number, both allowed; a nudge past an exclusive bound."""
    low = _number(schema, "minimum", float("-inf"))
    high = _number(schema, "maximum", float("inf"))
    # Draft 4 wrote `"exclusiveMinimum": true` beside the bound, later drafts write the bound itself.
    above = (
        low if schema.get("exclusiveMinimum") is True else _number(schema, "exclusiveMinimum", low)
    )
    below = (
        high
        if schema.get("exclusiveMaximum") is True
        else _number(schema, "exclusiveMaximum", high)
    )
    if "exclusiveMinimum" in schema and above >= low:
        low = _past(above, schema, 1)
    if "exclusiveMaximum" in schema and below <= high:
        high = _past(below, schema, -1)
    return low, high


def _number(schema: Document, word: str, absent: float) -> float:
    found = schema.get(word)
    return found if isinstance(found, int | float) and type(found) is not bool else absent


def _past(bound: float, schema: Document, way: int) -> float:
    step = schema.get("multipleOf")
    if isinf(bound):
        return bound
    if schema.get("type") == "integer" or type(step) is int:
        return floor(bound) + 1 if way > 0 else ceil(bound) - 1
    return bound + way * max(abs(bound), 1) * 1e-9


def _between(low: float, high: float) -> float:
    if low == float("-inf"):
        return high
    if high == float("inf"):
        return low
    return (low + high) / 2


def _multiple(low: float, high: float, step: float, number: int, whole: bool) -> int | float:
    """The multiple of `step` nearest above one that has room, and further ones for further elements."""
    start = (
        1
        if low <= step <= high
        else int(-(-low // step))
        if low > float("-inf")
        else int(high // step)
    )
    times = start + (number if low > float("-inf") or high >= (start + number) * step else -number)
    found = times * step
    if not low <= found <= high:
        found = start * step
    if not low <= found <= high:
        raise _NoExample("its numbers have no room")
    if whole:
        if found != int(found):
            raise _NoExample("its numbers have no room")
        return int(found)
    return found
