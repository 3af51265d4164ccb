"""Render a scene from a seed: a table, a gripper and several objects, with the true poses, bounding boxes and masks.

The same seed gives the same scene on every machine. Random numbers come from MT19937, whose sequence is fixed in numpy. Angles
are computed from the tangent of their half, so that nothing depends on the sine and cosine of a machine.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from robobrain_ros.demo.layout import COLOURS, NAMES, Layout, Thing, make_layout
from robobrain_ros.demo.render import FAR, Camera, Floats, Hits, Rays, cast_box, cast_cup, cast_sphere

TABLE, GRIPPER, FIRST_OBJECT = 0, 1, 2
"""Values in the mask: table and wall, gripper, first object."""

LEAST_VISIBLE = 0.7
"""Smallest visible share of each object and of each handle."""

_BODY, _RIM, _HANDLE = 1, 2, 3

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Intrinsics:
    """Calibration of the pinhole camera in pixels. There is no distortion."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Pose:
    """A pose in the optical frame (x right, y down, z forward): position (x, y, z) in metres, orientation (x, y, z, w)."""

    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]


PixelBox = tuple[int, int, int, int]
"""(u_min, v_min, u_max, v_max) in pixels, all inclusive."""


@dataclass(frozen=True)
class SceneObject:
    """An object on the table as the camera sees it.

    :param id: its value in the mask of the scene.
    :param name: colour and kind, such as "red mug". It is unique in the scene.
    :param pose: pose of its centre.
    :param box: bounding box of its visible pixels.
    :param affordance: bounding box of the visible pixels of the part to grasp: the handle of a mug, the rim of a bowl,
        otherwise the whole object.
    :param centre: the pixel (u, v) of the object that is nearest to the mean of its visible pixels.
    :param size: its largest horizontal extent without the handle, and its height, in metres.
    """

    id: int
    colour: str
    kind: str
    name: str
    pose: Pose
    box: PixelBox
    affordance: PixelBox
    centre: tuple[int, int]
    size: tuple[float, float]


@dataclass(frozen=True)
class Gripper:
    """The open gripper above the table: the pixel between its finger tips, and the bounding box of its visible pixels."""

    tip: tuple[int, int]
    box: PixelBox


@dataclass(frozen=True)
class Scene:
    """An image of the table with its ground truth.

    :param image: RGB, shape (height, width, 3), uint8.
    :param depth: depth along the optical axis in metres, shape (height, width), float32.
    :param mask: `TABLE` (also for the wall), `GRIPPER` or the id of an object for each pixel, shape (height, width), uint8.
    """

    width: int
    height: int
    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    intrinsics: Intrinsics
    objects: tuple[SceneObject, ...]
    gripper: Gripper
    layout: Layout = field(repr=False)

    def at(self, seconds: float) -> "Scene":
        """Return the scene after some time. Its objects move smoothly, and return after six seconds."""
        return render_layout(replace(self.layout, things=tuple(thing.moved(seconds) for thing in self.layout.things)))[0]

    def find(self, name: str) -> SceneObject | None:
        """Return the object with this name, such as "red mug", or None."""
        return next((thing for thing in self.objects if thing.name == name), None)


def make_scene(
    seed: int, size: tuple[int, int] = (640, 480), *, count: int | None = None, names: Sequence[str] | None = None
) -> Scene:
    """Return the scene of a seed.

    :param size: (width, height) in pixels, each at least 112.
    :param count: number of objects, 2 to 6. None: the seed selects it.
    :param names: exactly these objects. They are in `layout.NAMES`, and all different.
    :raises ValueError: a size, count or name is outside of these limits.
    """
    if min(size) < 112:
        raise ValueError(f"The image must have at least 112x112 pixels, not {size[0]}x{size[1]}.")
    if names is not None and (len(set(names)) != len(names) or not set(names) <= set(NAMES) or not 1 <= len(names) <= 6):
        raise ValueError(f"names must be one to six different names of {', '.join(NAMES)}, not {list(names)}.")
    if count is not None and not 2 <= count <= 6:
        raise ValueError(f"count must be 2 to 6, not {count}.")
    rng = np.random.RandomState(seed % 2**32)
    for _ in range(200):
        layout = make_layout(rng, size, count, names)
        if layout is None:
            continue
        scene, visible = render_layout(layout)
        if visible >= LEAST_VISIBLE:
            return scene
    raise ValueError(f"No layout of the table was found for seed {seed}, size {size} and names {names}.")


