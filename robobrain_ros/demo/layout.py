"""Random layouts of the table: kinds, colours, sizes and poses of the objects, and the pose of the camera."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from robobrain_ros.demo.render import Camera

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 35, 35),
    "green": (40, 150, 55),
    "blue": (40, 75, 205),
    "yellow": (228, 200, 40),
    "purple": (135, 55, 165),
    "orange": (240, 125, 25),
}
KINDS = ("block", "ball", "mug", "bowl")
NAMES = tuple(f"{colour} {kind}" for colour in COLOURS for kind in KINDS)
"""Names of all objects that can be on the table."""

_PERIOD = 6.0


@dataclass(frozen=True)
class Thing:
    """An object on the table, before rendering: its sizes and position in metres, and its yaw.

    The yaw is the cosine and the sine of half of the angle.

    :param z: height of its lower end above the table.
    """

    colour: str
    kind: str
    radius: float
    height: float
    x: float
    y: float
    half_yaw: tuple[float, float]
    handle: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    z: float = 0.0

    @property
    def name(self) -> str:
        """Colour and kind, such as "red mug"."""
        return f"{self.colour} {self.kind}"

    @property
    def yaw(self) -> tuple[float, float]:
        """Cosine and sine of the yaw."""
        c, s = self.half_yaw
        return c * c - s * s, 2.0 * c * s

    def moved(self, seconds: float) -> "Thing":
        """Return the object after some time. It moves back and forth along its drift."""
        phase = (seconds / _PERIOD) % 1.0
        there = 2.0 * phase if phase < 0.5 else 2.0 - 2.0 * phase
        eased = there * there * (3.0 - 2.0 * there)
        return replace(self, x=self.x + self.drift[0] * eased, y=self.y + self.drift[1] * eased)


@dataclass(frozen=True)
class Layout:
    """Everything that a scene contains, before rendering. Colours are RGB from 0 to 255. ``noise_seed`` is for the sensor."""

    camera: Camera
    things: tuple[Thing, ...]
    wall_y: float
    gripper: tuple[float, float, float, float]
    """x, y and z of the finger tips, and half of the opening, in metres."""
    table: tuple[float, float, float]
    wall: tuple[float, float, float]
    across: float
    down: float
    light: tuple[float, float, float]
    noise_seed: int
    noise: int


def make_layout(
    rng: np.random.RandomState, size: tuple[int, int], count: int | None, names: Sequence[str] | None
) -> Layout | None:
    """Return a random layout, or None if there was no room for all objects."""
    camera = _camera(rng, size)
    look_y = camera.height * camera.cos_pitch / camera.sin_pitch
    chosen = list(names) if names is not None else _choose(rng, count)
    things: list[Thing] = []
    for name in chosen:
        thing = _place(rng, camera, name, things)
        if thing is None:
            return None
        things.append(thing)
    gripper = _gripper(rng, camera, things)
    if gripper is None:
        return None
    light = (rng.uniform(-0.5, 0.5), rng.uniform(-0.7, -0.1), 0.8)
    length = (light[0] * light[0] + light[1] * light[1] + light[2] * light[2]) ** 0.5
    grey = rng.uniform(165, 210)
    return Layout(
        camera=camera,
        things=tuple(things),
        wall_y=max(
            [look_y + rng.uniform(0.22, 0.45), *(thing.y + thing.radius * 1.45 + thing.handle + 0.03 for thing in things)]
        ),
        gripper=gripper,
        table=(rng.uniform(150, 185), rng.uniform(125, 155), rng.uniform(95, 125)),
        wall=(grey, grey, grey + rng.uniform(-6, 6)),
        across=rng.uniform(24, 34),
        down=rng.uniform(18, 28),
        light=(light[0] / length, light[1] / length, light[2] / length),
        noise_seed=int(rng.randint(0, 2**31 - 1)),
        noise=int(rng.randint(2, 7)),
    )


def _camera(rng: np.random.RandomState, size: tuple[int, int]) -> Camera:
    width, height = size
    # The field of view of the longer side is 53 to 65 degrees.
    focal = max(width, height) * rng.uniform(0.78, 1.0)
    if height > width:
        focal *= 0.85
    tangent = rng.uniform(0.36, 0.56)
    length = (1.0 + tangent * tangent) ** 0.5
    half_cos, half_sin = 1.0 / length, tangent / length
    sin_pitch = 2.0 * half_cos * half_sin
    distance = rng.uniform(0.6, 0.85)
    return Camera(
        width,
        height,
        focal,
        focal,
        (width - 1) / 2.0,
        (height - 1) / 2.0,
        sin_pitch,
        half_cos * half_cos - half_sin * half_sin,
        (half_cos, half_sin),
        distance * sin_pitch,
    )


def _choose(rng: np.random.RandomState, count: int | None) -> list[str]:
    """Return different names. In a third of the cases, they have only two colours and two kinds, so that both words matter."""
    number = count if count is not None else int(rng.randint(2, 7))
    colours, kinds = list(COLOURS), list(KINDS)
    if rng.random_sample() < 0.33 and number <= 4:
        rng.shuffle(colours)
        rng.shuffle(kinds)
        colours, kinds = colours[:2], kinds[:2]
    names = [f"{colour} {kind}" for colour in colours for kind in kinds]
    rng.shuffle(names)
    return names[:number]


def _half_turn(rng: np.random.RandomState, largest_tangent: float, flip: bool) -> tuple[float, float]:
    """Return the cosine and sine of half of a random yaw. ``flip`` adds 180 degrees.

    :param largest_tangent: largest tangent of a quarter of the yaw.
    """
    tangent = rng.uniform(-largest_tangent, largest_tangent)
    length = (1.0 + tangent * tangent) ** 0.5
    c, s = 1.0 / length, tangent / length
    return (-s, c) if flip else (c, s)


def _place(rng: np.random.RandomState, camera: Camera, name: str, others: Sequence[Thing]) -> Thing | None:
    colour, kind = name.split()
    radius = {"block": rng.uniform(0.026, 0.036), "ball": rng.uniform(0.029, 0.041), "mug": rng.uniform(0.033, 0.042)}.get(
        kind, rng.uniform(0.048, 0.062)
    )
    height = {"block": 2.0 * radius, "ball": 2.0 * radius, "mug": radius * rng.uniform(2.0, 2.4)}.get(
        kind, radius * rng.uniform(0.75, 0.95)
    )
    handle = radius * rng.uniform(0.72, 0.92) if kind == "mug" else 0.0
    for _ in range(40):
        x, y = spot_on_table(rng, camera)
        drift = (rng.uniform(-0.018, 0.018), rng.uniform(-0.018, 0.018))
        yaw = _half_turn(rng, 0.36 if kind == "mug" else 0.4, kind == "mug" and rng.random_sample() < 0.5)
        thing = Thing(colour, kind, radius, height, x, y, yaw, handle, drift)
        if fits(camera, thing, others):
            return thing
    return None


def spot_on_table(rng: np.random.RandomState, camera: Camera) -> tuple[float, float]:
    """Return a random x and y on the table that the camera sees."""
    u, v = rng.uniform(0.04, 0.96) * camera.width, rng.uniform(0.1, 0.95) * camera.height_px
    across, down = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    depth = camera.height / (camera.sin_pitch + camera.cos_pitch * down)
    return across * depth, (camera.cos_pitch - camera.sin_pitch * down) * depth


def fits(camera: Camera, thing: Thing, others: Sequence[Thing]) -> bool:
    """Return whether an object on the table is inside the image and does not touch the others."""
    reach = thing.radius * 1.2 + thing.handle
    for sx in (-1, 1):
        for sy, z in ((-1, 0.0), (1, thing.height), (-1, thing.height)):
            u, v = camera.project((thing.x + sx * reach, thing.y + sy * reach, z))
            if not (2 <= u <= camera.width - 3 and 2 <= v <= camera.height_px - 3):
                return False
    for other in others:
        least = reach + other.radius * 1.2 + other.handle + 0.025
        if (thing.x - other.x) ** 2 + (thing.y - other.y) ** 2 < least * least:
            return False
    return True


def _gripper(rng: np.random.RandomState, camera: Camera, things: Sequence[Thing]) -> tuple[float, float, float, float] | None:
    """Return a gripper above the table, in the upper part of the image, whose tips do not hide an object."""
    for _ in range(40):
        u, v = rng.uniform(0.12, 0.88) * camera.width, rng.uniform(0.2, 0.48) * camera.height_px
        z = rng.uniform(0.10, 0.17)
        across, down = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
        depth = (camera.height - z) / (camera.sin_pitch + camera.cos_pitch * down)
        x, y = across * depth, (camera.cos_pitch - camera.sin_pitch * down) * depth
        clear = 0.085 * camera.fx / depth
        seen = [camera.project((thing.x, thing.y, thing.height / 2)) for thing in things]
        if all(abs(pu - u) > clear or pv > v + clear for pu, pv in seen):
            return x, y, z, rng.uniform(0.018, 0.026)
    return None
