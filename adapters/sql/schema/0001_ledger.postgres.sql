-- Times are epoch milliseconds, money is whole picodollars.

CREATE TABLE projects (
    id           text   NOT NULL PRIMARY KEY,
    name         text   NOT NULL UNIQUE,
    plan         text   NOT NULL,
    cache_epoch  bigint NOT NULL,
    created_at   bigint NOT NULL,
    budget       bigint NOT NULL DEFAULT 0
);

-- `models` and `endpoints` are JSON arrays of all that a key may ask for; an empty one is no restriction.
CREATE TABLE api_keys (
    id            text   NOT NULL PRIMARY KEY,
    project       text   NOT NULL REFERENCES projects (id),
    kind          text   NOT NULL,
    name          text   NOT NULL,
    hint          text   NOT NULL,
    digest        bytea  NOT NULL UNIQUE,
    created_at    bigint NOT NULL,
    expires_at    bigint,
    revoked_at    bigint,
    models        text   NOT NULL DEFAULT '[]',
    endpoints     text   NOT NULL DEFAULT '[]',
    last_used_at  bigint
);

CREATE INDEX api_keys_project ON api_keys (project, created_at);

-- One number that grows with every change of what a key grants, whoever makes the change.
CREATE TABLE grant_changes (
    number  bigint NOT NULL
);

INSERT INTO grant_changes (number) VALUES (0);

-- The schema is named by the trigger, since a change by hand comes with another search_path.
CREATE FUNCTION count_grant_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %I.grant_changes SET number = number + 1', TG_TABLE_SCHEMA);
    RETURN NULL;
END
$$;

CREATE TRIGGER projects_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON projects
    FOR EACH STATEMENT EXECUTE FUNCTION count_grant_change();

-- Every column but `last_used_at`, which grants nothing and moves on all the time.
CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OF
    id, project, kind, name, hint, digest, created_at, expires_at, revoked_at, models, endpoints
    OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_grant_change();

-- The ledger. It refers to no other table: what was used stays written, whatever becomes of the project.
-- Ids begin with their millisecond (RFC 9562, 5.7), so a month of the ledger is a range of ids, byte by byte.
CREATE TABLE usage_log (
    id                  text    COLLATE "C" NOT NULL PRIMARY KEY,
    project             text    NOT NULL,
    api_key             text    NOT NULL,
    kind                text    NOT NULL,
    at                  bigint  NOT NULL,
    endpoint            text    NOT NULL,
    model_asked         text    NOT NULL,
    model_answered      text    NOT NULL,
    provider            text    NOT NULL,
    streamed            boolean NOT NULL,
    outcome             text    NOT NULL,
    status              integer NOT NULL,
    input_tokens        bigint  NOT NULL,
    cache_read_tokens   bigint  NOT NULL,
    cache_write_tokens  bigint  NOT NULL,
    cache_write_1h_tokens  bigint NOT NULL,
    audio_input_tokens  bigint  NOT NULL,
    output_tokens       bigint  NOT NULL,
    audio_output_tokens bigint  NOT NULL,
    reasoning_tokens    bigint  NOT NULL,
    estimated           boolean NOT NULL,
    cost                numeric(30, 0),
    avoided             numeric(30, 0),
    price_version       text    NOT NULL,
    first_byte_ms       double precision NOT NULL,
    total_ms            double precision NOT NULL,
    cache_reason        text    NOT NULL
) PARTITION BY RANGE (id);

-- For months that have no partition of their own yet: nothing is ever refused for want of one.
CREATE TABLE usage_log_rest PARTITION OF usage_log DEFAULT;

CREATE INDEX usage_log_project ON usage_log (project, at);

-- Sums of the ledger, kept by the statement that appends to it. `unpriced` counts the rows whose cost, or saving, is
-- unknown. Dollars and the rest apart are for queries that SQLite, whose sums end at 2^63, is to understand as well.
CREATE TABLE usage_hourly (
    project            text   COLLATE "C" NOT NULL,
    start              bigint NOT NULL,
    provider           text   COLLATE "C" NOT NULL,
    model              text   COLLATE "C" NOT NULL,
    requests           bigint NOT NULL,
    hits               bigint NOT NULL,
    unpriced           bigint NOT NULL,
    prompt_tokens      bigint NOT NULL,
    completion_tokens  bigint NOT NULL,
    cost               numeric(38, 0) NOT NULL,
    avoided            numeric(38, 0) NOT NULL,
    cost_dollars       numeric GENERATED ALWAYS AS (div(cost, 1000000000000)) STORED,
    cost_rest          numeric GENERATED ALWAYS AS (mod(cost, 1000000000000)) STORED,
    avoided_dollars    numeric GENERATED ALWAYS AS (div(avoided, 1000000000000)) STORED,
    avoided_rest       numeric GENERATED ALWAYS AS (mod(avoided, 1000000000000)) STORED,
    PRIMARY KEY (project, start, provider, model)
);

CREATE TABLE usage_daily (LIKE usage_hourly INCLUDING ALL);

-- A partition for each month from this one on, `ahead` months far. Rows that came before their month's partition did
-- move into it; who appends meanwhile waits. `watchllm migrate` calls it each time.
CREATE FUNCTION add_usage_partitions(ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    this_month  timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month       timestamp := this_month;
    newest      text;
    name        text;
    low         text;
    high        text;
BEGIN
    SELECT max(child.relname) INTO newest
      FROM pg_inherits
      JOIN pg_class AS child ON child.oid = inhrelid
     WHERE inhparent = 'usage_log'::regclass AND child.relname ~ '^usage_log_[0-9]{6}$';
    IF newest IS NOT NULL THEN
        month := to_timestamp(right(newest, 6), 'YYYYMM')::timestamp + interval '1 month';
    END IF;
    IF month > this_month + make_interval(months => ahead) THEN
        RETURN;
    END IF;
    -- The whole of it: who has chosen the default partition and waits for that alone is refused once its month is there.
    LOCK TABLE usage_log IN SHARE ROW EXCLUSIVE MODE;
    WHILE month <= this_month + make_interval(months => ahead) LOOP
        name := 'usage_log_' || to_char(month, 'YYYYMM');
        low := first_usage_id(month);
        high := first_usage_id(month + interval '1 month');
        EXECUTE format('CREATE TABLE %I (LIKE usage_log INCLUDING ALL)', name);
        EXECUTE format(
            'WITH moved AS (DELETE FROM usage_log_rest WHERE id >= %L AND id < %L RETURNING *)
             INSERT INTO %I SELECT * FROM moved',
            low, high, name
        );
        EXECUTE format(
            'ALTER TABLE usage_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, low, high
        );
        month := month + interval '1 month';
    END LOOP;
END
$$;

-- No id of this UTC month is smaller: the first 48 bits of an id are its millisecond.
CREATE FUNCTION first_usage_id(month timestamp) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT left(digits, 8) || '-' || right(digits, 4)
      FROM (SELECT lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0') AS digits) AS it
$$;
