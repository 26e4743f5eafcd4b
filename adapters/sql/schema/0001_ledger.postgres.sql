-- Times are epoch milliseconds, money is whole picodollars.

CREATE TABLE projects (
    id           text   NOT NULL PRIMARY KEY,
    name         text   NOT NULL UNIQUE,
    plan         text   NOT NULL,
    cache_epoch  bigint NOT NULL,
    created_at   bigint NOT NULL
);

CREATE TABLE api_keys (
    id          text   NOT NULL PRIMARY KEY,
    project     text   NOT NULL REFERENCES projects (id),
    kind        text   NOT NULL,
    name        text   NOT NULL,
    hint        text   NOT NULL,
    digest      bytea  NOT NULL UNIQUE,
    created_at  bigint NOT NULL,
    expires_at  bigint,
    revoked_at  bigint
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

CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_grant_change();

-- The ledger. It refers to no other table: what was used stays written, whatever becomes of the project.
CREATE TABLE usage_log (
    id                  text    NOT NULL PRIMARY KEY,
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
);

CREATE INDEX usage_log_project ON usage_log (project, at);
