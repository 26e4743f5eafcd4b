"""The table of settings, by section: attribute, variable, default, reader, meaning.

The sections are put together, filled in and checked against each other in `config.settings`.
"""

from __future__ import annotations

import environ

from config import parts
from config.parts import setting
from config.secrets import Secret, SecretUrl


@environ.config(prefix="", frozen=True)
class Listening:
    host: str = setting("WATCHLLM_HOST", "127.0.0.1", parts.host, "address to listen on")
    port: int = setting(
        "WATCHLLM_PORT", "8787", parts.port, "port to listen on; 0 takes a free one"
    )
    processes: int = setting(
        "WATCHLLM_PROCESSES", "1", parts.count, "processes that share the port"
    )
    public_url: str | None = setting(
        "WATCHLLM_PUBLIC_URL",
        None,
        parts.http_url,
        "base of links in mails and of Stripe's return pages; `http://HOST:PORT` if unset",
    )
    metrics_port: int | None = setting(
        "WATCHLLM_METRICS_PORT", None, parts.port, "a port of its own for `/metrics`"
    )
    metrics: bool = setting(
        "WATCHLLM_METRICS", "true", parts.switch, "`GET /metrics` on the main port"
    )
    metrics_host: str = setting(
        "WATCHLLM_METRICS_HOST", "127.0.0.1", parts.host, "address of `WATCHLLM_METRICS_PORT`"
    )
    max_connections: int = setting(
        "WATCHLLM_MAX_CONNECTIONS", "2000", parts.count, "open connections per process"
    )
    max_connections_per_ip: int = setting(
        "WATCHLLM_MAX_CONNECTIONS_PER_IP",
        "100",
        parts.count,
        "open connections per address and process",
    )
    max_in_flight: int = setting(
        "WATCHLLM_MAX_IN_FLIGHT",
        "500",
        parts.count,
        "requests being served at once per process; more get 503",
    )
    max_body_bytes: int = setting(
        "WATCHLLM_MAX_BODY_BYTES", "16MiB", parts.size, "largest request body; more is 413"
    )
    idle_timeout: float = setting(
        "WATCHLLM_IDLE_TIMEOUT",
        "10s",
        parts.duration,
        "for a request's headers, and between requests of one connection; 75s behind a load balancer",
    )
    body_timeout: float = setting(
        "WATCHLLM_BODY_TIMEOUT", "30s", parts.duration, "for a request's whole body"
    )
    write_timeout: float = setting(
        "WATCHLLM_WRITE_TIMEOUT",
        "30s",
        parts.duration,
        "for a caller that does not read its answer",
    )
    heartbeat: float = setting(
        "WATCHLLM_HEARTBEAT",
        "15s",
        parts.duration,
        "silence in a stream after which a comment line is sent",
    )
    drain_grace: float = setting(
        "WATCHLLM_DRAIN_GRACE", "60s", parts.grace, "for running requests to end after SIGTERM"
    )

    @property
    def serves_metrics(self) -> bool:
        return self.metrics or self.metrics_port is not None


@environ.config(prefix="", frozen=True)
class Logging:
    level: str = setting(
        "WATCHLLM_LOG_LEVEL", "info", parts.log_level, "debug, info, warning or error"
    )
    format: str | None = setting(
        "WATCHLLM_LOG_FORMAT",
        None,
        parts.log_format,
        "json or console; `json`, and `console` on a terminal, if unset",
    )


@environ.config(prefix="", frozen=True)
class Database:
    url: SecretUrl | None = setting(
        "DATABASE_URL",
        None,
        parts.database_url,
        "`postgresql://…`, Supabase's direct or pooled URL included; SQLite in the data directory if unset",
        secret=True,
    )
    direct_url: SecretUrl | None = setting(
        "DATABASE_DIRECT_URL",
        None,
        parts.database_url,
        "a direct or session connection for migrations, where `DATABASE_URL` is a transaction pooler",
        secret=True,
    )
    connect_timeout: float = setting(
        "WATCHLLM_DATABASE_CONNECT_TIMEOUT", "3s", parts.duration, "for a new database connection"
    )
    pool_timeout: float = setting(
        "WATCHLLM_DATABASE_POOL_TIMEOUT",
        "250ms",
        parts.duration,
        "for a free connection, on the road of a request",
    )
    statement_timeout: float = setting(
        "WATCHLLM_DATABASE_STATEMENT_TIMEOUT", "5s", parts.duration, "for one database statement"
    )


@environ.config(prefix="", frozen=True)
class Ledger:
    journal_bytes: int = setting(
        "WATCHLLM_JOURNAL_BYTES",
        "1GiB",
        parts.size,
        "usage rows that may wait on disk for the database; when full, requests get 503",
    )


