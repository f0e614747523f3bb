"""Kill a training run at random moments and compare its last bits with an undisturbed run.

The tests enumerate the moments of one save; this takes any moment of real commands:

    python scripts/bench/random_kills.py --kills 50 debug=tiny train.max_steps=200

Words go to `nmt train` as they are. Prints a line a kill; exits with 1 if one bit differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(run: Path, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "nmt", "train", f"run={run}", *words]


def last_weights(run: Path) -> tuple[str, str]:
    """Name and SHA-256 of the last checkpoint's weights and optimiser state."""
    index = json.loads((run / "checkpoints" / "index.json").read_text("utf-8"))
    folder = run / "checkpoints" / index["last"]
    files = ("model.safetensors", "training.safetensors")
    return index["last"], hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in files)
    ).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options, words = parser.parse_known_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, run = Path(name, "whole"), Path(name, "run")
        began = time.monotonic()
        subprocess.run(command(whole, words), check=True, capture_output=True)
        seconds = time.monotonic() - began
        for number in range(1, options.kills + 1):
            process = subprocess.Popen(
                command(run, words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(timeout=draw.uniform(0.2 * seconds, seconds))
                print(f"{number}: it had finished", flush=True)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            index = run / "checkpoints" / "index.json"
            print(f"{number}: killed; {last_weights(run)[0] if index.exists() else 'no save yet'}")
        subprocess.run(command(run, words), check=True, capture_output=True)
        same = last_weights(run) == last_weights(whole)
        print("bit-identical" if same else f"DIFFERENT: {last_weights(run)} {last_weights(whole)}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
