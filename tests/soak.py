"""Many visitors for a long time, by hand: `python tests/soak.py --minutes 10 --clients 16`.

Every client asks for things of its own, again and again, in any order, and cancels some. What each should be told was
asked for before, one by one: an answer that differs is another's or wrong. Prints one JSON object; exit code 1 where an
answer failed, was mixed up or never came, or where the app's memory did not come back to within 10 %.
"""

import argparse
import hashlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import soundfile
from conftest import ROOT, buzz
from gradio_client import Client, handle_file

from llasa_lite import audio, builtin_voices

CANCELLED = 0.2  # share of jobs
PATIENCE = 600  # seconds for one answer


def asks(client: int, folder: Path) -> list[tuple[str, dict]]:
    """What one client asks for: endpoint and arguments, like no other client's."""
    clip = handle_file(str(audio.save(buzz(1.0, seed=client, pitch=90 + 7 * client), folder / f"{client}.wav")))
    voice = list(builtin_voices())[client % len(builtin_voices())]
    mine = {"voice": voice, "seed": 1000 + client, "text": f"Client {client} says hello."}
    return [
        ("speak", mine),
        ("speak", mine | {"seed": 2000 + client, "voice": ""}),
        ("continue", {"clip": clip, "transcript": "oh.", "text": f"And {client} more.", "seed": client}),
        ("transcribe", {"clip": clip}),
        ("search", mine | {"n": 2, "outcome": "likelihood"}),
        ("check", {"clip": clip}),
        ("encode", {"clip": clip}),
        ("decode", {"codes": list(range(100 * client, 100 * client + 50))}),
        ("voices", {}),
    ]


def digest(answer) -> str:
    """An answer without its times and the names of its files, but with what they hold."""

    def plain(value):
        if isinstance(value, dict):
            timed = ("seconds_taken", "spent", "seconds")
            return {key: plain(one) for key, one in value.items() if key not in timed}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, str) and value.endswith(".wav") and os.path.isfile(value):
            return hashlib.sha256(soundfile.read(value)[0].tobytes()).hexdigest()
        if isinstance(value, str) and os.path.isfile(value):
            return Path(value).suffix
        return round(value, 4) if isinstance(value, float) else value

    return hashlib.sha256(json.dumps(plain(answer), sort_keys=True).encode()).hexdigest()


def memory(process: psutil.Process) -> float:
    """Megabytes that the app holds alone."""
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True))) / 2**20


class Visitor(threading.Thread):
    """One client, asking until the time is up."""

    def __init__(self, number: int, address: str, folder: Path):
        super().__init__(daemon=True)
        self.random, self.until = random.Random(number), math.inf
        self.client = Client(address, verbose=False, download_files=str(folder))
        # what each answer is while nobody else asks
        self.wanted = [(name, mine, self.ask(name, mine)) for name, mine in asks(number, folder)]
        self.done, self.troubles, self.seconds = Counter(), [], []

    def ask(self, name: str, arguments: dict) -> str:
        return digest(self.client.predict(api_name=f"/{name}", **arguments))

    def run(self):
        while time.monotonic() < self.until:
            name, arguments, right = self.random.choice(self.wanted)
            began = time.monotonic()
            try:
                job = self.client.submit(api_name=f"/{name}", **arguments)
                if self.random.random() < CANCELLED:
                    time.sleep(self.random.uniform(0, 1))
                    job.cancel()
                    self.done["cancelled"] += 1
                    continue
                if digest(job.result(PATIENCE)) != right:
                    self.troubles.append(f"{name}: not the answer it got before")
                self.done[name] += 1
                self.seconds.append(time.monotonic() - began)
            except Exception as error:
                self.troubles.append(f"{name}: {error!r}")


def soak(address: str, process: psutil.Process, clients: int, minutes: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        visitors = [Visitor(k, address, Path(folder)) for k in range(clients)]
        before = peak = memory(process)  # with all visitors there, whom Gradio remembers for an hour
        until = time.monotonic() + 60 * minutes
        for visitor in visitors:
            visitor.until = until
            visitor.start()
        while any(visitor.is_alive() for visitor in visitors) and time.monotonic() < until + PATIENCE:
            peak = max(peak, memory(process))
            time.sleep(2)
        troubles = [trouble for visitor in visitors for trouble in visitor.troubles]
        troubles += ["a client never got its last answer" for visitor in visitors if visitor.is_alive()]
        for name, asked, right in visitors[0].wanted:  # it still answers, and has finished what was cancelled
            if visitors[0].ask(name, asked) != right:
                troubles.append(f"{name}: afterwards another answer")
        time.sleep(5)
        after = memory(process)
    seconds = sorted(one for visitor in visitors for one in visitor.seconds)
    return {
        "clients": clients,
        "minutes": minutes,
        "jobs": dict(sum((visitor.done for visitor in visitors), Counter())),
        "troubles": troubles,
        "seconds_median": round(seconds[len(seconds) // 2], 2),
        "seconds_p95": round(seconds[int(0.95 * len(seconds))], 2),
        "megabytes": {"before": round(before), "peak": round(peak), "after": round(after)},
        "memory_growth": round(after / before - 1, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, cache = f"http://127.0.0.1:{port}", tempfile.mkdtemp()
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_TEMP_DIR": cache}
    app = subprocess.Popen([sys.executable, ROOT / "app.py"], env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        while app.poll() is None:
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        told = soak(address, psutil.Process(app.pid), given.clients, given.minutes)
    finally:
        app.terminate()
    print(json.dumps(told, indent=1))
    return 1 if told["troubles"] or told["memory_growth"] > 0.1 else 0


if __name__ == "__main__":
    sys.exit(main())
