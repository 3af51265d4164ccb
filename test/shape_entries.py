"""Entries of a table of operators by shape, for tests."""

from robobrain_ros.engine.flagos.by_shape.table import ROWS, Entry, Launch

GPU = "Stub GPU 80GB"
VECTOR = Launch("vector", 4, 256)
TILE = Launch("tile", 32, 256, 16)


def entry(rows: int = 1, k: int = 32, n: int = 48, operator: str = "mm", dtype: str = "bfloat16") -> Entry:
    """An entry for small weights."""
    return Entry(operator, dtype, rows, k, n, "skinny", VECTOR if rows == 1 else TILE, 12.0, 10.0)


SHAPES = [entry(rows, k, n, operator) for rows in ROWS for k, n in ((32, 48), (64, 16), (16, 96)) for operator in ("mm", "addmm")]
