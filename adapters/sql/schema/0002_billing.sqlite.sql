-- What is paid for, and who is told of it.

-- One row. Whoever changes what is paid for takes it first, and so waits for everybody else who does.
CREATE TABLE billing_turn (
    id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    arrivals  INTEGER NOT NULL
) STRICT;

INSERT INTO billing_turn (id, arrivals) VALUES (1, 0);

-- Every event, whole. `arrival` numbers them as they came; `facts` is what was understood, as JSON.
CREATE TABLE billing_events (
    id            TEXT    NOT NULL PRIMARY KEY,
    arrival       INTEGER NOT NULL UNIQUE,
    type          TEXT    NOT NULL,
    created       INTEGER NOT NULL,
    subscription  TEXT    NOT NULL,
    project       TEXT    NOT NULL,
    customer      TEXT    NOT NULL,
    received_at   INTEGER NOT NULL,
    facts         TEXT    NOT NULL,
    body          BLOB    NOT NULL
) STRICT;

CREATE INDEX billing_events_subscription ON billing_events (subscription, arrival);
CREATE INDEX billing_events_project ON billing_events (project, arrival);

-- What the events of each come to. They refer to no project: events may tell of one that is not here.
CREATE TABLE subscriptions (
    id              TEXT    NOT NULL PRIMARY KEY,
    project         TEXT    NOT NULL,
    customer        TEXT    NOT NULL,
    email           TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    plan            TEXT    NOT NULL,
    period_end      INTEGER,
    cancel_at       INTEGER,
    awaits_payment  INTEGER NOT NULL,
    failing_since   INTEGER
) STRICT;

CREATE INDEX subscriptions_project ON subscriptions (project, id);
CREATE INDEX subscriptions_late ON subscriptions (id) WHERE status = 'past_due';

CREATE TABLE billing_accounts (
    project   TEXT NOT NULL PRIMARY KEY,
    customer  TEXT NOT NULL,
    email     TEXT NOT NULL,
    plan      TEXT NOT NULL
) STRICT;

-- One notice to one recipient. It waits until it is sent or given up; whoever takes it moves `due_at` on.
CREATE TABLE notices (
    notice     TEXT    NOT NULL,
    channel    TEXT    NOT NULL,
    recipient  TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    facts      TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    queued_at  INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    sent_at    INTEGER,
    dead_at    INTEGER,
    fault      TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (notice, channel, recipient)
) STRICT;

-- Nobody is told by mail again because an address became known later.
CREATE UNIQUE INDEX notices_mail ON notices (notice) WHERE channel = 'mail';
CREATE INDEX notices_due ON notices (due_at) WHERE sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX notices_unsent ON notices (subject) WHERE sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX notices_queued ON notices (queued_at);

-- `channel` is the URL, sealed: whoever has it can write there.
CREATE TABLE contacts (
    project  TEXT    NOT NULL PRIMARY KEY REFERENCES projects (id),
    email    TEXT    NOT NULL,
    channel  BLOB,
    reports  INTEGER NOT NULL
) STRICT;

CREATE TABLE chores (
    name    TEXT    NOT NULL PRIMARY KEY,
    due_at  INTEGER NOT NULL
) STRICT;

-- For the sums of all projects since a day.
CREATE INDEX usage_daily_start ON usage_daily (start);
