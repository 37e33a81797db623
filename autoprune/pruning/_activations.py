"""Activations of many batches in a bounded amount of memory.

What does not fit lies in a temporary file until it is read again. The bytes of a whole storage
are moved and put back in place, so that views of it, strides and what is written in place stay
as they are: the results are the same, bit for bit.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.core.errors import SurgeryError

#: Bytes of activations that are held in memory.
LIVE_BYTES = 2 * 2**30


@dataclass(eq=False)
class _Block:
    """The storage of one or more values of a batch.

    Attributes:
        storage: empty while its bytes are in the file.
        size: bytes.
        batch: number of the batch.
        nodes: whose values lie in it.
        place: offset in the file, or None while it is in memory.
    """

    storage: torch.UntypedStorage
    size: int
    batch: int
    nodes: set[str] = field(default_factory=set)
    place: int | None = None


class Activations:
    """Values by node and batch; those that are read last go to a temporary file.

    Args:
        uses: node → positions in the order of running at which its value is read, ascending.
        limit: bytes held in memory, beside the values of a single batch that one op reads and
            gives; None moves nothing.
    """

    def __init__(self, uses: Mapping[str, Sequence[int]], limit: int | None) -> None:
        self._uses = uses
        self._limit = limit
        self._values: dict[str, list[Any]] = {}
        # By `_cdata`, the one thing that tells that two tensors have the same storage and that
        # stays when it is emptied.
        self._blocks: dict[int, _Block] = {}
        self._given: dict[int, torch.UntypedStorage] = {}
        self._file = _File()
        #: Blocks that are in the file.
        self._moved = 0
        #: Position and batch that are being run.
        self.now = (0, 0)
        #: Bytes in memory, and the most there were.
        self.held = self.peak = 0

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def give(self, name: str, values: list[Any]) -> None:
        """Take values that belong to others: parameters and inputs. They are never moved."""
        self._values[name] = values
        if self._limit is not None:
            for storage in _storages(values):
                self._given[storage._cdata] = storage

    def put(self, name: str, batch: int, value: Any) -> None:
        """Take the value of a node for a batch; batches come in order.

        Raises:
            SurgeryError: the temporary file can't be written.
        """
        self._values.setdefault(name, []).append(value)
        if self._limit is None:
            return
        for storage in _storages(value):
            if storage._cdata in self._given or not storage.resizable():
                continue
            block = self._blocks.get(storage._cdata)
            if block is None:
                block = _Block(storage, storage.nbytes(), batch)
                self._blocks[storage._cdata] = block
                self._hold(block.size)
            block.nodes.add(name)
        self._shrink(())

    def get(self, wanted: Iterable[tuple[str, int]]) -> list[Any]:
        """The values of (node, batch), in memory until the next call.

        Raises:
            SurgeryError: the temporary file can't be written or read.
        """
        values = [self._values[name][batch] for name, batch in wanted]
        if self._moved:
            blocks = list(self._blocks_of(values))
            for block in blocks:
                self._restore(block)
            self._shrink(blocks)
        return values

    def drop(self, name: str, batch: int | None = None) -> None:
        """Forget a node's values, or that of one batch; nothing happens where there are none."""
        values = self._values.get(name)
        if values is None:
            return
        chosen = range(len(values)) if batch is None else [batch]
        for number in chosen:
            for block in self._blocks_of(values[number]):
                block.nodes.discard(name)
                if not block.nodes:
                    self._forget(block)
            values[number] = None
        if batch is None or batch == len(values) - 1:
            del self._values[name]

    def close(self) -> None:
        """Forget everything, and remove the temporary file."""
        self._values.clear()
        self._blocks.clear()
        self._given.clear()
        self.held = self._moved = 0
        self._file.close()

    def _blocks_of(self, values: Any) -> Iterator[_Block]:
        if self._blocks:
            for storage in _storages(values):
                block = self._blocks.get(storage._cdata)
                if block is not None:
                    yield block

    def _hold(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def _forget(self, block: _Block) -> None:
        del self._blocks[block.storage._cdata]
        if block.place is None:
            self.held -= block.size
        else:
            self._file.free(block.place, block.size)
            self._moved -= 1

    def _shrink(self, needed: Sequence[_Block]) -> None:
        """Move to the file what is read last, until the limit is kept."""
        if self._limit is None or self.held <= self._limit:
            return
        movable = [b for b in self._blocks.values() if b.place is None and b not in needed]
        for block in sorted(movable, key=self._read_next, reverse=True):
            if self.held <= self._limit:
                return
            # A copy: a storage that was handed to numpy can't be emptied any more.
            copy = _bytes(block.storage).to("cpu", copy=True)
            block.place = self._file.write(copy.numpy())
            block.storage.resize_(0)
            self.held -= block.size
            self._moved += 1

    def _restore(self, block: _Block) -> None:
        if block.place is None:
            return
        data = np.empty(block.size, dtype=np.uint8)
        self._file.read(block.place, data)
        self._file.free(block.place, block.size)
        block.storage.resize_(block.size)
        _bytes(block.storage).copy_(torch.from_numpy(data))
        block.place = None
        self._moved -= 1
        self._hold(block.size)

    def _read_next(self, block: _Block) -> tuple[int, int]:
        """When a block is read next: position and batch."""
        position, batch = self.now
        found = []
        for name in block.nodes:
            uses = self._uses.get(name, ())
            index = bisect_left(uses, position + (block.batch <= batch))
            found.append(uses[index] if index < len(uses) else position)
        return min(found), block.batch


class _File:
    """Blocks of bytes in a temporary file, which is gone when it is closed or the process ends."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._end = 0
        #: Size → offsets of blocks of this size that are free again.
        self._free: dict[int, list[int]] = {}

    def write(self, data: npt.NDArray[np.uint8]) -> int:
        """Write a block.

        Returns:
            Its offset.
        """
        free = self._free.get(data.nbytes)
        place = free.pop() if free else self._end
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            view = data.data
            self._file.seek(place)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _failed(error, place + data.nbytes) from error
        self._end = max(self._end, place + data.nbytes)
        return place

    def read(self, place: int, into: npt.NDArray[np.uint8]) -> None:
        """Read a block."""
        if self._file is None:
            raise RuntimeError("nothing was written")
        view = into.data
        try:
            self._file.seek(place)
            while view:
                got = self._file.readinto(view)  # type: ignore[attr-defined]
                if not got:
                    raise OSError("the file is shorter than what was written")
                view = view[got:]
        except OSError as error:
            raise _failed(error, self._end) from error

    def free(self, place: int, size: int) -> None:
        """Give a block's bytes back."""
        self._free.setdefault(size, []).append(place)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._end = None, 0
        self._free.clear()


def _failed(error: OSError, size: int) -> SurgeryError:
    return SurgeryError(
        "activations of the calibration batches that do not fit into memory must be kept in a "
        f"temporary file in {tempfile.gettempdir()} ({size / 1e9:.2f} GB so far), but: "
        f"{error.strerror or error}. Free space there, set TMPDIR to a folder with more "
        f"(now {os.environ.get('TMPDIR', 'not set')}), or give fewer calibration samples"
    )


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in (values,) if isinstance(values, Tensor) else pytree.tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
