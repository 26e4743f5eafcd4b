"""OpenAI's tools, functions of the old kind, and the choice among them, as the Messages API takes them."""

from __future__ import annotations

from typing import Any

from adapters.providers.anthropic_schema import narrow
from domain.answer import Document
from domain.errors import InvalidRequest
from domain.models import ClaudeAbilities


def tools_of(body: Document, abilities: ClaudeAbilities) -> tuple[list[Document], Document | None]:
    """The tools to send, and the choice among them (None: the API's own default)."""
    tools = [
        _tool(tool, f"tools[{place}]", abilities)
        for place, tool in enumerate(body.get("tools") or ())
    ]
    asked = body.get("tool_choice")
    if type(asked) is dict and asked.get("type") == "allowed_tools":
        names, asked = _allowed(asked)
        tools = [tool for tool in tools if tool["name"] in names]
    choice = _choice(asked, "tool_choice")
    if not tools:
        if is_forced(choice):
            raise InvalidRequest(
                "'tool_choice' asks for a tool, and none is there.",
                param="tool_choice",
                code="invalid_value",
            )
        return [], None
    if body.get("parallel_tool_calls") is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    return tools, choice


def functions_of(body: Document) -> tuple[list[Document], Document | None]:
    """The same for functions of the old kind."""
    tools = [
        _declared(function, f"functions[{place}]")
        for place, function in enumerate(body["functions"])
    ]
    asked = body.get("function_call")
    if type(asked) is dict:
        asked = {"type": "function", "function": asked}
    choice = _choice(asked, "function_call") or {"type": "auto"}
    if choice["type"] != "none":
        # The old form has room for one call only.
        choice["disable_parallel_tool_use"] = True
    return tools, choice


def is_forced(choice: Document | None) -> bool:
    return choice is not None and choice["type"] in ("any", "tool")


def _tool(tool: Document, where: str, abilities: ClaudeAbilities) -> Document:
    if tool.get("type") != "function":
        raise InvalidRequest(
            "Claude models know function tools only.",
            param=f"{where}.type",
            code="unsupported_value",
        )
    function = tool.get("function")
    found = _declared(function, f"{where}.function")
    if abilities.structured and type(function) is dict and function.get("strict") is True:
        found["strict"] = True
        found["input_schema"] = narrow(found["input_schema"])
    if tool.get("cache_control") is not None:
        found["cache_control"] = tool["cache_control"]
    return found


def _declared(function: Any, where: str) -> Document:
    name = function.get("name") if type(function) is dict else None
    if type(name) is not str or not name:
        raise InvalidRequest(
            f"Missing required parameter: '{where}.name'.",
            param=f"{where}.name",
            code="missing_required_parameter",
        )
    schema = function.get("parameters")
    if schema is not None and type(schema) is not dict:
        raise InvalidRequest(
            f"'{where}.parameters' must be an object.",
            param=f"{where}.parameters",
            code="invalid_type",
        )
    found: Document = {
        "name": name,
        "input_schema": schema or {"type": "object", "properties": {}},
    }
    if "type" not in found["input_schema"]:
        found["input_schema"] = {"type": "object", **found["input_schema"]}
    if function.get("description"):
        found["description"] = function["description"]
    return found


def _choice(asked: Any, field: str) -> Document | None:
    if asked is None:
        return None
    if asked in ("auto", "none"):
        return {"type": asked}
    if asked == "required":
        return {"type": "any"}
    kind = asked.get("type") if type(asked) is dict else None
    function = asked.get("function") if kind == "function" else None
    name = function.get("name") if type(function) is dict else None
    if type(name) is str and name:
        return {"type": "tool", "name": name}
    raise InvalidRequest(
        f"'{field}' must be none, auto, required or name a function.",
        param=field,
        code="unsupported_value" if kind == "custom" else "invalid_value",
    )


def _allowed(asked: Document) -> tuple[set[str], str]:
    held = asked.get("allowed_tools")
    mode = held.get("mode") if type(held) is dict else None
    tools = held.get("tools") if type(held) is dict else None
    if mode not in ("auto", "required") or type(tools) is not list:
        raise InvalidRequest(
            "'tool_choice.allowed_tools' must have a mode and a list of tools.",
            param="tool_choice",
            code="invalid_value",
        )
    functions = [tool.get("function") for tool in tools if type(tool) is dict]
    return {str(function.get("name")) for function in functions if type(function) is dict}, mode