def render_layout(layout: Layout) -> tuple[Scene, float]:
    """Render a layout.

    :returns: the scene, and the smallest visible share of an object or of its part to grasp.
    """
    camera = layout.camera
    colour, depth = _background(layout)
    mask = np.zeros(depth.shape, np.uint8)
    parts = np.zeros(depth.shape, np.uint8)
    canvas = _Canvas(colour, depth, mask, parts)
    shapes = [_cast(camera, thing) for thing in layout.things]
    for index, (thing, shape) in enumerate(zip(layout.things, shapes, strict=True)):
        if shape.shadow is not None:
            left, top, right, bottom = shape.shadowed
            colour[:, top:bottom, left:right] *= shape.shadow[None]
        _draw(canvas, shape.window, shape.hits, FIRST_OBJECT + index, COLOURS[thing.colour], layout.light, thing.yaw)
    _draw_gripper(canvas, layout)
    image = _sensor(colour, layout)
    visible = 1.0
    objects = []
    for index, (thing, shape) in enumerate(zip(layout.things, shapes, strict=True)):
        left, top, right, bottom = shape.window
        place = (slice(top, bottom), slice(left, right))
        seen = mask[place] == FIRST_OBJECT + index
        part = seen & _graspable(thing, parts[place])
        whole, grasp = int(np.count_nonzero(seen)), int(np.count_nonzero(part))
        if whole == 0 or grasp == 0:
            visible = 0.0
            continue
        visible = min(visible, whole / shape.alone[0], grasp / shape.alone[1], shape.inside)
        objects.append(_describe(camera, thing, FIRST_OBJECT + index, seen, part, (left, top)))
    seen = mask == GRIPPER
    tip = camera.project(layout.gripper[:3])
    tip_pixel = (min(max(round(tip[0]), 0), camera.width - 1), min(max(round(tip[1]), 0), camera.height_px - 1))
    gripper = Gripper(tip_pixel, _box(seen) if seen.any() else (*tip_pixel, *tip_pixel))
    lens = Intrinsics(camera.fx, camera.fy, camera.cx, camera.cy)
    return Scene(camera.width, camera.height_px, image, depth, mask, lens, tuple(objects), gripper, layout), visible


@dataclass(frozen=True)
class _Canvas:
    """The image during rendering: linear RGB of shape (3, height, width), depth, ids, and parts of objects."""

    colour: Floats
    depth: Floats
    mask: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.uint8]


_Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Shape:
    """An object without its surroundings. Nobody may change the arrays, because later images use them too.

    :param alone: number of pixels that it and its part to grasp would cover without occlusion.
    :param inside: 1 if the whole object is in the image, otherwise 0.
    :param shadowed: the part of the image with its shadow. ``shadow``: factors for the colours there; None: no shadow.
    """

    window: _Window
    hits: Hits
    alone: tuple[int, int]
    inside: float
    shadowed: _Window
    shadow: Floats | None


@functools.lru_cache(maxsize=8)
def _cast(camera: Camera, thing: Thing) -> _Shape:
    """Cast an object. Successive images of a table mostly show the same objects in the same places."""
    window = _window(camera, _corners(thing))
    hits = _cast_thing(_object_rays(camera, thing, window), thing, _shape(window))
    alone = (int((hits.part > 0).sum()), int(_graspable(thing, hits.part).sum()))
    shadowed, shadow = _shadow(camera, thing, window) if thing.z == 0.0 else (window, None)
    return _Shape(window, hits, alone, _inside(camera, thing), shadowed, shadow)


