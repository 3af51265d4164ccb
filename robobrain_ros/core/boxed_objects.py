"""Find the object in a bounding box of a depth image: the samples in the box that are not on the table or the wall."""

from dataclasses import dataclass, fields
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel, Floats, to_depth_pixels
from robobrain_ros.core.normals import NOISE, rays_at
from robobrain_ros.core.surfaces import Bools, DepthImage, gap_between

Singles = npt.NDArray[np.float32]

_CELLS, _MARGIN = 48, 5
"""Samples along each side of a box with its margin, and of these the samples in the margin on each side."""
_RING_STEP = 7
"""Every seventh sample of the margin is used to find the planes behind an object."""
_MOST_TRIPLES = 32
"""Most planes that are tried for a box."""

_STANDS_OUT = 0.005
"""Metres, in addition to noise. An object is at least this far in front of the plane on which it stands."""
_PLANE_SHARE = 0.08
"""A plane has at least this share of the valid samples in the margin."""

_LEAST_SAMPLES = 20
"""Fewest samples of an object."""
_SECOND = 0.1
"""A second object has at least this share of the samples of the first one."""
_TOGETHER = 1.0
"""Parts belong to one object if the distance of their centres is at most this share of half the sum of their sizes."""


@dataclass(frozen=True)
class BoxedObjects:
    """The objects in n boxes, sampled on grids of m x m.

    :param columns: (n, m) columns of the samples in pixels of the depth image. ``rows`` are the rows.
    :param positions: (n, m, m, 3), metres, in the optical frame; arbitrary where nothing was measured.
    :param members: (n, m, m) whether a sample belongs to the object. No sample: the box has no valid depth.
    :param standing: (n) whether the object is in front of planes. Otherwise, the members are all valid samples in the box.
    :param several: (n) whether the box contains several objects.
    :param covered: (n) smaller share of the box's width and height in which the object has samples.
    :param valid: (n) share of the samples in the middle of the box with valid depth.
    :param steps: (n) metres between two samples at the object's depth.
    """

    columns: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    positions: Floats
    members: Bools
    standing: Bools
    several: Bools
    covered: Floats
    valid: Floats
    steps: Floats

    @property
    def margin(self) -> int:
        """Samples between the border of the grid and the box."""
        return _MARGIN

    def part(self, indices: npt.NDArray[np.intp]) -> "BoxedObjects":
        """Return the objects of some of the boxes."""
        return BoxedObjects(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})

    def border(self) -> tuple[Floats, Bools]:
        """Return the first and last sample of each object in each row and column: (n, 4 m, 3); and which of them exist."""
        count, size = self.members.shape[:2]
        index, line = np.arange(count)[:, None], np.arange(size)[None]
        parts, exist = [], []
        for axis in (1, 2):
            any_member = self.members.any(axis=axis)
            for place in (self.members.argmax(axis=axis), size - 1 - np.flip(self.members, axis=axis).argmax(axis=axis)):
                at = (index, place, line) if axis == 1 else (index, line, place)
                parts.append(self.positions[at])
                exist.append(any_member)
        return np.concatenate(parts, axis=1).astype(np.float64), np.concatenate(exist, axis=1)


