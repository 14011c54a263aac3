#!/bin/sh
# Keeps a copy of calmirror's mirror in SQLite, with nothing but curl and sqlite3.
#
#   consume.sh COPY.SQLITE [SOCKET]
#
# The feed from its beginning is the mirror, so this needs no snapshot: it reads the feed from
# wherever it was, or from the beginning. The lines of an answer and the cursor behind them are
# stored in one transaction, after the whole answer has arrived. 410 means that the feed can no
# longer tell what was missed: everything is forgotten and read again.
#
#   CALMIRROR_ONCE=1   end as soon as nothing is left to read, with 1 where the daemon does not
#                      answer (ONCE=1 is the same)
set -eu
db=$1
socket=${2:-/run/calmirror/api.sock}
answer=$(mktemp -d)
trap 'rm -rf "$answer"' EXIT
once=${CALMIRROR_ONCE:-${ONCE:-}}
wait=30s
[ -z "$once" ] || wait=0s

# Another reader may lock the copy briefly.
sql() { sqlite3 -batch -bail -cmd '.timeout 30000' "$db" "$@"; }

sql 'CREATE TABLE IF NOT EXISTS event (window TEXT, id TEXT, event TEXT, PRIMARY KEY (window, id)) WITHOUT ROWID;
     CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT);
     INSERT OR IGNORE INTO place VALUES (1, NULL);'

while :; do
    cursor=$(sql 'SELECT cursor FROM place')
    status=$(curl --silent --show-error --unix-socket "$socket" --max-time 60 \
        --output "$answer/lines" --dump-header "$answer/head" --write-out '%{http_code}' \
        "http://localhost/v1/changes?limit=1000&wait=$wait${cursor:+&after=$cursor}" \
        2>"$answer/error") || status=none
    case $status in
    200)
        next=$(tr -d '\r' <"$answer/head" | sed -n 's/^x-calmirror-cursor: //Ip')
        # Lines are taken whole: no JSON contains the separator. Of what came of an event, the
        # last line counts.
        sql <<SQL
CREATE TEMP TABLE line (text TEXT);
.mode ascii
.separator "\037" "\n"
.import '$answer/lines' line
BEGIN IMMEDIATE;
CREATE TEMP TABLE last AS
    SELECT text ->> 'window' AS window, text ->> 'id' AS id, text ->> 'change' AS change,
           text -> 'event' AS event, max(rowid)
    FROM line GROUP BY 1, 2;
DELETE FROM event WHERE (window, id) IN (SELECT window, id FROM last);
INSERT INTO event SELECT window, id, event FROM last WHERE change <> 'removed';
UPDATE place SET cursor = '$next';
COMMIT;
SQL
        if [ -s "$answer/lines" ]; then
            echo "$(wc -l <"$answer/lines") changes"
        elif [ -n "$once" ]; then
            exit 0
        fi
        ;;
    410)
        echo 'too long away, or another store: everything is read again'
        sql 'BEGIN IMMEDIATE; DELETE FROM event; UPDATE place SET cursor = NULL; COMMIT;'
        ;;
    4*)
        echo "refused with $status: $(cat "$answer/lines")" >&2
        exit 1
        ;;
    *)
        # Either curl says why there is no answer, or the daemon why it has none.
        reason=$(cat "$answer/error")
        [ "$status" = none ] || reason="$status: $(cat "$answer/lines")"
        if [ -n "$once" ]; then
            echo "no answer from $socket: $reason" >&2
            exit 1
        fi
        echo "no answer from $socket: $reason; again in 2 s" >&2
        sleep 2
        ;;
    esac
done