def _shape(window: _Window) -> tuple[int, int]:
    return window[3] - window[1], window[2] - window[0]


def _background(layout: Layout) -> tuple[Floats, Floats]:
    """Draw the table and the wall."""
    surface = (layout.wall_y, layout.table, layout.wall, layout.across, layout.down)
    colour, depth = _empty_table(layout.camera, *surface)
    return colour.copy(), depth.copy()


@functools.lru_cache(maxsize=2)
def _empty_table(
    camera: Camera, wall_y: float, table_colour: Colour, wall_colour: Colour, warmer: float, darker: float
) -> tuple[Floats, Floats]:
    """Return colour and depth of the table and the wall. Their depths depend only on the row. Nobody may change the arrays."""
    _, dy, dz = camera.rays(0, 0, camera.width, camera.height_px)
    with np.errstate(divide="ignore"):
        table = np.where(dz < 0, np.float32(-camera.height) / dz, FAR)
        wall = np.where(dy > 0, np.float32(wall_y) / dy, FAR)
    on_table = table < wall
    depth = np.broadcast_to(np.where(on_table, table, wall), (camera.height_px, camera.width)).astype(np.float32)
    across = np.linspace(-1.0, 1.0, camera.width).astype(np.float32)[None, :]
    down = np.linspace(-1.0, 1.0, camera.height_px).astype(np.float32)[:, None]
    colour = np.empty((3, camera.height_px, camera.width), np.float32)
    # The light of the lamp on the right is warm. The light of the window in the back is dim.
    for channel, (warm, bright) in enumerate(((1.0, 0.5), (0.2, 1.0), (-0.9, 0.5))):
        ground = np.where(on_table, np.float32(table_colour[channel]), np.float32(wall_colour[channel]))
        colour[channel] = ground + across * np.float32(warmer * warm) + down * np.float32(darker * bright)
    return colour, depth


def _corners(thing: Thing) -> list[tuple[float, float, float]]:
    reach = thing.radius if thing.kind != "block" else thing.radius * 1.4143
    c, s = thing.yaw
    flat = [(thing.x + a * reach, thing.y + b * reach) for a in (-1, 1) for b in (-1, 1)]
    if thing.handle:
        end, half = thing.radius + thing.handle, 0.15 * thing.radius
        flat += [(thing.x + c * end - b * s * half, thing.y + s * end + b * c * half) for b in (-1, 1)]
    return [(x, y, z) for x, y in flat for z in (thing.z, thing.z + thing.height)]


def _window(camera: Camera, corners: Sequence[tuple[float, float, float]]) -> _Window:
    """Return the part of the image that contains these corners, with a border of one pixel. It has at least one pixel."""
    pixels = [camera.project(corner) for corner in corners]
    left = min(max(int(min(u for u, _ in pixels)) - 1, 0), camera.width - 1)
    top = min(max(int(min(v for _, v in pixels)) - 1, 0), camera.height_px - 1)
    right = min(max(int(max(u for u, _ in pixels)) + 3, left + 1), camera.width)
    bottom = min(max(int(max(v for _, v in pixels)) + 3, top + 1), camera.height_px)
    return left, top, right, bottom


def _inside(camera: Camera, thing: Thing) -> float:
    """Return 1 if the whole object is in the image, otherwise 0."""
    pixels = [camera.project(corner) for corner in _corners(thing)]
    return float(all(1 <= u <= camera.width - 2 and 1 <= v <= camera.height_px - 2 for u, v in pixels))


def _object_rays(camera: Camera, thing: Thing, window: _Window) -> Rays:
    x, y, z = camera.rays(*window)
    c, s = (np.float32(value) for value in thing.yaw)
    px, py = np.float32(-thing.x), np.float32(-thing.y)
    return Rays(c * px + s * py, c * py - s * px, np.float32(camera.height - thing.z), c * x + s * y, c * y - s * x, z)