def find_objects(camera: CameraModel, depth: DepthImage, boxes: Floats) -> BoxedObjects:
    """Find the object in each box.

    :param boxes: (n, 4), finite: u_min, v_min, u_max and v_max in pixels of the image.
    :raises GeometryError: the views of depth image and camera differ.
    """
    scale = depth.scale(camera)
    count = len(boxes)
    low, high = to_depth_pixels(boxes[:, :2], scale), to_depth_pixels(boxes[:, 2:], scale)
    pace = np.maximum((high - low) / (_CELLS - 2 * _MARGIN - 1), 0.5)
    cells = np.arange(_CELLS) - _MARGIN
    columns = np.rint(low[:, :1] + pace[:, :1] * cells).astype(np.intp)
    rows = np.rint(low[:, 1:] + pace[:, 1:] * cells).astype(np.intp)
    z = depth.at(np.repeat(rows[:, :, None], _CELLS, 2), np.repeat(columns[:, None, :], _CELLS, 1)).astype(np.float32)
    x, y = _rays(camera, scale, columns, rows)
    valid = np.isfinite(z) & np.isfinite(x) & np.isfinite(y)
    z = np.where(valid, z, np.float32(1.0))
    in_box = np.zeros((_CELLS, _CELLS), np.bool_)
    in_box[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = True
    front = valid & in_box
    candidates = valid.copy()
    for _ in range(2):
        planes, found = _plane_around(x, y, z, candidates, ~in_box)
        if not found.any():
            break
        planes = planes.astype(np.float32)
        flat = planes[:, 0, None, None] * x + planes[:, 1, None, None] * y + planes[:, 2, None, None]
        # Distance of the sample from the plane, towards the camera.
        height = (1.0 - flat * z) / np.maximum(np.linalg.norm(planes, axis=1), 1e-9)[:, None, None].astype(np.float32)
        limit = np.float32(_STANDS_OUT) + np.float32(3.0 * NOISE) * z * z
        on_plane = (np.abs(height) <= limit) & found[:, None, None]
        candidates &= ~on_plane
        front &= ~on_plane
    members, several = _components(front, x, y, z)
    standing = members.sum(axis=(1, 2)) >= _LEAST_SAMPLES
    members = np.where(standing[:, None, None], members, valid & in_box)
    quarter = (_CELLS + 2 * _MARGIN) // 4
    share = valid[:, quarter:-quarter, quarter:-quarter].mean(axis=(1, 2))
    covered = np.minimum(members.any(axis=1).sum(axis=1), members.any(axis=2).sum(axis=1)) / (_CELLS - 2 * _MARGIN)
    positions = np.stack((x * z, y * z, z), axis=-1)
    middle = np.array([_median(z[k][members[k]]) for k in range(count)])
    steps = middle * np.maximum(pace[:, 0] / (camera.fx * scale[0]), pace[:, 1] / (camera.fy * scale[1]))
    return BoxedObjects(columns, rows, positions, members, standing, several & standing, covered, share, steps)


def _median(depths: Singles) -> float:
    """Return the median in metres, or 1 without depths. For few depths, np.median takes ten times as long."""
    if not len(depths):
        return 1.0
    low, high = (len(depths) - 1) // 2, len(depths) // 2
    ordered = np.partition(depths, (low, high))
    return float(0.5 * (ordered[low] + ordered[high]))


def _rays(
    camera: CameraModel, scale: tuple[float, float], columns: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]
) -> tuple[Singles, Singles]:
    """Return x and y of the rays of all samples: (n, m, m), or shapes that broadcast to it."""
    across, down = columns[:, None, :].astype(np.float64), rows[:, :, None].astype(np.float64)
    if camera.distortion or camera.rotation != CameraModel.rotation:
        across, down = np.broadcast_arrays(across, down)
        x, y = rays_at(camera, scale, across, down)
    else:
        x, _ = rays_at(camera, scale, across, across)
        _, y = rays_at(camera, scale, down, down)
    return x.astype(np.float32), y.astype(np.float32)


