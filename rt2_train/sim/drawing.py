"""Pixels of a tabletop state: NumPy and PIL only.

RT-2 sees one frame, so one frame says all that a policy needs: height shows three ways (the
gripper's size, its brightness, the offset of its shadow), closed fingers show as a colour, and a
handle between them as another; drawers show how far they are out, and feet which way is down.
"""

import functools

import numpy as np

from rt2_train.sim import backdrops
from rt2_train.sim import cards
from rt2_train.sim import objects
from rt2_train.sim import places
from rt2_train.sim import sprites
from rt2_train.sim import things
from rt2_train.sim import world

HEIGHT_LEVELS = 6
_TOP = 0.45  # height that gets the last level
_SHADOW = 0.35  # shadow offset per metre of height
_SYMBOL = 0.7  # share of its card that a symbol fills
_PAPER, _CARD_EDGE = np.array([250.0, 248, 240]), np.array([110.0, 105, 100])
_FOOT = np.array([105.0, 25, 45])  # unlike any object and unlike the fingers
_RIM, _INSIDE = np.array([85.0, 95, 120]), np.array([158.0, 165, 178])  # of a bowl
_WICKER, _BASKET = np.array([172.0, 132, 84]), np.array([220.0, 192, 150])
_CABINET, _TRAY = np.array([128.0, 100, 74]), np.array([168.0, 146, 118])
_FACE = np.array([92.0, 70, 52])
_METAL, _PULLED = np.array([60.0, 62, 68]), np.array([235.0, 190, 60])  # a handle, free and held

# Environment -> colour of open and of closed fingers at the table, and what height adds.
_SEEN_GRIPPER = (20.0, 16.0), (np.array([150.0, 0, 150]), np.array([14, 0, 14]))
_UNSEEN_GRIPPER = (
    (np.array([30.0, 45, 90]), np.array([14, 15, 14])),
    (np.array([0.0, 130, 110]), np.array([4, 18, 16])))

# Coverage and colour of what is laid over the picture; the first casts the shadow.
Layers = list[tuple[np.ndarray, np.ndarray]]


def draw(
    scene: world.Scene, state: world.State, size: int, gripper: bool = True) -> np.ndarray:
  """The picture uint8 [size, size, 3] of a state; web pictures are drawn without the gripper."""
  image = backdrops.table(scene.background, scene.environment, scene.look, size).copy()
  if scene.receptacles or state.drawers_D.size:
    _draw_places(image, scene, state)
  above = []
  for i in range(len(scene.categories)):
    layers = _layers(scene, state, i, size)
    if gripper and state.held == i:
      above = layers
      continue
    x, y = state.positions_Nx2[i].tolist()
    _blend(image, layers[0][0] * 0.35, 40.0, x + 0.015, y + 0.02)
    for alpha, color in layers:
      _blend(image, alpha, color, x, y)
  if state.drawers_D.size:
    _draw_cabinet(image)
  if gripper:
    _draw_gripper(image, scene, state, above)
  frame = np.clip(image, 0, 255).astype(np.uint8)
  if scene.environment == 'seen':
    return frame
  return backdrops.through_camera(frame, scene.environment, scene.look)


def object_box(
    scene: world.Scene, state: world.State, i: int, size: int,
) -> tuple[float, float, float, float]:
  """The tight box (y0, x0, y1, x1) of object `i` as the seen camera draws it, in table units."""
  alpha = _layers(scene, state, i, size)[0][0][..., 0] > 0.2
  rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
  x, y = state.positions_Nx2[i]
  top, left = _corner(alpha.shape[0], y, size), _corner(alpha.shape[1], x, size)
  box = np.array([top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1])
  return tuple(np.clip(box / size, 0, 1).tolist())


def _layers(scene: world.Scene, state: world.State, i: int, size: int) -> Layers:
  """An object's glyph; below that the card it is on, or above it the foot it stands on."""
  thing = things.THINGS[scene.categories[i]]
  color = _colors(scene.categories, scene.colors, scene.look)[i]
  if isinstance(thing, cards.Card):
    degrees = _degrees(state.angles_N[i])
    symbol = sprites.glyph(thing.glyph, degrees, size, _SYMBOL, thing.bold)
    return [(sprites.card(degrees, size), _CARD_EDGE),
            (sprites.card(degrees, size, inset=0.03), _PAPER), (symbol, color)]
  if state.rolls_N.size:
    degrees = _degrees(state.angles_N[i] + state.rolls_N[i])
    return [(sprites.glyph(thing.glyph, degrees, size), color),
            (sprites.stand(degrees, size), _FOOT)]
  return [(sprites.glyph(thing.glyph, _degrees(state.angles_N[i]), size), color)]


