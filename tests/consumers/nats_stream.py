"""Plays streams of NATS JetStream to the readers of docs/consume, by seed, and checks their copies.

    nats_stream.py --reader NAME=COMMAND... [--seeds 20] [--first 1] [--server nats-server]

The publisher here stands for calmirror and shares nothing with it, nor with the readers: shards
send snapshots and changes in batches, their number changes, the stream is deleted or restored from
an older copy of the server's directory, the server restarts, removals expire. Readers are killed at
any moment. COMMAND gets the file of the copy and the server's address.

Whenever every shard is done, `--once` has to end with a copy that equals the truth. Before that it
must not end; and the events that are never removed have to be in a copy that was complete once,
always. Prints the violations and exits with 1 if there are any.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import random
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

WINDOWS = ["alice", "room 4.1", "*", "büro>", "e", "f"]
SUBJECT, STREAM = "calmirror", "CALMIRROR"
# A reader may do what docs/sinks-nats.md lists, and no more.
USERS = """
authorization { users [
    {user: sink, password: sink}
    {user: reader, password: reader, permissions {
        subscribe: "_INBOX.>"
        publish: ["$JS.API.STREAM.INFO.CALMIRROR", "$JS.API.STREAM.MSG.GET.CALMIRROR",
            "$JS.API.CONSUMER.CREATE.CALMIRROR.>", "$JS.API.CONSUMER.INFO.CALMIRROR.>",
            "$JS.API.CONSUMER.MSG.NEXT.CALMIRROR.>"]}}
] }
"""


class Refused(Exception):
    pass


class Client:
    """As much of a client of NATS as the publisher needs."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        options = {"verbose": False, "headers": True, "no_responders": True, "user": "sink", "pass": "sink"}
        self.socket.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB _INBOX.1 1\r\n")

    def publish(self, subject, payload, headers={}, reply=""):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode()
        self.socket.sendall(line + head + payload + b"\r\n")

    def request(self, subject, payload=b"", headers={}):
        self.publish(subject, payload, headers, "_INBOX.1")
        while True:
            words = self.lines.readline().split()
            if not words:
                raise ConnectionError("the server ended the connection")
            if words[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            if words[0] in (b"MSG", b"HMSG"):
                body = self.lines.read(int(words[-1]) + 2)[:-2]
                skipped = int(words[-2]) if words[0] == b"HMSG" else 0
                answer = json.loads(body[skipped:] or b"{}")
                if "error" in answer or skipped:
                    raise Refused(answer.get("error", {}).get("err_code"))
                return answer

    def api(self, request, **body):
        return self.request(f"$JS.API.{request}", json.dumps(body).encode())


class Server:
    def __init__(self, program, directory):
        self.program, self.directory, self.process = program, directory, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.store = directory / "jetstream"
        config = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.store}" }}\n{USERS}'
        (directory / "nats.conf").write_text(config)
        self.start()

    def start(self):
        log = open(self.directory / "server.log", "ab")
        self.process = subprocess.Popen(
            [self.program, "-c", self.directory / "nats.conf"], stdout=log, stderr=log
        )
        for _ in range(200):
            try:
                self.client = Client(self.port)
                return self.client.api("INFO")
            except (OSError, Refused):
                time.sleep(0.05)
        raise SystemExit("the server does not start")

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def hexed(text, length):
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Shard:
    """One writer: what it knows of its chain of markers, and how far its snapshot is."""

    def __init__(self, play, ordinal):
        self.play, self.ordinal = play, ordinal
        # state: "lost" until the next snapshot begins, "begins" in one, "ends" after it.
        self.writer, self.mark, self.created, self.state = None, 0, None, "lost"
        self.snapshot, self.passes, self.began, self.queue = "", "", 0, []

    def open(self):
        """Looks whether the stream is the one it knows."""
        found = self.play.marker(self.ordinal)
        number, line = found or (0, {})
        created = self.play.created()
        if (self.created, self.writer) != (created, line.get("writer")) or number < self.mark:
            self.state, self.writer = "lost", self.play.id()
        self.created, self.mark = created, number

    def write(self, change, messages=(), began=None):
        """A batch: messages, and the marker behind them. False if that is refused."""
        play, client = self.play, self.play.server.client
        batch, number = play.id(), 0
        for subject, line, headers in messages:
            number += 1
            headers = {**headers, "Calmirror-Shard": self.ordinal} if self.ordinal else headers
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": number, **headers}
            client.publish(f"{SUBJECT}.{subject}", json.dumps(line).encode(), headers)
        line = play.line(self, change, self.began if began is None else began)
        headers = {
            "Nats-Batch-Id": batch, "Nats-Batch-Sequence": number + 1, "Nats-Batch-Commit": 1,
            "Nats-Expected-Last-Subject-Sequence": self.mark,
        }  # fmt: skip
        try:
            subject = f"{SUBJECT}.snapshot.{self.ordinal}"
            self.mark = client.request(subject, json.dumps(line).encode(), headers)["seq"]
            return True
        except Refused:
            return False

    def send(self, keys):
        """Publishes what the truth now says of these events."""
        headers = {"Calmirror-Snapshot": f"{self.snapshot}-{self.passes}"} if self.state == "begins" else {}
        messages = [self.play.message(key, headers) for key in keys]
        change = "snapshot_begins" if self.state == "begins" else "snapshot_ends"
        if self.state == "lost" or self.write(change, messages):
            return
        self.open()  # what was refused is published again, or comes in a snapshot
        self.send(keys)

    def step(self):
        """The next part of its snapshot."""
        self.open()
        if self.state == "lost" or (self.state == "ends" and self.play.random.random() < 0.1):
            self.snapshot, self.passes = self.play.id(), self.play.id()
            if self.write("snapshot_begins", began=0):
                self.state, self.began = "begins", self.mark
                self.queue = [key for key in self.play.truth if self.play.owner(key) == self.ordinal]
        elif self.state == "begins" and self.queue:
            size = self.play.random.randint(1, 30)
            now, self.queue = self.queue[:size], self.queue[size:]
            self.send([key for key in now if key in self.play.truth])
        elif self.state == "begins":
            gone = [key for key in self.play.in_stream() if key not in self.play.truth]
            self.send([key for key in gone if self.play.owner(key) == self.ordinal])
            if self.state == "begins" and self.write("snapshot_ends"):
                self.state = "ends"