@environ.config(prefix="", frozen=True)
class Redis:
    url: SecretUrl | None = setting(
        "REDIS_URL",
        None,
        parts.redis_url,
        "`redis://`, `rediss://` or `redis+cluster://` (Valkey speaks the same); cache and limits in the process if unset",
        secret=True,
    )
    connect_timeout: float = setting(
        "WATCHLLM_REDIS_CONNECT_TIMEOUT", "100ms", parts.duration, "for a new Redis connection"
    )
    timeout: float = setting(
        "WATCHLLM_REDIS_TIMEOUT", "50ms", parts.duration, "for one Redis command; later is a miss"
    )


@environ.config(prefix="", frozen=True)
class OpenAI:
    api_key: Secret | None = setting(
        "OPENAI_API_KEY", None, parts.api_key, "OpenAI's key, as its SDK reads it", secret=True
    )
    base_url: str = setting(
        "OPENAI_BASE_URL", "https://api.openai.com/v1", parts.http_url, "where OpenAI's API is"
    )


@environ.config(prefix="", frozen=True)
class Anthropic:
    api_key: Secret | None = setting(
        "ANTHROPIC_API_KEY",
        None,
        parts.api_key,
        "Anthropic's key, as its SDK reads it",
        secret=True,
    )
    base_url: str = setting(
        "ANTHROPIC_BASE_URL",
        "https://api.anthropic.com",
        parts.http_url,
        "where Anthropic's API is",
    )


@environ.config(prefix="", frozen=True)
class Groq:
    api_key: Secret | None = setting(
        "GROQ_API_KEY", None, parts.api_key, "Groq's key, as its SDK reads it", secret=True
    )
    base_url: str = setting(
        "GROQ_BASE_URL",
        "https://api.groq.com",
        parts.http_url,
        "where Groq's API is; `/openai/v1/…` is appended",
    )


@environ.config(prefix="", frozen=True)
class Upstream:
    """How long providers have."""

    connect_timeout: float = setting(
        "WATCHLLM_UPSTREAM_CONNECT_TIMEOUT",
        "5s",
        parts.duration,
        "for a provider's connection, TLS included",
    )
    first_byte_timeout: float = setting(
        "WATCHLLM_UPSTREAM_FIRST_BYTE_TIMEOUT",
        "120s",
        parts.duration,
        "for a provider's answer to begin",
    )
    stream_first_byte_timeout: float = setting(
        "WATCHLLM_UPSTREAM_STREAM_FIRST_BYTE_TIMEOUT",
        "60s",
        parts.duration,
        "the same for a streamed answer",
    )
    idle_timeout: float = setting(
        "WATCHLLM_UPSTREAM_IDLE_TIMEOUT",
        "60s",
        parts.duration,
        "between two pieces of a provider's answer",
    )
    total_timeout: float = setting(
        "WATCHLLM_UPSTREAM_TOTAL_TIMEOUT", "600s", parts.duration, "for a provider's whole answer"
    )
    max_answer_bytes: int = setting(
        "WATCHLLM_MAX_ANSWER_BYTES",
        "32MiB",
        parts.size,
        "largest answer of a provider; more is 502",
    )


@environ.config(prefix="", frozen=True)
class Cache:
    ttl_completions: float = setting(
        "WATCHLLM_CACHE_TTL_COMPLETIONS",
        "1h",
        parts.cache_ttl,
        "how long chats and completions are kept, 7d at most",
    )
    ttl_embeddings: float = setting(
        "WATCHLLM_CACHE_TTL_EMBEDDINGS",
        "24h",
        parts.cache_ttl,
        "how long embeddings are kept, 7d at most",
    )
    memory_bytes: int = setting(
        "WATCHLLM_CACHE_MEMORY_BYTES", "64MiB", parts.size, "answers held in memory per process"
    )
    disk_bytes: int = setting(
        "WATCHLLM_CACHE_DISK_BYTES", "1GiB", parts.size, "answers held in the embedded database"
    )
    entry_bytes: int = setting(
        "WATCHLLM_CACHE_ENTRY_BYTES", "1MiB", parts.size, "largest answer that is kept"
    )


@environ.config(prefix="", frozen=True)
class Keys:
    fresh: float = setting(
        "WATCHLLM_KEY_FRESH",
        "60s",
        parts.duration,
        "how long a key once read is not asked for again",
    )
    stale: float = setting(
        "WATCHLLM_KEY_STALE",
        "15m",
        parts.duration,
        "how long a key once read serves while the database is away",
    )
    auth_failures: int = setting(
        "WATCHLLM_AUTH_FAILURES_PER_MINUTE",
        "30",
        parts.count_or_none,
        "wrong keys per public address, minute and process; more get 429, and `0` counts none",
    )