def _ring() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return triples (t, 3) of places in the margin, and rows and columns (16, 4) of the samples of each place.

    Most triples are far apart. Four more are within one side of the margin, because a wall can fill only one side.
    """
    first, inner, last = 0, _MARGIN - 2, _CELLS - 2
    thirds, quarters = (2, _CELLS // 2 - 1, _CELLS - 4), (_CELLS // 4, _CELLS // 2, 3 * _CELLS // 4)
    places = [(first, c) for c in thirds] + [(last, c) for c in thirds]
    places += [(r, first) for r in quarters] + [(r, last) for r in quarters]
    middle = _CELLS // 2
    places += [(inner, middle), (last - inner, middle), (middle, inner), (middle, last - inner)]
    rows = np.array([[r, r, r + 1, r + 1] for r, _ in places])
    columns = np.array([[c, c + 1, c, c + 1] for _, c in places])
    wide = [triple for triple in combinations(range(12), 3) if _area(*(places[place] for place in triple)) > 0.18 * _CELLS**2]
    within = [(3 * side, 3 * side + 2, 12 + side) for side in range(4)]
    return np.array(wide[:: -(-len(wide) // _MOST_TRIPLES)] + within), rows, columns


def _area(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> float:
    return 0.5 * abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


_TRIPLES, _PLACE_ROWS, _PLACE_COLUMNS = _ring()


def _plane_around(x: Singles, y: Singles, z: Singles, candidates: Bools, ring: Bools) -> tuple[Floats, Bools]:
    """Find the plane (n, 3) with the most samples in the margins (RANSAC), and whether there is one (n).

    Triples of places in the margin define the planes. The best plane is fitted again to all its samples.
    """
    shape = z.shape
    x, y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
    good = candidates[:, _PLACE_ROWS, _PLACE_COLUMNS].astype(np.float64)
    number = np.maximum(good.sum(axis=2), 1.0)
    corner = [(part[:, _PLACE_ROWS, _PLACE_COLUMNS] * good).sum(axis=2) / number for part in (x, y, 1.0 / z)]
    usable = good.sum(axis=2) >= 2
    points = np.stack((corner[0], corner[1], np.ones_like(corner[0])), axis=-1)[:, _TRIPLES]  # (n, t, 3, 3)
    sound = usable[:, _TRIPLES].all(axis=2)
    points = np.where(sound[..., None, None], points, np.eye(3))
    determinant = np.abs(np.linalg.det(points))
    sound &= determinant > 1e-9
    points = np.where(sound[..., None, None], points, np.eye(3))
    planes = np.linalg.solve(points, corner[2][:, _TRIPLES][..., None])[..., 0]  # (n, t, 3)
    where = np.flatnonzero(ring)[::_RING_STEP]
    flat = (len(z), -1)
    rx, ry, rz = (part.reshape(flat)[:, where] for part in (x, y, z))
    usual = candidates.reshape(flat)[:, where]
    rays = np.stack((rx, ry, np.ones_like(rx)), axis=1)  # (n, 3, r)
    limit = (NOISE * 3.0 + _STANDS_OUT / rz**2)[:, None, :]
    for_all = np.abs(planes.astype(np.float32) @ rays - (1.0 / rz)[:, None, :]) < limit
    votes = (for_all & usual[:, None, :]).sum(axis=2)
    votes[~sound] = 0
    best = votes.argmax(axis=1)
    index = np.arange(len(z))
    inliers = (for_all[index, best] & usual).astype(np.float64)
    weighted = rays * inliers[:, None, :]
    matrix = weighted @ np.swapaxes(rays, 1, 2) + 1e-6 * np.eye(3)
    side = (weighted @ (1.0 / rz)[..., None]) + 1e-6 * planes[index, best][..., None]
    fitted = np.linalg.solve(matrix, side)[..., 0]
    found = votes[index, best] >= _PLANE_SHARE * len(where)
    return fitted, found


def _components(front: Bools, x: Singles, y: Singles, z: Singles) -> tuple[Bools, Bools]:
    """Return the samples of the largest object in each box, and whether there are several objects.

    A sample that is farther than a neighbour by a gap is not used as a connection. Unconnected parts, such as the outside and the
    inside of a mug, are one object if the distance of their centres is smaller than half the sum of their sizes.
    """
    far = np.where(front, z, np.float32(np.inf))
    nearest = far.copy()
    nearest[:, 1:] = np.minimum(nearest[:, 1:], far[:, :-1])
    nearest[:, :-1] = np.minimum(nearest[:, :-1], far[:, 1:])
    nearest[:, :, 1:] = np.minimum(nearest[:, :, 1:], far[:, :, :-1])
    nearest[:, :, :-1] = np.minimum(nearest[:, :, :-1], far[:, :, 1:])
    with np.errstate(invalid="ignore"):
        solid = front & (z - nearest < gap_between(z.astype(np.float64)))
    members = np.zeros_like(front)
    several = np.zeros(len(front), np.bool_)
    for index, image in enumerate(solid.astype(np.uint8)):
        number, labels, statistics, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
        if number < 2:
            continue
        areas = statistics[1:, cv2.CC_STAT_AREA]
        order = np.argsort(-areas, kind="stable")
        largest = areas[order[0]]
        members[index] = labels == order[0] + 1
        others = order[1:][areas[order[1:]] >= max(_SECOND * largest, _LEAST_SAMPLES)]
        if len(others):
            size, centre = _extent(members[index], x[index], y[index], z[index])
        for label in others:
            part = labels == label + 1
            other_size, other_centre = _extent(part, x[index], y[index], z[index])
            if np.linalg.norm(centre - other_centre) < _TOGETHER * 0.5 * (size + other_size):
                members[index] |= part
            else:
                several[index] = True
    return members, several


def _extent(part: Bools, x: Singles, y: Singles, z: Singles) -> tuple[float, Floats]:
    """Return the larger extent of samples across the line of sight in metres, and the mean (3) of their positions."""
    depths = z[part]
    across, down = np.broadcast_to(x, part.shape)[part] * depths, np.broadcast_to(y, part.shape)[part] * depths
    size = max(float(np.ptp(across)), float(np.ptp(down)))
    return size, np.array([across.mean(), down.mean(), depths.mean()])
