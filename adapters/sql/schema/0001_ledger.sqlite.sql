-- Times are epoch milliseconds, money is whole picodollars (2^63 of them are nine million dollars).

CREATE TABLE projects (
    id           TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    plan         TEXT    NOT NULL,
    cache_epoch  INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    budget       INTEGER NOT NULL DEFAULT 0
) STRICT;

-- `models` and `endpoints` are JSON arrays of all that a key may ask for; an empty one is no restriction.
CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    project       TEXT    NOT NULL REFERENCES projects (id),
    kind          TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    hint          TEXT    NOT NULL,
    digest        BLOB    NOT NULL UNIQUE,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    revoked_at    INTEGER,
    models        TEXT    NOT NULL DEFAULT '[]',
    endpoints     TEXT    NOT NULL DEFAULT '[]',
    last_used_at  INTEGER
) STRICT;

CREATE INDEX api_keys_project ON api_keys (project, created_at);

-- One number that grows with every change of what a key grants, whoever makes the change.
CREATE TABLE grant_changes (
    number  INTEGER NOT NULL
) STRICT;

INSERT INTO grant_changes (number) VALUES (0);

CREATE TRIGGER projects_added AFTER INSERT ON projects
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

CREATE TRIGGER projects_changed AFTER UPDATE ON projects
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

CREATE TRIGGER projects_removed AFTER DELETE ON projects
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

CREATE TRIGGER api_keys_added AFTER INSERT ON api_keys
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

-- Every column but `last_used_at`, which grants nothing and moves on all the time.
CREATE TRIGGER api_keys_changed AFTER UPDATE OF
    id, project, kind, name, hint, digest, created_at, expires_at, revoked_at, models, endpoints ON api_keys
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

CREATE TRIGGER api_keys_removed AFTER DELETE ON api_keys
BEGIN
    UPDATE grant_changes SET number = number + 1;
END;

-- The ledger. It refers to no other table: what was used stays written, whatever becomes of the project. Reports read
-- its sums or one row by id, so it has no other index: one more would cost every row a fifth of what it takes.
CREATE TABLE usage_log (
    id                  TEXT    NOT NULL PRIMARY KEY,
    project             TEXT    NOT NULL,
    api_key             TEXT    NOT NULL,
    kind                TEXT    NOT NULL,
    at                  INTEGER NOT NULL,
    endpoint            TEXT    NOT NULL,
    model_asked         TEXT    NOT NULL,
    model_answered      TEXT    NOT NULL,
    provider            TEXT    NOT NULL,
    streamed            INTEGER NOT NULL,
    outcome             TEXT    NOT NULL,
    status              INTEGER NOT NULL,
    input_tokens        INTEGER NOT NULL,
    cache_read_tokens   INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    cache_write_1h_tokens  INTEGER NOT NULL,
    audio_input_tokens  INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,
    estimated           INTEGER NOT NULL,
    cost                INTEGER,
    avoided             INTEGER,
    price_version       TEXT    NOT NULL,
    first_byte_ms       REAL    NOT NULL,
    total_ms            REAL    NOT NULL,
    cache_reason        TEXT    NOT NULL
) STRICT;

-- Sums of the ledger, kept by the transaction that appends. `unpriced` counts the rows whose cost, or saving, is unknown.
-- Dollars and the rest are kept apart, since an integer here ends at 2^63.
CREATE TABLE usage_hourly (
    project            TEXT    NOT NULL,
    start              INTEGER NOT NULL,
    provider           TEXT    NOT NULL,
    model              TEXT    NOT NULL,
    requests           INTEGER NOT NULL,
    hits               INTEGER NOT NULL,
    unpriced           INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cost_dollars       INTEGER NOT NULL,
    cost_rest          INTEGER NOT NULL,
    avoided_dollars    INTEGER NOT NULL,
    avoided_rest       INTEGER NOT NULL,
    PRIMARY KEY (project, start, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_daily (
    project            TEXT    NOT NULL,
    start              INTEGER NOT NULL,
    provider           TEXT    NOT NULL,
    model              TEXT    NOT NULL,
    requests           INTEGER NOT NULL,
    hits               INTEGER NOT NULL,
    unpriced           INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cost_dollars       INTEGER NOT NULL,
    cost_rest          INTEGER NOT NULL,
    avoided_dollars    INTEGER NOT NULL,
    avoided_rest       INTEGER NOT NULL,
    PRIMARY KEY (project, start, provider, model)
) STRICT, WITHOUT ROWID;