def _cast_thing(rays: Rays, thing: Thing, shape: tuple[int, int]) -> Hits:
    hits = Hits.nothing(shape)
    radius, height = thing.radius, thing.height
    if thing.kind == "block":
        cast_box(rays, hits, (-radius, -radius, 0.0), (radius, radius, height), _BODY)
    elif thing.kind == "ball":
        cast_sphere(rays, hits, radius, _BODY)
    elif thing.kind == "bowl":
        cast_cup(rays, hits, radius * 0.55, radius, height, radius * 0.12, _BODY, _RIM)
    else:
        cast_cup(rays, hits, radius, radius, height, radius * 0.14, _BODY, _RIM)
        _cast_handle(rays, hits, thing)
    return hits


def _cast_handle(rays: Rays, hits: Hits, thing: Thing) -> None:
    """Cast the handle of a mug: three bars in the direction of the object's x axis."""
    inner, outer, half = thing.radius * 0.97, thing.radius + thing.handle, thing.radius * 0.15
    low, high, bar = thing.height * 0.18, thing.height * 0.86, thing.handle * 0.36
    cast_box(rays, hits, (outer - bar, -half, low), (outer, half, high), _HANDLE)
    cast_box(rays, hits, (inner, -half, low), (outer, half, low + bar), _HANDLE)
    cast_box(rays, hits, (inner, -half, high - bar), (outer, half, high), _HANDLE)


