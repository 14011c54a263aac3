#!/bin/sh
# Keeps a copy of calmirror's mirror in SQLite, with nothing but curl and sqlite3.
#
#   consume.sh COPY.SQLITE [SOCKET [FILTER]]
#
# The feed from its beginning contains the whole mirror, so this needs no snapshot: it reads the
# feed from the stored cursor, or from the beginning. The lines of a response and its cursor are
# stored in one transaction, after the complete response has arrived. 410 means that the feed no
# longer has all changes since the cursor: the copy is deleted and read again. With a filter, such
# as 'cancelled=false&response=!declined', the copy has the events that match.
#
#   CALMIRROR_ONCE=1   exit as soon as there is nothing left to read, with 1 if the daemon does
#                      not respond (ONCE=1 does the same)
set -eu
db=$1
socket=${2:-/run/calmirror/api.sock}
filter=${3:+&$3}
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
        "http://localhost/v1/changes?limit=1000&wait=$wait$filter${cursor:+&after=$cursor}" \
        2>"$answer/error") || status=none
    case $status in
    200)
        next=$(tr -d '\r' <"$answer/head" | sed -n 's/^x-calmirror-cursor: //Ip')
        # Each line is imported as one column, because no JSON contains the separator. If an event
        # has several lines, the last one counts.
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
        echo 'cursor expired, or another store: reading everything again'
        sql 'BEGIN IMMEDIATE; DELETE FROM event; UPDATE place SET cursor = NULL; COMMIT;'
        ;;
    4*)
        echo "refused with $status: $(cat "$answer/lines")" >&2
        exit 1
        ;;
    *)
        # The reason is curl's error message, or the daemon's error response.
        reason=$(cat "$answer/error")
        [ "$status" = none ] || reason="$status: $(cat "$answer/lines")"
        if [ -n "$once" ]; then
            echo "no response from $socket: $reason" >&2
            exit 1
        fi
        echo "no response from $socket: $reason; retrying in 2 s" >&2
        sleep 2
        ;;
    esac
done
