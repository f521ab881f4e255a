"""`OnnxGraph`: writes a graph in ONNX's format, so that conversion needs no package for it.

The format is protocol buffers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Field numbers below are of that file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["OnnxGraph"]

_OPSET: Final = 13
_IR_VERSION: Final = 8
_FLOAT: Final = 1
_INT_ATTRIBUTE, _STRING_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 3, 7


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _value_info(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = b"".join(
        _bytes(1, _bytes(2, size) if isinstance(size, str) else _number(1, size)) for size in shape
    )
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, sizes)))


def _attribute(name: str, value: int | str | Sequence[int]) -> bytes:
    head = _bytes(1, name)
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    if isinstance(value, str):
        return head + _bytes(4, value) + _number(20, _STRING_ATTRIBUTE)
    return head + b"".join(_number(8, one) for one in value) + _number(20, _INTS_ATTRIBUTE)


class OnnxGraph:
    """A graph whose nodes are added in their order. Values are named `v0`, `v1` ... as they are made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._body = bytearray()
        self._tensors = bytearray()
        self._inputs = bytearray()
        self._outputs = bytearray()
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declares an input of float32; a size that is a string is free."""
        self._inputs += _bytes(11, _value_info(name, shape))
        return name

    def tensor(self, values: NDArray[np.float32]) -> str:
        """Adds a constant."""
        name = self._next("w")
        data = np.ascontiguousarray(values, np.float32)
        sizes = b"".join(_number(1, size) for size in data.shape)
        self._tensors += _bytes(
            5, sizes + _number(2, _FLOAT) + _bytes(8, name) + _bytes(9, data.astype("<f4").tobytes())
        )
        return name

    def node(
        self, operator: str, inputs: Sequence[str], attributes: Mapping[str, int | str | Sequence[int]] = {}
    ) -> str:
        """Adds a node with one output. Returns the output's name."""
        name = self._next("v")
        body = b"".join(_bytes(1, one) for one in inputs) + _bytes(2, name) + _bytes(4, operator)
        body += b"".join(_bytes(5, _attribute(*one)) for one in attributes.items())
        self._body += _bytes(1, body)
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declares an output that has the value."""
        self._body += _bytes(1, _bytes(1, value) + _bytes(2, name) + _bytes(4, "Identity"))
        self._outputs += _bytes(12, _value_info(name, shape))

    def file(self) -> bytes:
        """Returns the bytes of the model's file."""
        graph = bytes(self._body) + _bytes(2, self._name) + self._tensors + self._inputs + self._outputs
        opset = _bytes(8, _bytes(1, "") + _number(2, _OPSET))
        return _number(1, _IR_VERSION) + _bytes(2, "deepwell") + opset + _bytes(7, bytes(graph))

    def _next(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self._count}"
