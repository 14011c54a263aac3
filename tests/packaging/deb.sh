#!/usr/bin/env bash
# Tests the Debian package in real Debians: installed, serving, upgraded, removed, purged.
#
#   tests/packaging/deb.sh [SUITE...]         default: bookworm and trixie
#   CALMIRROR_PROFILE                         cargo's profile (here: dev)
. "$(dirname "$0")/kit.sh"

need_root
need nsenter util-linux
need curl curl
need dpkg-deb dpkg
if ! command -v cargo-deb >/dev/null 2>&1; then
    cargo install --locked --quiet --debug cargo-deb >"$SCRATCH/log" 2>&1 ||
        skip "cargo-deb cannot be installed: $(tail -n 1 "$SCRATCH/log")"
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
fi
export CALMIRROR_PROFILE=${CALMIRROR_PROFILE:-dev}
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)

# Each build removes the files of the previous one.
old=$(packaging/debian/build 1 --fast) && cp "$old" "$SCRATCH/" && old=$SCRATCH/$(basename "$old")
new=$(cargo deb --quiet --locked --no-build --profile "$CALMIRROR_PROFILE" --deb-revision 2 --fast)
dpkg-deb -x "$old" "$SCRATCH/package"
program=$SCRATCH/package/usr/bin/calmirror
proved "built: $(basename "$old"), $(($(stat -c %s "$old") / 1000000)) MB"
for file in usr/lib/systemd/system/calmirror.service etc/calmirror/calmirror.toml \
    usr/lib/sysusers.d/calmirror.conf usr/share/man/man1/calmirror.1.gz \
    usr/share/man/man1/calmirror-status.1.gz usr/share/bash-completion/completions/calmirror \
    usr/share/fish/vendor_completions.d/calmirror.fish \
    usr/share/zsh/vendor-completions/_calmirror usr/share/doc/calmirror/copyright \
    usr/share/doc/calmirror/docs/consume/consume.py usr/share/doc/calmirror/docs/monitoring/calmirror.rules.yml; do
    [ -s "$SCRATCH/package/$file" ] || fail "the package holds $file"
done
bash -n "$SCRATCH/package/usr/share/bash-completion/completions/calmirror" || fail "completions are bash"
if command -v mandoc >/dev/null 2>&1; then
    # Ignores style: long lines of examples, and the missing date.
    said=$(mandoc -T lint -W warning <(zcat "$SCRATCH/package/usr/share/man/man1/calmirror.1.gz") 2>&1 |
        grep -vE 'missing date|cannot parse date|STYLE|text line longer' || true)
    [ -z "$said" ] || fail "the manual page: $said"
fi
proved "holds unit, configuration, manual pages, completions, documents, copyright"

active() { [ "$(property calmirror ActiveState)" = active ]; }
healthy() { run calmirror status; }

