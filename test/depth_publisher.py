"""Encode depth as image_transport's compressedDepth plugin does, for tests."""

import struct

import cv2
import numpy as np

DEPTH_MAX, DEPTH_QUANTIZATION = 10.0, 100.0
"""Default parameters of the plugin."""


def quantization() -> tuple[float, float]:
    """Return the parameters A and B that the plugin derives from its defaults."""
    a = DEPTH_QUANTIZATION * (DEPTH_QUANTIZATION + 1.0)
    return a, 1.0 - a / DEPTH_MAX


def compressed_depth(depth: np.ndarray, codec: str) -> tuple[bytes, str]:
    """Return data and format for depth (height, width): uint16 in millimetres, or float32 in metres. ``codec``: png or rvl."""
    a, b = quantization() if depth.dtype == np.float32 else (0.0, 0.0)
    encoding = "32FC1" if depth.dtype == np.float32 else "16UC1"
    samples = depth
    if depth.dtype == np.float32:
        with np.errstate(invalid="ignore", divide="ignore"):
            coded = np.where(depth < DEPTH_MAX, a / depth + b, 0.0)
        samples = np.nan_to_num(coded).clip(0, 65535).astype(np.uint16)
    body = rvl(samples) if codec == "rvl" else cv2.imencode(".png", samples)[1].tobytes()
    return struct.pack("<iff", 0, a, b) + body, f"{encoding}; compressedDepth {codec}"


def rvl(samples: np.ndarray) -> bytes:
    """Encode depth in RVL sample by sample, as published by Wilson (2017), after the width and the height."""
    nibbles: list[int] = []

    def write(value: int) -> None:
        while True:
            value, low = value >> 3, value & 7
            nibbles.append(low | 8 if value else low)
            if not value:
                return

    values, at, before = samples.ravel().tolist(), 0, 0
    while at < len(values):
        start = at
        while at < len(values) and not values[at]:
            at += 1
        write(at - start)
        start = at
        while at < len(values) and values[at]:
            at += 1
        write(at - start)
        for value in values[start:at]:
            difference, before = value - before, value
            write(2 * difference if difference >= 0 else -2 * difference - 1)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{nibble:x}" for nibble in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    height, width = samples.shape
    return struct.pack(f"<II{len(words)}I", width, height, *words)