class Reader:
    def __init__(self, play, name, command):
        self.play, self.name, self.path = play, name, play.directory / f"{name}.sqlite"
        address = f"nats://reader:reader@127.0.0.1:{play.server.port}"
        days = play.retention / 86400
        self.command = [*shlex.split(command), str(self.path), address, "--retention-days", str(days)]
        self.process, self.was_whole = None, False

    def start(self, *options):
        log = open(self.play.directory / f"{self.name}.log", "ab")
        self.process = subprocess.Popen([*self.command, *options], stdout=log, stderr=log)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.look()

    def look(self):
        """Looks into the copy, as its own readers do at any time."""
        if self.was_whole:
            missing = self.play.kept - self.copy().keys()
            self.was_whole = self.play.expect(
                not missing, f"{self.name}: {len(missing)} events are missing in between"
            )

    def copy(self):
        db = sqlite3.connect(self.path, timeout=20)
        rows = db.execute("SELECT window, id, event FROM event").fetchall()
        db.close()
        return {(window, id): json.loads(event) for window, id, event in rows}

    def complete(self):
        """Reads to the end, which has to give the truth."""
        self.kill()
        code = None
        for _ in range(3):
            self.start("--once")
            try:
                code = self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()
                break
            if code == 0:
                break
        if not self.play.expect(code == 0, f"{self.name}: does not end (exit {code})"):
            return
        self.process, self.was_whole = None, True
        have, truth = self.copy(), self.play.truth
        wrong = [key for key in have.keys() | truth.keys() if have.get(key) != truth.get(key)]
        extra = len(have.keys() - truth.keys())
        self.play.expect(not wrong, f"{self.name}: {len(wrong)} events differ, {extra} of them too many")


