#!/usr/bin/env python3
"""An hour of chaos: resident memory and disk of a daemon that follows an unfriendly Graph.

    cargo build --release && benches/hour.py > docs/figures/hour.svg

`calmirror simulate` changes calendars all the time, fails requests and behaves nastily. The daemon
is killed (SIGKILL) every five minutes and started again. Every ten seconds the script reads its
resident memory and the disk space of its store. At the end no more requests fail, and it waits until
every window has settled once more, for a quarter of an hour at most. It prints the figures to
standard error and the plot to standard output, and fails if a window did not settle, or the daemon
did not stop with exit status 0.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM = pathlib.Path(__file__).parent.parent / "target/release/calmirror"
KILL_EVERY = 300
SAMPLE_EVERY = 10
# Longer than a held removal takes to be confirmed.
SETTLE_WITHIN = 900
WIDTH, HEIGHT, LEFT, TOP = 800, 260, 60, 40


def resident(pid):
    """Resident memory in MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def disk(store):
    """Disk space of a directory in MiB."""
    blocks = 0
    for where, _, names in os.walk(store):
        for name in names:
            try:
                blocks += os.stat(os.path.join(where, name)).st_blocks
            except FileNotFoundError:
                pass  # A compaction has just removed it.
    return blocks / 2048


def ask(home, *arguments):
    """The JSON that a command of the program prints."""
    command = [PROGRAM, "--config", home / "calmirror.toml", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout or "null")


def unsettled(home, control, daemon):
    """Ends the faults and waits until all windows have settled since; returns those that have not."""
    urllib.request.urlopen(urllib.request.Request(f"{control}faults", method="DELETE"), timeout=30)
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    settled, deadline = set(), time.monotonic() + SETTLE_WITHIN
    while True:
        status = ask(home, "status") or {"value": []}
        windows = {window["name"]: window for window in status["value"]}
        for name, window in windows.items():
            if window["state"] == "settled" and (window["last_success"] or "") > since:
                settled.add(name)
        missing = [f"{name} ({windows[name]['state']})" for name in windows if name not in settled]
        if windows and not missing:
            return []
        if time.monotonic() > deadline or daemon.poll() is not None:
            return missing or ["all: the daemon does not answer"]
        time.sleep(2)


def plot(samples, kills):
    """An SVG of both curves over the minutes."""
    end = samples[-1][0]
    most = max(max(memory, space) for _, memory, space in samples)
    top = 50 * (int(most / 50) + 1)

    def place(at, value):
        return f"{LEFT + at / end * WIDTH:.1f},{TOP + HEIGHT - value / top * HEIGHT:.1f}"

    def curve(column, colour):
        points = " ".join(place(sample[0], sample[column]) for sample in samples)
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'

    lines = []
    for step in range(0, top + 1, 50):
        _, y = place(0, step).split(",")
        lines.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{step}</text>')
    for minute in range(0, int(end / 60) + 1, 10):
        x, _ = place(minute * 60, 0).split(",")
        lines.append(f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{minute}</text>')
    for kill in kills:
        x, _ = place(kill, 0).split(",")
        lines.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="#eee"/>')
    title = "MiB over minutes: resident memory (blue), disk (orange), kills (grey)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" '
            f'height="{TOP + HEIGHT + 30}" font-family="sans-serif" font-size="12">',
            f'<rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="22">{title}</text>',
            *lines,
            curve(1, "#1f6fb4"),
            curve(2, "#e07b00"),
            "</svg>",
        ]
    )


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--people", type=int, default=100)
    options.add_argument("--mutate-every", default="50ms")
    options.add_argument("--faults", default="0.05")
    chosen = options.parse_args()
    home = pathlib.Path(tempfile.mkdtemp(prefix="hour-", dir=PROGRAM.parent.parent))
    environment = {**os.environ, "SIMULATED_SECRET": "any"}
    flags = [f"--people={chosen.people}", f"--mutate-every={chosen.mutate_every}"]
    flags += [f"--faults={chosen.faults}", "--behaviour=nasty", "--listen=127.0.0.1:0"]
    simulator = subprocess.Popen(
        [PROGRAM, "simulate", *flags], stdout=open(home / "simulated", "w"), stderr=subprocess.DEVNULL
    )
    while "[[window]]" not in (text := (home / "simulated").read_text()):
        time.sleep(0.2)
    time.sleep(1)
    text = (home / "simulated").read_text()
    control = re.search(r"http://\S+/control/", text)[0]
    mine = f'[store]\npath = "{home}/store"\n[api]\nsocket = "{home}/api.sock"\n'
    (home / "calmirror.toml").write_text(mine + text)

    def start():
        command = [PROGRAM, "--config", home / "calmirror.toml", "run"]
        return subprocess.Popen(command, env=environment, stderr=open(home / "log", "a"))

    samples, kills, began = [], [], time.monotonic()
    daemon = start()
    try:
        while (now := time.monotonic() - began) < chosen.minutes * 60:
            if now - (kills[-1] if kills else 0) >= KILL_EVERY:
                daemon.send_signal(signal.SIGKILL)
                daemon.wait()
                kills.append(now)
                daemon = start()
            samples.append((now, resident(daemon.pid), disk(home / "store")))
            time.sleep(SAMPLE_EVERY)
        missing = unsettled(home, control, daemon)
        samples.append((time.monotonic() - began, resident(daemon.pid), disk(home / "store")))
    finally:
        daemon.terminate()
        code = daemon.wait()
        simulator.terminate()
    memory, space = (max(sample[column] for sample in samples) for column in (1, 2))
    compactions = (home / "log").read_text().count("store compacted")
    figures = f"most memory {memory:.0f} MiB, most disk {space:.0f} MiB, at the end "
    figures += f"{samples[-1][1]:.0f} and {samples[-1][2]:.0f} MiB; {len(kills)} kills, "
    figures += f"{compactions} compactions, exit {code}, {len(missing)} windows did not settle"
    print(figures, file=sys.stderr)
    print(plot(samples, kills))
    if code != 0 or missing:
        sys.exit(f"failed, see {home}: exit {code}; not settled: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
