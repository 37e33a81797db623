"""A program that takes trtexec's options, prints what trtexec prints and writes what it writes.

The formats are those of TensorRT's samples/common/sampleReporting.cpp. Runs take as long as the
network's weights are many. What it was called with is appended to the file $TRTEXEC_LOG.
"""

import json
import os
import sys
import time

VERSION = os.environ.get("TRTEXEC_VERSION", "101303")
START = "[11/21/2026-00:00:00]"


def main():
    given = dict(part.lstrip("-").partition("=")[::2] for part in sys.argv[1:])
    with open(os.environ["TRTEXEC_LOG"], "a") as log:
        log.write(json.dumps(sys.argv[1:]) + "\n")
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{VERSION}] [b9] # trtexec ...")
    if "help" in given:
        print("=== Model Options ===\n  --onnx=<file>               ONNX model")
        return 0
    print(f"{START} [I] === Device Information ===\n{START} [I] Available Devices: ")
    print(f'{START} [I]   Device 0: "Orin" UUID: GPU-0\n{START} [I] Selected Device: Orin')
    print(f"{START} [I] Selected Device ID: 0\n{START} [I] Compute Capability: 8.7")
    if "onnx" in given:
        return build(given)
    with open(given["loadEngine"]) as file:
        engine = json.load(file)
    for entry in given["loadInputs"].split(","):
        if not os.path.exists(entry.partition(":")[2]):
            return fail("input file is missing")
    if os.environ.get("TRTEXEC_HANGS"):
        time.sleep(60)
    total = sum(engine["times"])
    if "exportTimes" in given:
        write_times(given["exportTimes"], total, int(given["iterations"]))
    if "exportProfile" in given:
        write_profile(given["exportProfile"], engine, int(given["iterations"]))
    if "exportLayerInfo" in given:
        with open(given["exportLayerInfo"], "w") as file:
            json.dump({"Layers": engine["layers"], "Bindings": ["x", "y"]}, file)
    print(f"&&&& PASSED TensorRT.trtexec [TensorRT v{VERSION}] [b9]")
    return 0


def fail(why):
    print(f"{START} [E] {why}\n{START} [E] Engine could not be created from network")
    print(f"&&&& FAILED TensorRT.trtexec [TensorRT v{VERSION}] [b9]")
    return 1


def build(given):
    import onnx  # not needed to run, which starts sooner without

    try:
        model = onnx.load(given["onnx"])
    except Exception:
        return fail("Failed to parse ONNX model")
    weights = {t.name: t for t in model.graph.initializer}
    behind = {n.output[0]: n.input[0] for n in model.graph.node if "Linear" in n.op_type}
    layers, times = [], []
    for node in model.graph.node:
        if node.op_type == "Relu" and layers:
            layers[-1]["Name"] += f" + {node.name}"
            continue
        name = node.input[-1]
        while name in behind:
            name = behind[name]
        count = 1
        for size in weights[name].dims if name in weights else ():
            count *= size
        layers.append({"Name": node.name, "LayerType": node.op_type, "Inputs": [], "Outputs": []})
        times.append(0.01 + count * 1e-5)
    if "saveEngine" in given:
        with open(given["saveEngine"], "w") as file:
            json.dump({"layers": layers, "times": times}, file)
    if "timingCacheFile" in given:
        with open(given["timingCacheFile"], "a") as file:
            file.write("tactic\n")
    return 0


def write_times(path, total, count):
    separator = "  "
    with open(path, "w") as file:
        file.write("[\n")
        for number in range(count):
            compute = total * (1 + 0.001 * (number % 3))
            at = number * total
            file.write(
                f'{separator}{{ "startEnqMs" : {at}, "endEnqMs" : {at}, "startH2dMs" : {at}, '
                f'"endH2dMs" : {at}, "startComputeMs" : {at}, "endComputeMs" : {at + compute}, '
                f'"startD2hMs" : {at}, "endD2hMs" : {at}, "h2dMs" : 0, "computeMs" : {compute}, '
                f'"d2hMs" : 0, "latencyMs" : {compute} }}\n'
            )
            separator = ", "
        file.write(os.environ.get("TRTEXEC_END", "]\n"))


def write_profile(path, engine, count):
    total = sum(engine["times"])
    with open(path, "w") as file:
        file.write(f'[\n  {{ "count" : {count} }}\n')
        for layer, time_ms in zip(engine["layers"], engine["times"], strict=True):
            file.write(
                f', {{ "name" : "{layer["Name"]}", "timeMs" : {time_ms * count}, '
                f'"averageMs" : {time_ms * 1.1}, "medianMs" : {time_ms}, '
                f'"percentage" : {time_ms / total * 100} }}\n'
            )
        file.write("]\n")


if __name__ == "__main__":
    sys.exit(main())
