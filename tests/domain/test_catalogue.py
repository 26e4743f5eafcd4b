"""The operator's tables: what is right is read exactly, what is wrong is told in one line."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import genai_prices
import pytest

from config import export_models
from config.catalogue import CatalogueError, read_catalogue, read_plans
from domain.models import ANTHROPIC, CHAT, GROQ, OPENAI, ClaudeAbilities, LongPrompt, Price, Rates
from domain.plans import Plan
from domain.routing import route

SMALL = 'as_of = "2030-01-02"\n[models."m"]\nprovider = "openai"\n'


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_packaged_file_is_what_the_exporter_writes() -> None:
    """Anyone with the same genai-prices gets the same file, to the letter."""
    packaged = files("config").joinpath("models.toml").read_text()
    if f"genai-prices {genai_prices.__version__}," not in packaged:
        pytest.skip("another genai-prices than the file was written from")

    assert packaged == export_models.render()


def test_the_packaged_models() -> None:
    """Every provider is there, each name once, and the version says of which day the prices are."""
    catalogue = read_catalogue(None)
    names = [name for model in catalogue.models for name in (model.id, *model.aliases)]

    assert len(names) == len(set(names))
    assert {OPENAI, ANTHROPIC, GROQ} == {model.provider for model in catalogue.models}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[0-9a-f]{8}", catalogue.version)
    assert {True} == {
        (model.provider == ANTHROPIC) == (model.claude is not None) for model in catalogue.models
    }


def test_the_packaged_plans() -> None:
    assert [
        Plan("free", 10, 50_000, 0, 0),
        Plan("starter", 50, 250_000, 0, 29),
        Plan("pro", 200, 1_000_000, 0, 49),
        Plan("unlimited", 0, 0, 0, 0),
    ] == list(read_plans(None).values())


FORCED = frozenset({"adaptive", "disabled"})
CLAUDE = [
    ("claude-opus-5-5", ClaudeAbilities()),
    ("claude-fable-5-2", ClaudeAbilities()),
    ("claude-mythos-5-1", ClaudeAbilities()),
    ("claude-sonnet-5-5", ClaudeAbilities(thinking=frozenset({"adaptive", "between_tools"}))),
    ("claude-haiku-5-5", ClaudeAbilities(thinking=FORCED, forced_tools=True)),
    ("claude-fable-5", ClaudeAbilities(forced_tools=True)),
    ("claude-opus-5", ClaudeAbilities(thinking=FORCED, forced_tools=True)),
    ("claude-sonnet-5", ClaudeAbilities(thinking=FORCED, forced_tools=True)),
    ("claude-opus-4-7", ClaudeAbilities(thinking=FORCED, forced_tools=True)),
    (
        "claude-sonnet-4-6",
        ClaudeAbilities(
            sampling=True,
            thinking=FORCED | {"enabled"},
            forced_tools=True,
            effort=frozenset({"low", "medium", "high", "max"}),
        ),
    ),
    (
        "claude-opus-4-5-20251101",
        ClaudeAbilities(
            max_output=64_000,
            sampling=True,
            thinking=frozenset({"enabled", "disabled"}),
            forced_tools=True,
            prefill=True,
            effort=frozenset({"low", "medium", "high"}),
        ),
    ),
    (
        "claude-haiku-4-5",
        ClaudeAbilities(
            max_output=64_000,
            sampling=True,
            thinking=frozenset({"enabled", "disabled"}),
            forced_tools=True,
            prefill=True,
            effort=frozenset(),
        ),
    ),
]


@pytest.mark.parametrize(("model", "expected"), CLAUDE)
def test_what_claude_models_take(model: str, expected: ClaudeAbilities) -> None:
    assert expected == route(model, read_catalogue(None)).claude


def test_every_setting_of_a_model(tmp_path: Path) -> None:
    """Text and bare numbers are the same price, exactly; bounds may come in any order."""
    write(
        tmp_path,
        "models.toml",
        """
        as_of = 2030-01-02

        [models."house"]
        provider = "anthropic"
        sent_as = "claude-house"
        aliases = ["home"]
        snapshots = ["claude-house-20300101"]
        reasoning = true
        first_byte_timeout = 2.5
        input = "0.000001"
        output = 15
        cache_read = 0.1
        cache_write = "999999999.999999"
        cache_write_1h = "0"
        audio_input = "1.5"
        audio_output = "2"
        long_prompts = [{ above = 200, input = "3", output = "4" }, { above = 100, input = "1", output = "2" }]
        service_tiers.flex = { input = "1", output = "2" }
        claude = { max_output = 9, sampling = true, both_samplings = true, thinking = [], forced_tools = true, \
prefill = true, effort = ["low"], structured = false, images = false, pdf = false }
        """,
    )

    catalogue = read_catalogue(tmp_path)
    house, snapshot = catalogue.models

    assert (
        house.id,
        house.provider,
        house.sent_as,
        house.kind,
        house.aliases,
        house.reasoning,
        house.first_byte_timeout,
    ) == ("house", ANTHROPIC, "claude-house", CHAT, ("home",), True, 2.5)
    assert house.price == Price(
        Rates(1, 15_000_000, 100_000, 999_999_999_999_999, 0, 1_500_000, 2_000_000),
        (
            LongPrompt(100, Rates(1_000_000, 2_000_000)),
            LongPrompt(200, Rates(3_000_000, 4_000_000)),
        ),
        (("flex", Price(Rates(1_000_000, 2_000_000))),),
    )
    assert house.claude == ClaudeAbilities(
        9, True, True, frozenset(), True, True, frozenset({"low"}), False, False, False
    )
    assert (
        snapshot.id,
        snapshot.sent_as,
        snapshot.aliases,
    ) == ("claude-house-20300101", "claude-house-20300101", ())
    assert (house.price, house.claude) == (snapshot.price, snapshot.claude)
    assert catalogue.version.startswith("2030-01-02-")


def test_the_version_tells_files_apart(tmp_path: Path) -> None:
    """Each ledger row says which prices it was made with, so another file is another version."""
    first = read_catalogue(write(tmp_path, "models.toml", SMALL)).version
    again = read_catalogue(tmp_path).version
    other = read_catalogue(write(tmp_path, "models.toml", SMALL + "input=1\noutput=1")).version
    undated = read_catalogue(write(tmp_path, "models.toml", SMALL[SMALL.index("[") :])).version

    assert first == again
    assert first != other
    assert undated.startswith("undated-")


def test_a_file_that_is_missing_falls_back_to_the_packaged_one(tmp_path: Path) -> None:
    """Each by itself: an operator may change plans and keep our models."""
    write(tmp_path, "plans.toml", "[plans.free]\nrequests_per_minute = 3")

    assert {"free": Plan("free", 3, 0, 0, 0)} == read_plans(tmp_path)
    assert read_catalogue(None) == read_catalogue(tmp_path)
    assert read_plans(None) == read_plans(tmp_path / "nowhere")


def test_an_embedding_model_needs_no_output_price(tmp_path: Path) -> None:
    write(tmp_path, "models.toml", SMALL + 'kind = "embedding"\ninput = "0.02"')

    assert Price(Rates(20_000, 0)) == read_catalogue(tmp_path).models[0].price


WRONG_MODELS = [
    ("", "needs tables [models.NAME]"),
    ("models = 3", "needs tables [models.NAME]"),
    ("[models]\nm = 3", "needs tables [models.NAME]"),
    ("[models.m", "is not valid TOML"),
    ("\x00", "is not valid TOML"),
    ("as_of = 'soon'\n[models.m]\nprovider='openai'", "as_of must be a day"),
    ("as_of = 3\n[models.m]\nprovider='openai'", "as_of must be a day"),
    ("[models.m]", "[models.m] provider is missing"),
    ("[models.m]\nprovider='sandbox'", "[models.m] provider must be one of openai, anthropic, groq"),
    ("[models.m]\nprovider=['openai']", "[models.m] provider must be one of"),
    ("[models.'a b']\nprovider='openai'", "[models.a b] has an id that no request can carry"),
    ("[models.'']\nprovider='openai'", "[models.] has an id that no request can carry"),
    (SMALL + "kind='image'", "[models.m] kind must be one of chat, completion, embedding"),
    (SMALL + "sent_as=''", "[models.m] sent_as has an id that no request can carry"),
    (SMALL + "aliases='a'", "[models.m] aliases must be a list"),
    (SMALL + "aliases=[1]", "[models.m] aliases must be a list"),
    (SMALL + "snapshots=['a b']", "[models.m] snapshots has an id that no request can carry"),
    (SMALL + "aliases=['m']", "[models.m] m is also m's"),
    (SMALL + "snapshots=['m']", "[models.m] m is also m's"),
    (SMALL + "[models.n]\nprovider='openai'\naliases=['m']", "[models.n] m is also m's"),
    (SMALL + "reasoning='yes'", "[models.m] reasoning must be true or false"),
    (SMALL + "first_byte_timeout=0", "[models.m] first_byte_timeout must be a number of seconds"),
    (SMALL + "first_byte_timeout=nan", "[models.m] first_byte_timeout must be a number of seconds"),
    (SMALL + "first_byte_timeout=inf", "[models.m] first_byte_timeout must be a number of seconds"),
    (SMALL + "first_byte_timeout=1" + "0" * 400, "[models.m] first_byte_timeout must be a number"),
    (SMALL + "first_byte_timeout=true", "[models.m] first_byte_timeout must be a number of seconds"),
    (SMALL + "first_byte_timeout='9'", "[models.m] first_byte_timeout must be a number of seconds"),
    (SMALL + "cache_reed='1'", "[models.m] cache_reed is not a known setting"),
    (SMALL + "input='1'", "[models.m] needs input and output beside its other prices"),
    (SMALL + "output='1'", "[models.m] needs input and output"),
    (SMALL + "cache_read='0'", "[models.m] needs input and output"),
    (SMALL + "service_tiers.flex={input='1',output='1'}", "[models.m] needs input and output"),
    (SMALL + "input='1'\noutput='1'\nservice_tiers.flex={}", "service_tiers: flex needs input"),
    (SMALL + "input='1'\noutput='1'\nservice_tiers.flex=1", "service_tiers: flex must be a table"),
    (SMALL + "input='1'\noutput='1'\nservice_tiers=1", "[models.m] service_tiers must be a table"),
    (SMALL + "input=1\noutput=1\nservice_tiers.flex={input=1,output=1,in=1}", "flex: in is not a known"),
    (SMALL + "input=1\noutput=1\nlong_prompts=1", "[models.m] long_prompts must be a list of tables"),
    (SMALL + "input=1\noutput=1\nlong_prompts=[{above=1}]", "long_prompts: needs input and output"),
    (SMALL + "input=1\noutput=1\nlong_prompts=[{input=1,output=1}]", "above must be a whole number"),
    (SMALL + "input=1\noutput=1\nlong_prompts=[{above=1,input=1,output=1,x=1}]", "x is not a known"),
    (SMALL + "claude={}", "[models.m] claude is not a known setting"),
    ("[models.m]\nprovider='anthropic'\nclaude={max_output=0}", "claude: max_output must be a whole"),
    ("[models.m]\nprovider='anthropic'\nclaude={thinking=['deep']}", "claude: thinking must be a list"),
    ("[models.m]\nprovider='anthropic'\nclaude={effort=['deep']}", "claude: effort must be a list"),
    ("[models.m]\nprovider='anthropic'\nclaude={smart=true}", "claude: smart is not a known setting"),
    (SMALL + "[other]", "other is not a known setting"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG_MODELS)
def test_a_wrong_model_is_told_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """The file, the entry and the key, and nothing half read."""
    write(tmp_path, "models.toml", text)

    with pytest.raises(CatalogueError) as caught:
        read_catalogue(tmp_path)

    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'models.toml'}: ")
    assert "\n" not in str(caught.value)


BAD_PRICES = ["'-1'", "'1e-3'", "1e-7", "'0.0000001'", "'nan'", "nan", "inf", "true", "''", "' 1'"]
BAD_PRICES += ["'1_000'", "'$1'", "'1,5'", "[1]", "1234567890", "-1", "'１'", "'.5'", "'1.'"]


@pytest.mark.parametrize("price", BAD_PRICES)
def test_a_price_that_would_not_be_exact_is_refused(tmp_path: Path, price: str) -> None:
    """Six decimals are whole picodollars per token; more would have to be rounded."""
    write(tmp_path, "models.toml", SMALL + f"output = '1'\ninput = {price}")

    with pytest.raises(CatalogueError, match=r"\[models.m\] input must be dollars per million"):
        read_catalogue(tmp_path)


WRONG_PLANS = [
    ("", "needs tables [plans.NAME]"),
    ("[plans.free]\nrequests_per_minute='10'", "[plans.free] requests_per_minute must be a whole"),
    ("[plans.free]\nrequests_per_minute=true", "[plans.free] requests_per_minute must be a whole"),
    ("[plans.free]\nrequests_per_minute=10.0", "[plans.free] requests_per_minute must be a whole"),
    ("[plans.free]\nrequests_per_month=-1", "[plans.free] requests_per_month must be a whole"),
    ("[plans.free]\nconcurrent_requests=99999999999999999", "concurrent_requests must be a whole"),
    ("[plans.free]\nrequests_per_minut=10", "[plans.free] requests_per_minut is not a known setting"),
    ("[plans.'Free Plan']", "has a name that is not"),
    ("[plans.\"a\\nb\"]", "has a name that is not"),
    ("free=1", "needs tables"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG_PLANS)
def test_a_wrong_plan_is_told_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """A misspelt limit would be no limit."""
    write(tmp_path, "plans.toml", text)

    with pytest.raises(CatalogueError) as caught:
        read_plans(tmp_path)

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Not silently replaced by the packaged one."""
    (tmp_path / "plans.toml").mkdir()
    (tmp_path / "models.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(CatalogueError, match="cannot be read"):
        read_plans(tmp_path)
    with pytest.raises(CatalogueError, match="is not valid TOML"):
        read_catalogue(tmp_path)
