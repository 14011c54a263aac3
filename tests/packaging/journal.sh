#!/usr/bin/env bash
# The entries that systemd's journal receives: in its own protocol, with the fields that people
# search for, and without confidential data. The journal is a socket of this test in its own mount
# namespace, so that every byte sent to it is seen.
. "$(dirname "$0")/kit.sh"

need_root
need python3 python3
unshare --mount true 2>/dev/null || skip "mount namespaces are not allowed here"
program=$(realpath "$(program)")
cat >"$SCRATCH/journal.py" <<'PY'
import os, signal, socket, subprocess, sys, time

program, scratch = sys.argv[1:]
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
journal.settimeout(0.2)
graph = subprocess.Popen([program, "simulate", "--listen", "127.0.0.1:0", "--people", "3", "--rooms", "1"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
base = ""
for line in graph.stdout:
    words = [word for word in line.split() if word.startswith("http://127.0.0.1:")]
    if words:
        base = "/".join(words[0].split("/")[:3])
        break
with open(scratch + "/secret", "w") as file:
    file.write("C4nary-s3cret")
os.chmod(scratch + "/secret", 0o600)
with open(scratch + "/calmirror.toml", "w") as file:
    file.write(f'''
[store]
path = "store"
[graph]
base_url = "{base}/v1.0"
login_url = "{base}"
[api]
socket = "api.sock"
[log]
level = "trace"
format = "journald"
[defaults]
interval = "1s"
[account.contoso]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "secret"
[[window]]
name = "nobody"
account = "contoso"
mailbox = "nobody@nowhere.example"
''')
stderr = open(scratch + "/stderr", "w")
daemon = subprocess.Popen([program, "--config", scratch + "/calmirror.toml", "run"], stderr=stderr)
entries, raw, until = [], b"", time.time() + 30


def parse(data):
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8:8 + length], data[9 + length:]
        fields[name.decode()] = value.decode(errors="replace")
    return fields


def wanted(entry):
    return entry.get("MESSAGE") == "window in trouble"


while time.time() < until and not any(map(wanted, entries)):
    try:
        data = journal.recv(1 << 20)
    except TimeoutError:
        continue
    raw += data
    if data:
        entries.append(parse(data))
daemon.send_signal(signal.SIGTERM)
code = daemon.wait()
graph.kill()
assert code == 0, f"exit {code}"
trouble = [entry for entry in entries if wanted(entry)]
assert trouble, f"no trouble in {[entry.get('MESSAGE') for entry in entries]}"
entry = trouble[0]
for name, value in {"PRIORITY": "4", "SYSLOG_IDENTIFIER": "calmirror", "CALMIRROR_WINDOW": "nobody",
                    "CALMIRROR_ROUND": "1", "CALMIRROR_KIND": "gone"}.items():
    assert entry.get(name) == value, f"{name} is {entry.get(name)!r} in {entry}"
print(f"proved: {len(entries)} entries with native fields, such as "
      + " ".join(f"{name}={entry[name]}" for name in ["PRIORITY", "CALMIRROR_WINDOW", "CALMIRROR_ROUND", "CALMIRROR_KIND"]))
for secret in [b"C4nary", b"earer ", b"deltatoken=", b"skiptoken=", b"eyJ"]:
    assert secret not in raw, f"{secret} was told"
print(f"proved: no secret, token or link in the {len(raw)} bytes that the journal got at trace level")
assert os.path.getsize(scratch + "/stderr") == 0, open(scratch + "/stderr").read()
print("proved: nothing goes to standard error beside it")
PY
unshare --mount bash -c 'mount -t tmpfs tmpfs /run && exec python3 "$@"' - \
    "$SCRATCH/journal.py" "$program" "$SCRATCH" || fail "see above"
