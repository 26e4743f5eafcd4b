"""Reports: the hours they span, pages, JSON, and CSV that no spreadsheet takes for a program."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import orjson
import pytest

from domain import reports
from domain.errors import InvalidRequest
from domain.reports import DAY, HOUR, Place, Span
from domain.usage import Usage, UsageRecord, UsageSums, UsageTotal

NOW = datetime(2026, 11, 30, 13, 37, 5, tzinfo=UTC).timestamp()
NOON = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp())
SUMS = UsageSums(3, 1, 2, 10, 20, 1_234_000_000, 2**64 * 10**12)
TOTAL = UsageTotal(NOON, "openai", "gpt-5.1", SUMS)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, Span(NOON - 23 * HOUR, NOON + 2 * HOUR)),
        ("24h", None, Span(NOON - 23 * HOUR, NOON + 2 * HOUR)),
        ("0.5h", None, Span(NOON + HOUR, NOON + 2 * HOUR)),
        ("3600", None, Span(NOON, NOON + 2 * HOUR)),
        ("2h", "1h", Span(NOON - HOUR, NOON + HOUR)),
        ("2026-11-29", "2026-11-30", Span(NOON - 36 * HOUR, NOON - 12 * HOUR)),
        ("2026-11-30T12:00:00Z", "2026-11-30T13:00:00Z", Span(NOON, NOON + HOUR)),
        ("2026-11-30T14:00:00+02:00", "2026-11-30T12:00:01", Span(NOON, NOON + HOUR)),
        ("999999999999d", "2030-01-01", Span(0, NOON + 26 * HOUR)),
        ("0001-01-01", "9999-12-31T23:59:59", Span(0, NOON + 26 * HOUR)),
    ],
)
def test_spans(since: str | None, until: str | None, expected: Span) -> None:
    """The smallest whole hours around what is asked for; a day of 24 hours and no word is the default."""
    assert expected == reports.read_span(since, until, NOW)


@pytest.mark.parametrize(
    ("since", "until", "param"),
    [
        ("yesterday", None, "since"),
        ("", None, "since"),
        ("-24h", None, "since"),
        ("1h; DROP TABLE", None, "since"),
        ("2026-13-01", None, "since"),
        ("24h", "soon", "until"),
        ("24h", "\0", "until"),
        ("1h", "2h", "since"),
        ("1h", "1h", "since"),
        ("2030-01-01", "2031-01-01", "since"),
    ],
)
def test_no_spans(since: str, until: str | None, param: str) -> None:
    """What nobody can mean is refused by the name of its parameter."""
    with pytest.raises(InvalidRequest) as caught:
        reports.read_span(since, until, NOW)

    assert param == caught.value.param


@pytest.mark.parametrize("model", ["gpt-5.1", "", "Größe 🦊", 'a"b,c', "x" * 256])
def test_a_cursor_is_a_place(model: str) -> None:
    """It comes back as it was, and fits a URL as it stands."""
    text = reports.cursor(UsageTotal(NOON, "openai", model, SUMS))

    assert Place(NOON, "openai", model) == reports.read_cursor(text)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "!!!",
        "W10",
        "bnVsbA",
        "WzEsMiwzXQ",
        "WyIxIiwiYSIsImIiXQ",
        "Wy0xLCJhIiwiYiJd",
        "ü",
        "a" * 8_000,
        reports.cursor(UsageTotal(1 << 62, "a", "b", SUMS)),
    ],
)
def test_no_cursors(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        reports.read_cursor(text)

    assert "after" == caught.value.param


def test_the_shape_of_a_report() -> None:
    """Tokens are integers, money is a plain decimal of what is known, and what is not known is counted."""
    sums = {
        "requests": 3,
        "hits": 1,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cost_usd": "0.001234",
        "saved_usd": "18446744073709551616",
        "unpriced": 2,
    }
    expected = {
        "project": "prj_1",
        "since": "2026-11-30T12:00:00Z",
        "until": "2026-11-30T13:00:00Z",
        "rows": [{"day": "2026-11-30", "provider": "openai", "model": "gpt-5.1", **sums}],
        "total": sums,
    }
    span = Span(NOON, NOON + HOUR)

    found = reports.report("prj_1", span, [TOTAL], SUMS)
    assert expected == found
    assert list(reports.COLUMNS) == list(found["rows"][0])
    [row] = reports.report("prj_1", span, [TOTAL], SUMS, "hour")["rows"]
    assert ("2026-11-30T12:00:00Z", None) == (row["hour"], row.get("day"))
    assert orjson.dumps(found)


@pytest.mark.parametrize(
    ("cost", "avoided", "expected"),
    [(None, 0, (None, "0")), (0, None, ("0", None)), (10**12, 5, ("1", "0.000000000005"))],
)
def test_the_shape_of_a_request(
    cost: int | None, avoided: int | None, expected: tuple[str | None, str | None]
) -> None:
    """Every bucket of tokens, and null for money that nobody knows: never 0."""
    usage = Usage(1, 2, 4, 8, 16, 32, 64, 20, True)
    record = UsageRecord(
        "id-1", "prj_1", "key_1", "project", NOON + 0.25, "chat/completions", "fast", "gpt-5.1", "openai", True,
        "miss", 200, usage, cost, avoided, "v1", 120.25, 900.5, "no-store",
    )  # fmt: skip
    found = reports.request(record)

    assert expected == (found["cost_usd"], found["saved_usd"])
    assert (31, 96) == (found["prompt_tokens"], found["completion_tokens"])
    assert [1, 2, 4, 8, 16, 32, 64, 20] == list(found["tokens"].values())
    assert ("2026-11-30T12:00:00.250Z", True, True) == (
        found["at"],
        found["estimated"],
        found["streamed"],
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5.1", "gpt-5.1"),
        ("meta-llama/llama-4", "meta-llama/llama-4"),
        ("ft:gpt-4o:acme::x-1", "ft:gpt-4o:acme::x-1"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ('=cmd|" /C calc"!A0', '\'=cmd|" /C calc"!A0'),
        (" =1", "' =1"),
        ("\t=1", "\N{REPLACEMENT CHARACTER}=1"),
        ("\r=1", "\N{REPLACEMENT CHARACTER}=1"),
        ("a\n=1", "a\N{REPLACEMENT CHARACTER}=1"),
        ("＝1", "'＝1"),
        ("x;=HYPERLINK(1)", "x;'=HYPERLINK(1)"),
        ('x;"=1', "x;'\"=1"),
        ("x,-y|@z", "x,'-y|'@z"),
        ("\x1b[2J", "\N{REPLACEMENT CHARACTER}[2J"),
        ("a,b", "a,b"),
        ('a"b', 'a"b'),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(model: str, expected: str) -> None:
    """Neither where commas separate cells nor where semicolons do; ordinary names stay as they are."""
    text = reports.csv_text([UsageTotal(NOON, "openai", model, SUMS)])
    head, row = csv.reader(io.StringIO(text))

    assert list(reports.COLUMNS) == head
    assert ["2026-11-30", "openai", expected, "3", "1", "10", "20", "0.001234"] == row[:8]
    assert 2 == text.count("\n")
    for mark in ",;|":
        cells = [one for line in csv.reader(io.StringIO(text), delimiter=mark) for one in line]
        assert [] == [one for one in cells if one.lstrip(' "').startswith(("=", "+", "-", "@"))]


def test_an_empty_report() -> None:
    """A head and nothing else, so that what reads it need not ask."""
    assert ",".join(reports.COLUMNS) + "\n" == reports.csv_text([])
    assert (HOUR, DAY) == (3600, 86400)