class Play:
    def __init__(self, seed, directory, options):
        self.random, self.seed, self.directory = random.Random(seed), seed, directory
        # Some seeds have removals that expire; in them readers start from the beginning often.
        self.retention = 4 if seed % 5 == 0 else 3600
        self.server = Server(options.server, directory)
        self.count, self.violations, self.story, self.copies = self.random.randint(1, 4), [], [], 0
        self.shards = {ordinal: Shard(self, ordinal) for ordinal in range(self.count)}
        self.truth = {(w, f"{n}=/ä"): self.event() for w in WINDOWS for n in range(self.random.randint(1, 40))}
        self.kept = set(self.random.sample(sorted(self.truth), 20))
        self.readers = [Reader(self, *one.split("=", 1)) for one in options.reader]
        self.create()

    def expect(self, is_right, what):
        if not is_right:
            self.violations.append(f"seed {self.seed}, step {len(self.story)} ({self.story[-1]}): {what}")
        return is_right

    def id(self):
        return f"{self.random.getrandbits(64):016x}"

    def event(self):
        return {"subject": self.id(), "body": "x" * self.random.choice([1, 300]), "n": [1.5, None]}

    def owner(self, key):
        return int(hexed(key[0], 8), 16) % self.count

    # What is in the stream.

    def create(self):
        self.server.client.api(
            f"STREAM.CREATE.{STREAM}", name=STREAM, subjects=[f"{SUBJECT}.*.*"], retention="limits", storage="file",
            num_replicas=1, max_msgs_per_subject=1, allow_msg_ttl=True, allow_atomic=True, allow_direct=True,
            discard="old", max_age=0, max_msgs=-1, max_bytes=-1, max_consumers=-1,
        )  # fmt: skip

    def created(self):
        try:
            return self.server.client.api(f"STREAM.INFO.{STREAM}")["created"]
        except Refused:
            self.create()
            return self.created()

    def stored(self, **query):
        """The number, the line and the headers of a message; None if there is none."""
        try:
            found = self.server.client.api(f"STREAM.MSG.GET.{STREAM}", **query)["message"]
        except Refused:
            return None
        headers = base64.b64decode(found.get("hdrs", "")).decode()
        return found["seq"], json.loads(base64.b64decode(found["data"])), headers

    def marker(self, ordinal):
        found = self.stored(last_by_subj=f"{SUBJECT}.snapshot.{ordinal}")
        return found and found[:2]

    def in_stream(self):
        """The events in the stream."""
        keys, number = [], 0
        while found := self.stored(seq=number + 1, next_by_subj=f"{SUBJECT}.*.*"):
            number, line, _ = found
            if line["change"] in ("created", "updated"):
                keys.append((line["window"], line["id"]))
        return keys

    def is_whole(self):
        """Whether the stream says that it has everything of some number of shards."""
        lines = {k: found[1] for k in range(4) if (found := self.marker(k))}
        over = {k for k, line in lines.items() if line["change"] == "divided" and int(line["shard"][2:]) <= k}
        done = {(k, line["shard"]) for k, line in lines.items() if line["change"] == "snapshot_ends"}
        return any(
            {(k, f"{k}/{n}") for k in range(n)} == done and over == lines.keys() - set(range(n)) for n in range(1, 5)
        )

    def message(self, key, headers):
        line = {"cursor": self.id(), "window": key[0], "id": key[1], "change": "removed", "reason": "deleted"}
        if key in self.truth:
            change = self.random.choice(["created", "updated"])
            line |= {"change": change, "event": self.truth[key]}
        else:
            headers = {**headers, "Nats-TTL": f"{self.retention}s"}
        return f"{hexed(key[0], 16)}.{hexed(key[1], 32)}", line, headers

    def line(self, shard, change, began):
        return {
            "change": change, "shard": f"{shard.ordinal}/{self.count}", "snapshot": shard.snapshot,
            "pass": shard.passes, "began": began, "sink": "log", "cursor": self.id(), "at": "2026-11-30T00:00:00Z",
            "writer": shard.writer,
        }  # fmt: skip

    # What happens.

    def change(self, most=25):
        """Events change; each shard publishes those of its windows."""
        keys = set()
        for _ in range(self.random.randint(1, most)):
            if self.random.random() < 0.4:
                key = (self.random.choice(WINDOWS), f"{self.random.randint(0, 60)}=/ä")
            else:
                key = self.random.choice(sorted(self.truth))
            if key in self.truth and key not in self.kept and self.random.random() < 0.4:
                del self.truth[key]
            else:
                self.truth[key] = self.event()
            keys.add(key)
        for shard in self.shards.values():
            own = [key for key in keys if self.owner(key) == shard.ordinal]
            if own:
                shard.send(sorted(own))

    def snapshot(self):
        """Steps of shards; some stay where they are."""
        for _ in range(self.random.randint(1, 8)):
            self.random.choice(list(self.shards.values())).step()

    def replay(self):
        """A shard that has everything sent begins a new snapshot."""
        shard = self.random.choice(list(self.shards.values()))
        if shard.state == "ends":
            shard.state = "lost"
            shard.step()

    def forget(self):
        """A shard comes back without its volume, after changes that it did not see."""
        ordinal = self.random.randrange(self.count)
        self.shards[ordinal] = Shard(self, ordinal)
        self.change()

    def divide(self):
        """Another number of shards. One of them says so in the chains of all."""
        old, self.count = self.count, self.random.choice([n for n in range(1, 5) if n != self.count])
        for shard in self.shards.values():
            shard.state = "lost"
        self.shards = {ordinal: self.shards.get(ordinal) or Shard(self, ordinal) for ordinal in range(self.count)}
        writer = self.id()
        # In any order, and readers may come in between.
        for ordinal in self.random.sample(range(max(old, self.count)), max(old, self.count)):
            found = self.marker(ordinal)
            if not found and (ordinal >= self.count or self.random.random() < 0.5):
                continue
            divider = Shard(self, ordinal)
            divider.writer, divider.mark = writer, found[0] if found else 0
            divider.snapshot, divider.passes = self.id(), self.id()
            divider.write("divided", began=0)
            if self.random.random() < 0.3:
                self.read()
        self.change()

    def delete(self):
        self.created()  # it may be gone already
        self.server.client.api(f"STREAM.DELETE.{STREAM}")
        self.change()

    def restart(self):
        self.server.stop(self.random.choice([signal.SIGTERM, signal.SIGKILL]))
        self.server.start()

    def restore(self):
        """An older copy of the server's directory comes back."""
        older = self.directory / "older"
        self.server.stop()
        shutil.copytree(self.server.store, older)
        self.server.start()
        before = set(self.truth)
        for _ in range(self.random.randint(1, 4)):
            self.random.choice([self.change, self.change, self.snapshot, self.read])()
        if self.random.random() < 0.7:
            for reader in self.readers:
                self.read_for(reader, 1.5)
        self.server.stop()
        shutil.rmtree(self.server.store)
        older.rename(self.server.store)
        self.server.start()
        # Only the lost part had them, and no shard will say that they are gone.
        for key in [key for key in self.truth if key not in before and self.random.random() < 0.5]:
            del self.truth[key]
        for _ in range(self.random.randint(0, 3)):
            self.change()
        if self.random.random() < 0.5:
            # Everything is sent again, and again, while readers are away.
            for reader in self.readers:
                reader.kill()
            for _ in range(2):
                self.settle()
                for shard in self.shards.values():
                    shard.state = "lost"
            self.check()

    def expire(self):
        """Readers are away for longer than removals are kept."""
        for reader in self.readers:
            reader.kill()
        self.change(60)
        if self.retention < 60:
            time.sleep(self.retention + 1.5)
        self.check()

    # Readers.

    def read(self):
        """A reader runs for a while, or runs on."""
        reader = self.random.choice(self.readers)
        reader.kill()
        self.read_for(reader, self.random.choice([0, 0.2, 0.5, 1, 1.5]))

    def read_for(self, reader, seconds):
        # It may only end if the stream is whole, which nothing changes meanwhile.
        once = self.random.random() < 0.5 and not self.is_whole()
        reader.kill()
        reader.start(*["--once"] * once)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            reader.look()
            time.sleep(0.005)
        if once:
            self.expect(reader.process.poll() != 0, f"{reader.name}: ends before the stream is whole")
        if once or self.random.random() < 0.6:
            reader.kill()

    def settle(self):
        """Every shard sends everything."""
        for _ in range(1000):
            for shard in self.shards.values():
                shard.open()
            open_ones = [shard for shard in self.shards.values() if shard.state != "ends"]
            if not open_ones:
                return
            self.random.choice(open_ones).step()
        raise SystemExit("the publisher does not get to the end")

    def check(self):
        self.settle()
        for reader in self.readers:
            reader.complete()

    def run(self, steps):
        weights = {
            self.change: 8, self.snapshot: 8, self.read: 8, self.replay: 2, self.forget: 1, self.divide: 2,
            self.delete: 1, self.restart: 1, self.restore: 2, self.expire: 2, self.check: 3,
        }  # fmt: skip
        story = [self.snapshot, self.check]
        story += self.random.choices(list(weights), list(weights.values()), k=steps)
        try:
            for step in [*story, self.check]:
                self.story.append(step.__name__)
                step()
                if self.violations:
                    break
        finally:
            for reader in self.readers:
                if reader.process:
                    reader.process.kill()
                    reader.process.wait()
            self.server.stop(signal.SIGKILL)
        return self.violations


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reader", action="append", required=True, help="NAME=COMMAND")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--server", default="nats-server")
    options = parser.parse_args()
    failed = 0
    for seed in range(options.first, options.first + options.seeds):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="nats-stream-"))
        play = Play(seed, directory, options)
        violations = play.run(options.steps)
        for line in violations:
            print(line, flush=True)
        if violations:
            failed += 1
            print(f"  files: {directory}; steps: {' '.join(play.story)}", flush=True)
        else:
            shutil.rmtree(directory)
    print(f"{options.seeds - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