def _graspable(thing: Thing, parts: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return the pixels of the part to grasp: the handle of a mug, the rim of a bowl, otherwise the whole object."""
    if thing.kind == "mug":
        return parts == _HANDLE
    if thing.kind == "bowl":
        return parts == _RIM
    return parts > 0


def _draw(
    canvas: _Canvas,
    window: _Window,
    hits: Hits,
    identity: int,
    colour: tuple[int, int, int],
    light: tuple[float, float, float],
    yaw: tuple[float, float],
) -> None:
    left, top, right, bottom = window
    place = (slice(top, bottom), slice(left, right))
    nearer = hits.depth < canvas.depth[place]
    np.copyto(canvas.depth[place], hits.depth, where=nearer)
    canvas.mask[place][nearer] = identity
    np.copyto(canvas.parts[place], hits.part, where=nearer)
    c, s = yaw
    # Direction of the light in the frame of the object, because the normals are in this frame.
    lx, ly, lz = (np.float32(v) for v in (c * light[0] + s * light[1], c * light[1] - s * light[0], light[2]))
    shade = (
        np.maximum(hits.nx * lx + hits.ny * ly + hits.nz * lz, 0) * np.float32(0.6)
        + hits.nz * np.float32(0.12)
        + np.float32(0.48)
    )
    for channel in range(3):
        np.copyto(canvas.colour[channel][place], shade * np.float32(colour[channel]), where=nearer)


def _shadow(camera: Camera, thing: Thing, window: _Window) -> tuple[_Window, Floats]:
    """Return a soft shadow around the base of the object: its part of the image, and the factors for the colours there."""
    left, top, right, bottom = window
    margin = max(4, (right - left) // 5)
    left, top = max(left - margin, 0), max(top - margin, 0)
    right, bottom = min(right + margin, camera.width), min(bottom + margin, camera.height_px)
    dx, dy, dz = camera.rays(left, top, right, bottom)
    t = np.float32(-camera.height) / np.minimum(dz, np.float32(-1e-3))
    x, y = t * dx - np.float32(thing.x), t * dy - np.float32(thing.y)
    distance = np.sqrt(x * x + y * y) / np.float32(thing.radius * 1.6)
    dark = np.float32(1.0) - np.float32(0.35) * np.maximum(np.float32(1.0) - distance, 0)
    return (left, top, right, bottom), dark


_GRIPPER_COLOUR = (72, 74, 82)


def _draw_gripper(canvas: _Canvas, layout: Layout) -> None:
    """Draw two fingers, a palm, and an arm from above."""
    x, y, z, half = layout.gripper
    finger, deep, long = 0.010, 0.012, 0.055
    boxes = (
        ((-half - finger, -deep, z), (-half, deep, z + long)),
        ((half, -deep, z), (half + finger, deep, z + long)),
        ((-half - finger, -deep * 1.3, z + long), (half + finger, deep * 1.3, z + long + 0.025)),
        ((-0.014, -0.014, z + long + 0.025), (0.014, 0.014, z + long + 0.3)),
    )
    camera = layout.camera
    low = (x - half - finger, x + half + finger)
    top = min(z + long + 0.3, camera.height * 0.9)
    corners = [(a, y + b, c) for a in low for b in (-0.02, 0.02) for c in (z, top)]
    window = _window(camera, corners)
    dx, dy, dz = camera.rays(*window)
    rays = Rays(np.float32(-x), np.float32(-y), np.float32(camera.height), dx, dy, dz)
    hits = Hits.nothing(_shape(window))
    for corner, opposite in boxes:
        cast_box(rays, hits, corner, (opposite[0], opposite[1], min(opposite[2], top)), _BODY)
    _draw(canvas, window, hits, GRIPPER, _GRIPPER_COLOUR, layout.light, (1.0, 0.0))


def _sensor(colour: Floats, layout: Layout) -> npt.NDArray[np.uint8]:
    """Convert to 8 bits, with the noise of the sensor: uniform, and the same in all channels. This changes ``colour``."""
    rng = np.random.RandomState(layout.noise_seed)
    steps = rng.randint(0, 2 * layout.noise + 1, size=colour.shape[1:], dtype=np.uint8)
    noise = steps.astype(np.float32)
    noise -= np.float32(layout.noise - 0.5)
    colour += noise
    np.clip(colour, 0, 255, out=colour)
    image = np.empty((*colour.shape[1:], 3), np.uint8)
    for channel in range(3):
        image[..., channel] = colour[channel]
    return image


def _box(seen: npt.NDArray[np.bool_]) -> PixelBox:
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _shifted(box: PixelBox, corner: tuple[int, int]) -> PixelBox:
    return box[0] + corner[0], box[1] + corner[1], box[2] + corner[0], box[3] + corner[1]


def _middle(seen: npt.NDArray[np.bool_], box: PixelBox) -> tuple[int, int]:
    """Return the visible pixel that is nearest to the mean of all visible pixels."""
    rows, columns = np.nonzero(seen[box[1] : box[3] + 1, box[0] : box[2] + 1])
    v, u = int(rows.sum()) / len(rows), int(columns.sum()) / len(columns)
    nearest = int(np.argmin((rows - v) ** 2 + (columns - u) ** 2))
    return int(columns[nearest]) + box[0], int(rows[nearest]) + box[1]


def _describe(
    camera: Camera,
    thing: Thing,
    identity: int,
    seen: npt.NDArray[np.bool_],
    part: npt.NDArray[np.bool_],
    corner: tuple[int, int],
) -> SceneObject:
    """Describe an object. ``seen`` and ``part`` begin at the pixel ``corner``."""
    position = camera.to_camera((thing.x, thing.y, thing.z + thing.height / 2.0))
    # In the optical frame, the table's frame is rotated about x by 90 degrees plus the pitch. The object is rotated by its yaw.
    half_cos, half_sin = camera.half_pitch
    root = 0.5**0.5
    w, x = root * (half_cos - half_sin), root * (half_cos + half_sin)
    yaw_cos, yaw_sin = thing.half_yaw
    orientation = (x * yaw_cos, -x * yaw_sin, w * yaw_sin, w * yaw_cos)
    box = _box(seen)
    middle = _middle(seen, box)
    return SceneObject(
        identity,
        thing.colour,
        thing.kind,
        thing.name,
        Pose(position, orientation),
        _shifted(box, corner),
        _shifted(_box(part), corner),
        (middle[0] + corner[0], middle[1] + corner[1]),
        (2.0 * thing.radius, thing.height),
    )