@environ.config(prefix="", frozen=True)
class Billing:
    secret_key: Secret | None = setting(
        "STRIPE_SECRET_KEY",
        None,
        parts.api_key,
        "Stripe's key; billing is off while unset",
        secret=True,
    )
    webhook_secrets: tuple[Secret, ...] | None = setting(
        "STRIPE_WEBHOOK_SECRET",
        None,
        parts.webhook_secrets,
        "signing secret of the webhook, comma-separated while rotating",
        secret=True,
    )
    api_base: str | None = setting(
        "STRIPE_API_BASE", None, parts.http_url, "where Stripe's API is; its own if unset"
    )
    price_starter: str | None = setting(
        "STRIPE_PRICE_STARTER", None, parts.text, "price id of the plan `starter`"
    )
    price_pro: str | None = setting(
        "STRIPE_PRICE_PRO", None, parts.text, "price id of the plan `pro`"
    )
    grace: float = setting(
        "WATCHLLM_BILLING_GRACE",
        "7d",
        parts.duration,
        "how long a plan outlives a payment that failed",
    )

    @property
    def prices(self) -> dict[str, str]:
        """From a price's id to the plan it stands for."""
        given = {self.price_starter: "starter", self.price_pro: "pro"}
        return {price: plan for price, plan in given.items() if price is not None}


@environ.config(prefix="", frozen=True)
class Notices:
    smtp_url: SecretUrl | None = setting(
        "SMTP_URL",
        None,
        parts.smtp_url,
        "`smtp://user:password@host:587` (STARTTLS) or `smtps://`; mails go to the log if unset",
        secret=True,
    )
    mail_from: str | None = setting(
        "WATCHLLM_MAIL_FROM",
        None,
        parts.mail_address,
        "sender of mails; `no-reply` at the host of `WATCHLLM_PUBLIC_URL` if unset",
    )
    team_webhooks: tuple[Secret, ...] | None = setting(
        "WATCHLLM_TEAM_WEBHOOKS",
        None,
        parts.team_webhooks,
        "comma-separated incoming-webhook URLs of Slack, Discord or Teams",
        secret=True,
    )


@environ.config(prefix="", frozen=True)
class Telemetry:
    sentry_dsn: Secret | None = setting(
        "SENTRY_DSN", None, parts.sentry_dsn, "as Sentry's SDK reads it", secret=True
    )
    sentry_environment: str | None = setting(
        "SENTRY_ENVIRONMENT", None, parts.text, "as Sentry's SDK reads it"
    )
    datadog: bool = setting("DD_TRACE_ENABLED", "false", parts.switch, "traces to a Datadog agent")
    datadog_host: str = setting(
        "DD_AGENT_HOST", "localhost", parts.host, "where the Datadog agent is"
    )
    datadog_service: str = setting(
        "DD_SERVICE", "watchllm", parts.text, "the service's name in Datadog"
    )
    datadog_env: str | None = setting(
        "DD_ENV", None, parts.text, "the environment's name in Datadog"
    )
    dogstatsd_port: int = setting(
        "DD_DOGSTATSD_PORT", "8125", parts.port, "where the Datadog agent takes DogStatsD"
    )
    datadog_tornado: bool = setting(
        "DD_TRACE_TORNADO_ENABLED",
        "false",
        parts.switch,
        "ddtrace's own Tornado patch, which more than doubles the price of a hit",
    )
    sentry_tornado: bool = setting(
        "WATCHLLM_SENTRY_TORNADO",
        "false",
        parts.switch,
        "Sentry's own Tornado integration, which is dear on every request",
    )
    sentry_traces_rate: float = setting(
        "WATCHLLM_SENTRY_TRACES_RATE",
        "0",
        parts.share,
        "share of requests that Sentry's own integration traces",
    )
    trace_rate: float = setting(
        "WATCHLLM_TRACE_SAMPLE_RATE",
        "0.1",
        parts.share,
        "share of requests that become spans; failures always do",
    )
    otlp_endpoint: str | None = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        parts.http_url,
        "root of an OpenTelemetry collector that takes OTLP over HTTP",
    )
    otlp_headers: Secret | None = setting(
        "OTEL_EXPORTER_OTLP_HEADERS",
        None,
        parts.otlp_headers,
        "headers for it, `name=value,name=value`",
        secret=True,
    )
    access_log: float = setting(
        "WATCHLLM_ACCESS_LOG",
        "off",
        parts.share,
        "share of requests that get a log line, 0 to 1; failures always do unless it is off",
    )


SECTIONS = (
    Listening,
    Logging,
    Database,
    Ledger,
    Redis,
    OpenAI,
    Anthropic,
    Groq,
    Upstream,
    Cache,
    Keys,
    Billing,
    Notices,
    Telemetry,
)