for suite in "${suites[@]}"; do
    printf '\n-- %s\n' "$suite"
    tree "$suite"
    graph_unit >"$tree/etc/systemd/system/graph.service"
    cp "$old" "$new" "$tree/root/"
    find "$tree" -xdev -not -path "$tree/var/*" -not -path "$tree/run/*" -not -path "$tree/tmp/*" \
        -printf '/%P\n' | sort >"$SCRATCH/before"
    boot
    dpkg() { run env DEBIAN_FRONTEND=noninteractive dpkg "$@" >"$SCRATCH/dpkg.log" 2>&1; }

    dpkg -i "/root/$(basename "$old")" || { tail "$SCRATCH/dpkg.log"; fail "$suite: installs"; }
    eventually 20 active || fail "$suite: the service is started"
    [ "$(run systemctl is-enabled calmirror)" = enabled ] || fail "$suite: enabled"
    run calmirror health >/dev/null || fail "$suite: health"
    proved "$suite: installed, started and enabled as it comes: $(property calmirror StatusText)"
    uid=$(run sed -n 's/^calmirror:[^:]*:\([0-9]*\):.*/\1/p' /etc/passwd)
    [ "$(property calmirror UID)" = "$uid" ] || fail "$suite: runs as the package's user"
    proved "$suite: runs as the user calmirror ($uid), type $(property calmirror Type)"

    # The administrator's next steps.
    run install -m 755 /usr/bin/calmirror /usr/local/bin/graph
    sed -i 's|/usr/bin/calmirror|/usr/local/bin/graph|' "$tree/etc/systemd/system/graph.service"
    run systemctl daemon-reload
    run systemctl start graph
    (umask 077 && echo "any secret is accepted" >"$tree/etc/calmirror/graph.secret")
    run chown calmirror: /etc/calmirror/graph.secret
    configuration /etc/calmirror/graph.secret >"$tree/etc/calmirror/calmirror.toml"
    # Another Graph than Microsoft's needs a restart, not a reload.
    run systemctl restart calmirror || fail "$suite: systemctl restart"
    eventually 30 healthy || fail "$suite: every window settles"
    pid=$(property calmirror MainPID)
    configuration /etc/calmirror/graph.secret 'interval = "2s"' >"$tree/etc/calmirror/calmirror.toml"
    run systemctl reload calmirror || { run journalctl -u calmirror -o cat -n 5; fail "$suite: systemctl reload"; }
    eventually 30 healthy || fail "$suite: every window settles"
    [ "$(run calmirror status --json | grep -o '"mailbox":' | wc -l)" = 5 ] || fail "$suite: the windows"
    [ "$(property calmirror MainPID)" = "$pid" ] || fail "$suite: reload keeps the process"
    proved "$suite: configured and reloaded: $(run calmirror status | sed -n 2p)"

    # As in docs/operations.md: a member of the group, and a secret that only root can read.
    run useradd --create-home alice
    if run test -x /usr/sbin/adduser; then
        run adduser --quiet alice calmirror >/dev/null
    else
        run usermod --append --groups calmirror alice
    fi
    run su alice -c 'calmirror status' >/dev/null || fail "$suite: a member of the group is served"
    if run su nobody -s /bin/sh -c 'calmirror status' >/dev/null 2>&1; then fail "$suite: others are not"; fi
    proved "$suite: a member of the group calmirror is served, others are not"
    run chown root: /etc/calmirror/graph.secret
    mkdir -p "$tree/etc/systemd/system/calmirror.service.d"
    printf '[Service]\nLoadCredential=graph.secret:/etc/calmirror/graph.secret\n' \
        >"$tree/etc/systemd/system/calmirror.service.d/override.conf" # systemctl edit
    configuration /run/credentials/calmirror.service/graph.secret 'interval = "2s"' \
        >"$tree/etc/calmirror/calmirror.toml"
    before=$(enumerations)
    run systemctl daemon-reload
    run systemctl restart calmirror || fail "$suite: systemctl restart"
    eventually 30 healthy || { run journalctl -u calmirror -o cat -n 5; fail "$suite: LoadCredential"; }
    [ "$(enumerations)" = "$before" ] || fail "$suite: the restart enumerated again"
    proved "$suite: LoadCredential hands over a secret that root keeps (0600 of root)"
    pid=$(property calmirror MainPID)

    before=$(enumerations)
    dpkg -i "/root/$(basename "$new")" || { tail "$SCRATCH/dpkg.log"; fail "$suite: upgrades"; }
    eventually 20 active || fail "$suite: active after the upgrade"
    [ "$(property calmirror MainPID)" != "$pid" ] || fail "$suite: the upgrade restarts"
    eventually 30 healthy || fail "$suite: healthy after the upgrade"
    sleep 1.5
    [ "$(enumerations)" = "$before" ] || fail "$suite: the upgrade enumerated again"
    proved "$suite: upgraded, restarted with its configuration and its mirror: no new enumeration ($before)"

    dpkg -r calmirror || { tail "$SCRATCH/dpkg.log"; fail "$suite: removes"; }
    run test ! -e /usr/bin/calmirror || fail "$suite: the program is gone"
    if active; then fail "$suite: stopped when removed"; fi
    run test -s /etc/calmirror/calmirror.toml || fail "$suite: removing keeps the configuration"
    run test -d /var/lib/private/calmirror || fail "$suite: removing keeps the store"
    proved "$suite: removed; configuration and store stay"

    # The secret belongs to the administrator, not to the package.
    run rm /etc/calmirror/graph.secret /usr/local/bin/graph \
        /etc/systemd/system/calmirror.service.d/override.conf
    run rmdir --ignore-fail-on-non-empty /etc/systemd/system/calmirror.service.d
    run userdel --remove alice 2>/dev/null
    dpkg -P calmirror || { tail "$SCRATCH/dpkg.log"; fail "$suite: purges"; }
    if run grep -q calmirror /etc/passwd /etc/group; then fail "$suite: the user is gone"; fi
    left=$(run find / -xdev -iname '*calmirror*' -not -path '/root/*' -not -path '/proc/*' -not -path '/var/log/*')
    [ -z "$left" ] || fail "$suite: purged, but there is $left"
    find "$tree" -xdev -not -path "$tree/var/*" -not -path "$tree/run/*" -not -path "$tree/tmp/*" \
        -printf '/%P\n' | sort >"$SCRATCH/after"
    left=$(comm -13 "$SCRATCH/before" "$SCRATCH/after" | grep -vE '^/(etc/(\.pwd\.lock|\.updated|machine-id|passwd-|group-|shadow-|gshadow-|subuid-?|subgid-?|resolv.conf)|sys|proc|dev)' || true)
    [ -z "$left" ] || fail "$suite: purged, but there is $left"
    proved "$suite: purged clean"
    halt
done
