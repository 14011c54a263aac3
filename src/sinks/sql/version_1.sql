-- Times are instants; those of SQLite are text in UTC, 2026-11-21T10:00:00Z.
CREATE TABLE event (
    "window" text NOT NULL,
    id text NOT NULL,
    start timestamptz,
    "end" timestamptz,
    all_day boolean NOT NULL,
    subject text,
    show_as text,
    organizer text,
    organizer_name text,
    location text,
    is_cancelled boolean NOT NULL,
    sensitivity text,
    series_master_id text,
    type text,
    join_url text,
    event jsonb,
    seq bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    snapshot text,
    PRIMARY KEY ("window", id)
);

CREATE INDEX event_start ON event (start);

CREATE TABLE "window" (
    name text PRIMARY KEY NOT NULL,
    account text NOT NULL,
    mailbox text NOT NULL,
    calendar text NOT NULL,
    building text,
    floor text,
    capacity bigint,
    snapshot text
);

CREATE TABLE position (
    sink text,
    cursor text,
    snapshot text,
    schema_version bigint NOT NULL,
    updated_at timestamptz
);

INSERT INTO position (schema_version) VALUES (1);

CREATE VIEW agenda AS
SELECT
    event."window", "window".mailbox, "window".building, "window".floor,
    event.start, event."end", event.all_day, event.subject,
    coalesce(event.organizer_name, event.organizer) AS organizer,
    event.location, event.show_as, event.join_url
FROM event LEFT JOIN "window" ON "window".name = event."window"
WHERE event.start IS NOT NULL AND NOT event.is_cancelled;

-- At every instant the strongest state counts, as in the API; one that is not known is busy.
CREATE VIEW busy AS
WITH taken AS (
    SELECT
        "window", start, "end",
        CASE show_as
            WHEN 'oof' THEN 4
            WHEN 'tentative' THEN 2
            WHEN 'workingElsewhere' THEN 1
            ELSE 3
        END AS state
    FROM event
    WHERE NOT is_cancelled AND coalesce(show_as, '') <> 'free' AND start < "end"
),
edge AS (
    SELECT "window", start AS at, state, 1 AS step FROM taken
    UNION ALL
    SELECT "window", "end" AS at, state, -1 AS step FROM taken
),
steps AS (
    SELECT
        "window", at,
        sum(CASE WHEN state = 4 THEN step ELSE 0 END) AS oof,
        sum(CASE WHEN state = 3 THEN step ELSE 0 END) AS busy,
        sum(CASE WHEN state = 2 THEN step ELSE 0 END) AS tentative,
        sum(CASE WHEN state = 1 THEN step ELSE 0 END) AS elsewhere
    FROM edge
    GROUP BY "window", at
),
open AS (
    SELECT
        "window", at,
        CASE
            WHEN sum(oof) OVER past > 0 THEN 'oof'
            WHEN sum(busy) OVER past > 0 THEN 'busy'
            WHEN sum(tentative) OVER past > 0 THEN 'tentative'
            WHEN sum(elsewhere) OVER past > 0 THEN 'workingElsewhere'
            ELSE 'free'
        END AS show_as
    FROM steps
    WINDOW past AS (PARTITION BY "window" ORDER BY at)
),
turn AS (
    SELECT
        "window", at, show_as,
        lag(show_as, 1, 'free') OVER (PARTITION BY "window" ORDER BY at) AS previous
    FROM open
),
period AS (
    SELECT
        "window", at AS start,
        lead(at) OVER (PARTITION BY "window" ORDER BY at) AS "end",
        show_as
    FROM turn
    WHERE show_as <> previous
)
SELECT "window", start, "end", show_as FROM period WHERE show_as <> 'free';
