-- What is paid for, who is told of it, and who may read any of this.

-- Held until all of it is done, in the order in which statements take these tables: whoever came crosswise would wait for
-- us while we wait for him.
LOCK TABLE api_keys, projects, grant_changes, usage_log, usage_hourly, usage_daily IN ACCESS EXCLUSIVE MODE;

-- One row. Whoever changes what is paid for takes it first, and so waits for everybody else who does.
CREATE TABLE billing_turn (
    id        integer NOT NULL PRIMARY KEY CHECK (id = 1),
    arrivals  bigint  NOT NULL
);

INSERT INTO billing_turn (id, arrivals) VALUES (1, 0);

-- Every event, whole. `arrival` numbers them as they came; `facts` is what was understood, as JSON.
CREATE TABLE billing_events (
    id            text   COLLATE "C" NOT NULL PRIMARY KEY,
    arrival       bigint NOT NULL UNIQUE,
    type          text   NOT NULL,
    created       bigint NOT NULL,
    subscription  text   COLLATE "C" NOT NULL,
    project       text   COLLATE "C" NOT NULL,
    customer      text   NOT NULL,
    received_at   bigint NOT NULL,
    facts         text   NOT NULL,
    body          bytea  NOT NULL
);

CREATE INDEX billing_events_subscription ON billing_events (subscription, arrival);
CREATE INDEX billing_events_project ON billing_events (project, arrival);

-- What the events of each come to. They refer to no project: events may tell of one that is not here.
CREATE TABLE subscriptions (
    id              text    COLLATE "C" NOT NULL PRIMARY KEY,
    project         text    COLLATE "C" NOT NULL,
    customer        text    NOT NULL,
    email           text    NOT NULL,
    status          text    NOT NULL,
    plan            text    NOT NULL,
    period_end      bigint,
    cancel_at       bigint,
    awaits_payment  boolean NOT NULL,
    failing_since   bigint
);

CREATE INDEX subscriptions_project ON subscriptions (project, id);
CREATE INDEX subscriptions_late ON subscriptions (id) WHERE status = 'past_due';

CREATE TABLE billing_accounts (
    project   text NOT NULL PRIMARY KEY,
    customer  text NOT NULL,
    email     text NOT NULL,
    plan      text NOT NULL
);

-- One notice to one recipient. It waits until it is sent or given up; whoever takes it moves `due_at` on.
CREATE TABLE notices (
    notice     text    COLLATE "C" NOT NULL,
    channel    text    COLLATE "C" NOT NULL,
    recipient  text    COLLATE "C" NOT NULL,
    kind       text    NOT NULL,
    project    text    NOT NULL,
    facts      text    NOT NULL,
    subject    text    NOT NULL,
    queued_at  bigint  NOT NULL,
    due_at     bigint  NOT NULL,
    attempts   integer NOT NULL DEFAULT 0,
    sent_at    bigint,
    dead_at    bigint,
    fault      text    NOT NULL DEFAULT '',
    PRIMARY KEY (notice, channel, recipient)
);

-- Nobody is told by mail again because an address became known later.
CREATE UNIQUE INDEX notices_mail ON notices (notice) WHERE channel = 'mail';
CREATE INDEX notices_due ON notices (due_at) WHERE sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX notices_unsent ON notices (subject) WHERE sent_at IS NULL AND dead_at IS NULL;
CREATE INDEX notices_queued ON notices (queued_at);

-- `channel` is the URL, sealed: whoever has it can write there.
CREATE TABLE contacts (
    project  text    NOT NULL PRIMARY KEY REFERENCES projects (id),
    email    text    NOT NULL,
    channel  bytea,
    reports  boolean NOT NULL
);

CREATE TABLE chores (
    name    text   NOT NULL PRIMARY KEY,
    due_at  bigint NOT NULL
);

-- For the sums of all projects since a day.
CREATE INDEX usage_daily_start ON usage_daily (start);

-- Nobody's search_path decides what these mean.
ALTER FUNCTION count_grant_change() SET search_path FROM CURRENT;
ALTER FUNCTION add_usage_partitions(integer) SET search_path FROM CURRENT;
ALTER FUNCTION first_usage_id(timestamp) SET search_path FROM CURRENT;

-- Who may do what. Nothing is left to PUBLIC, nor to the roles under which Supabase lets browsers in. `watchllm_service`,
-- where it exists, may read and write all rows and change no table. Row level security is on everywhere, and whoever was
-- granted a table by name sees its rows. `watchllm migrate` calls it each time, for new tables and new roles; where nothing
-- is new it locks no table.
CREATE FUNCTION secure_tables() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    here      text := current_schema();
    stranger  text;
    one       record;
BEGIN
    FOR stranger IN
        SELECT 'PUBLIC'
        UNION ALL
        SELECT quote_ident(rolname) FROM pg_roles WHERE rolname IN ('anon', 'authenticated')
    LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM %s', here, stranger);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %s', here, stranger);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA %I FROM %s', here, stranger);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM %s', here, stranger);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'watchllm_service') THEN
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM watchllm_service', here);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO watchllm_service', here);
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO watchllm_service', here
        );
        EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO watchllm_service', here);
        REVOKE INSERT, UPDATE, DELETE ON migrations FROM watchllm_service;
    END IF;
    FOR one IN
        SELECT it.relname AS name,
               it.relrowsecurity AS guarded,
               (SELECT string_agg(DISTINCT quote_ident(rolname), ', ')
                  FROM aclexplode(it.relacl)
                  JOIN pg_roles ON pg_roles.oid = grantee
                 WHERE grantee <> it.relowner) AS granted,
               (SELECT string_agg(DISTINCT quote_ident(rolname), ', ')
                  FROM pg_policy
                  JOIN pg_roles ON pg_roles.oid = ANY (polroles)
                 WHERE polrelid = it.oid AND polname = 'watchllm_rows') AS admitted
          FROM pg_class AS it
         WHERE it.relnamespace = here::regnamespace AND it.relkind IN ('r', 'p')
         -- In the order in which statements take them, as above; partitions after all that have a name here.
         ORDER BY array_position(
                      ARRAY['billing_turn', 'contacts', 'api_keys', 'projects', 'grant_changes',
                            'usage_log', 'usage_hourly', 'usage_daily'],
                      it.relname::text
                  ), it.relname
    LOOP
        IF NOT one.guarded THEN
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', one.name);
        END IF;
        IF one.granted IS DISTINCT FROM one.admitted THEN
            EXECUTE format('DROP POLICY IF EXISTS watchllm_rows ON %I', one.name);
            IF one.granted IS NOT NULL THEN
                EXECUTE format(
                    'CREATE POLICY watchllm_rows ON %I TO %s USING (true) WITH CHECK (true)',
                    one.name, one.granted
                );
            END IF;
        END IF;
    END LOOP;
END
$$;
