"""A program for `CommandProfiler`: on its device a network takes 1 µs for each byte of its file.

With an argument it misbehaves as that says when it is asked to run the network whose key is "bad".
"""

import json
import math
import os
import sys
import time
from pathlib import Path

TROUBLE = {
    "rubbish": lambda n: print("42 ms"),
    "nothing": lambda n: None,
    "list": lambda n: print("[1, 2]"),
    "count": lambda n: print(json.dumps({"latencies_ms": [1.0] * (n + 1)})),
    "negative": lambda n: print(json.dumps({"latencies_ms": [-1.0] * n})),
    "nan": lambda n: print(json.dumps({"latencies_ms": [float("nan")] * n})),
    "text": lambda n: print(json.dumps({"latencies_ms": ["1"] * n})),
    "true": lambda n: print(json.dumps({"latencies_ms": [True] * n})),
    "energy": lambda n: print(json.dumps({"latencies_ms": [1.0] * n, "energy_mj": -3})),
    "slowed": lambda n: print(json.dumps({"latencies_ms": [1.0] * n, "slowed": [-1] * n})),
    "status": lambda n: sys.exit("the board is on fire"),
    "signal": lambda n: os.kill(os.getpid(), 9),
    "hang": lambda n: time.sleep(600),
    "spawn": lambda n: os.fork() or time.sleep(600),
    "endless": lambda n: [print("x" * 100_000) for _ in range(1000)],
}


def main():
    request = json.load(sys.stdin)
    assert request["autoprune"] == 1
    if request["request"] == "device":
        print(json.dumps({"name": "board", "runtime": "formula", "runtime_version": "1",
                          "details": {"driver": 7}}))  # fmt: skip
        return
    runs, key = request["runs"], request["key"]
    if len(sys.argv) > 1 and key == "bad":
        TROUBLE[sys.argv[1]](runs)
        return
    model = Path(request["model"]).read_bytes()
    sizes = [Path(i["path"]).stat().st_size for i in request["inputs"]]
    if (
        not model.startswith(b"\x08")
        or sizes != [4 * math.prod(i["shape"]) for i in request["inputs"]]
        or not sizes
    ):
        print(json.dumps({"error": "can't be loaded"}))
        return
    print(json.dumps({"latencies_ms": [len(model) / 1e3] * runs, "energy_mj": len(model) / 500}))


main()
