"""CUDA's runtime as `cuda.bindings.runtime` has it, for engines of `fake_tensorrt`.

Time passes on its one GPU as engines say, with a little noise. Every function gives a tuple, the
error first.
"""

import os
import types

import numpy as np
from fake_tensorrt import Context


class Runtime:
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.now_ms, self.events, self.captured = 0.0, {}, 0
        self.refuse = os.environ.get("FAKE_CUDA_REFUSES", "")  # why nothing can be captured

    def cudaGetDeviceCount(self):
        return 0, 1

    def cudaSetDevice(self, index):
        return (0,)

    def cudaGetDeviceProperties(self, index):
        return 0, types.SimpleNamespace(name=b"NVIDIA Formula\0", major=9, minor=0)

    def cudaDriverGetVersion(self):
        return 0, 13000

    def cudaGetErrorString(self, error):
        return 0, self.refuse.encode()

    def cudaStreamCreateWithFlags(self, flags):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaMalloc(self, size):
        return 0, 1000 + size

    def cudaMemcpy(self, to, source, size, kind):
        return (0,)

    def cudaFree(self, pointer):
        return (0,)

    def cudaEventCreate(self):
        self.events[len(self.events)] = 0.0
        return 0, len(self.events) - 1

    def cudaEventRecord(self, event, stream):
        self._run(Context.ran)
        Context.ran.clear()
        self.events[event] = self.now_ms
        return (0,)

    def cudaEventElapsedTime(self, start, stop):
        return 0, self.events[stop] - self.events[start]

    def cudaStreamBeginCapture(self, stream, mode):
        Context.ran.clear()
        return (0,)

    def cudaStreamEndCapture(self, stream):
        if self.refuse:
            return 901, None
        self.captured += 1
        graph = list(Context.ran)
        Context.ran.clear()
        return 0, graph

    def cudaGraphInstantiate(self, graph, flags):
        return 0, graph

    def cudaGraphDestroy(self, graph):
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        self._run(graph)
        return (0,)

    def _run(self, contexts):
        exact = sum(sum(context.plan["times"]) for context in contexts)
        self.now_ms += exact * (1 + 0.002 * abs(self.rng.standard_normal()))
