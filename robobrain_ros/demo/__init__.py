"""The tabletop demo: a simulated table with a camera and an arm, and a small model that knows only this table."""

from pathlib import Path

DEMO_MODEL = Path(__file__).parent / "model"
"""Folder with the checkpoint of the tabletop demo model. README.md in this folder describes its training and its accuracy."""


class DemoError(Exception):
    """A program of the demo cannot continue. The message states the reason."""