def _draw_gripper(
    image: np.ndarray, scene: world.Scene, state: world.State, above: Layers) -> None:
  """The fingers, their shadow, and over them what they hold, in place."""
  x, y, z = state.gripper_3.tolist()
  size = image.shape[0]
  level = int(round(min(z / _TOP, 1.0) * HEIGHT_LEVELS))
  fingers = sprites.gripper(state.closed, level, size)
  offset = z * _SHADOW
  _blend(image, fingers * 0.4, 20.0, x + offset, y + offset)
  if above:
    _blend(image, above[0][0] * 0.3, 20.0, x + offset, y + offset)
  for alpha, color in above:
    _blend(image, alpha, color, x, y)
  palette = _SEEN_GRIPPER if scene.environment == 'seen' else _UNSEEN_GRIPPER
  base, more = palette[state.closed]
  _blend(image, fingers, base + more * level, x, y)
  if state.pulled >= 0:
    _draw_handle(image, state, state.pulled, _PULLED)


def _draw_places(image: np.ndarray, scene: world.Scene, state: world.State) -> None:
  """What things are put into: below them."""
  size, radius = image.shape[0], places.RECEPTACLE_RADIUS
  for receptacle in scene.receptacles:
    x, y = receptacle.x, receptacle.y
    if receptacle.name == 'bowl':
      _blend(image, sprites.disc(radius, size), _RIM, x, y)
      _blend(image, sprites.disc(radius - 0.025, size), _INSIDE, x, y)
    else:
      square = (x - radius, y - radius, x + radius, y + radius)
      _fill(image, square, _BASKET)
      _blend(image, sprites.weave(radius, size), _WICKER, x, y)
  half, front = places.DRAWER_WIDTH / 2, places.FRONT - state.drawers_D
  for i, x in enumerate(front.tolist()):
    y = places.drawer_y(i)
    _fill(image, (x, y - half, 1.0, y + half), _FACE)
    _fill(image, (x + 0.02, y - half + 0.02, 1.0, y + half - 0.02), _TRAY)
    _draw_handle(image, state, i, _METAL)


def _draw_cabinet(image: np.ndarray) -> None:
  """The strip that drawers slide out of: above what is in them."""
  _fill(image, (places.FRONT, 0.0, 1.0, 1.0), _CABINET)
  for i in range(len(places.DRAWERS)):
    y, half = places.drawer_y(i), places.DRAWER_WIDTH / 2
    _fill(image, (places.FRONT + 0.02, y - half, 1.0, y + half), _CABINET * 0.88)


def _draw_handle(
    image: np.ndarray, state: world.State, i: int, color: np.ndarray) -> None:
  x, y = places.handles(state.drawers_D)[i]
  _fill(image, (x - 0.015, y - 0.07, x + 0.015, y + 0.07), color)
  for end in (-0.055, 0.055):
    _fill(image, (x, y + end - 0.015, x + places.HANDLE, y + end + 0.015), color)


def _degrees(angle: float) -> int:
  """The nearest multiple of 15 degrees: few enough that sprites are drawn once."""
  return int(round(np.degrees(angle) / 15)) * 15 % 360


def _corner(length: int, center: float, size: int) -> int:
  return int(round(center * size - length / 2))


def _fill(
    image: np.ndarray, box: tuple[float, float, float, float], color: np.ndarray) -> None:
  """Lays `color` over a rectangle (left, top, right, bottom), in metres, in place."""
  left, top, right, bottom = box
  columns, x = sprites.span(left, right, image.shape[1])
  rows, y = sprites.span(top, bottom, image.shape[0])
  view = image[rows, columns]
  view += (y[:, None] * x)[..., None] * (color - view)


def _blend(
    image: np.ndarray, alpha: np.ndarray, color: np.ndarray | float, x: float, y: float) -> None:
  """Lays `color` over `image` [S, S, 3] by `alpha` [h, w, 1] centred at (x, y), in place."""
  size, (height, width) = image.shape[0], alpha.shape[:2]
  top, left = _corner(height, y, size), _corner(width, x, size)
  y0, x0 = max(0, -top), max(0, -left)
  y1, x1 = min(height, size - top), min(width, size - left)
  if y1 <= y0 or x1 <= x0:
    return
  a = alpha[y0:y1, x0:x1]
  view = image[top + y0:top + y1, left + x0:left + x1]
  view += a * (color - view)


@functools.lru_cache(maxsize=256)
def _colors(categories: tuple[int, ...], colors: tuple[str, ...], look: int) -> np.ndarray:
  """Each object's colour [N, 3]: its category's unless the scene says another, and a shade off."""
  named = colors or [things.THINGS[category].color for category in categories]
  shades_Nx3 = np.random.default_rng([look, 1]).uniform(-18, 18, (len(categories), 3))
  return np.clip([objects.COLORS_RGB[name] for name in named] + shades_Nx3, 0, 255)
