"""What can be read off a picture of the tabletop."""

import dataclasses

import numpy as np
import pytest

from rt2_train.sim import backdrops
from rt2_train.sim import drawing
from rt2_train.sim import objects
from rt2_train.sim import places
from rt2_train.sim import sprites
from rt2_train.sim import things
from rt2_train.sim import world

SIZE = 48


def scene_and_state(background='seen', categories=(1, 5, 7)):
  positions_Nx2 = np.array([[0.25, 0.25], [0.75, 0.3], [0.5, 0.75]])
  scene = world.Scene('pick', categories, 0, 1, positions_Nx2, background, look=3)
  return scene, world.State(positions_Nx2, np.zeros(3), np.array([0.1, 0.9, 0.3]))


def distance_to(image, color):
  return np.abs(image.astype(int) - objects.COLORS_RGB[color]).max(-1)


@pytest.mark.parametrize('category', range(len(objects.CATEGORIES)))
def test_each_object_shows_in_its_colour_where_it_is(category):
  scene, state = scene_and_state(categories=(category, (category + 1) % 24, (category + 2) % 24))
  image = drawing.draw(scene, state, 2 * SIZE)
  y0, x0, y1, x1 = drawing.object_box(scene, state, 0, 2 * SIZE)
  assert abs((x0 + x1) / 2 - 0.25) < 0.04 and abs((y0 + y1) / 2 - 0.25) < 0.04
  # A colour's shade is up to 18 off; thin strokes are blended with the wood.
  inside = distance_to(image, objects.CATEGORIES[category].color) < 40
  rows, columns = np.nonzero(inside[:48, :48])
  assert len(rows) >= 10
  assert abs(columns.mean() / 96 - 0.25) < 0.06 and abs(rows.mean() / 96 - 0.25) < 0.06


def test_every_glyph_is_in_the_font():
  def coverage(character, bold=False):
    return sprites.glyph(character, 0, SIZE, bold=bold)

  for thing in things.THINGS:
    bold = getattr(thing, 'bold', False)
    absent = coverage('\U000fffff', bold)
    assert np.abs(coverage(thing.glyph, bold) - absent).mean() > 0.05, thing.name


def test_the_height_of_the_gripper_can_be_seen():
  scene, state = scene_and_state()
  frames = [
      drawing.draw(scene, dataclasses.replace(state, gripper_3=np.array([0.5, 0.5, z])), 192)
      for z in (0.05, 0.2, 0.4)]
  greys = [frame[96, 96].mean() for frame in frames]
  assert greys[0] + 20 < greys[1] < greys[2] - 20
  # Only the gripper is grey; the row through its bar is as wide as it is.
  widths = [(np.ptp(frame[96].astype(int), axis=-1) < 8).sum() for frame in frames]
  assert widths[0] + 5 < widths[1] < widths[2] - 5


def test_closed_fingers_show_as_a_colour():
  scene, state = scene_and_state()
  state = dataclasses.replace(state, gripper_3=np.array([0.5, 0.5, 0.2]))
  opened = drawing.draw(scene, state, SIZE)[SIZE // 2, SIZE // 2].astype(int)
  closed = drawing.draw(scene, dataclasses.replace(state, closed=True), SIZE)[
      SIZE // 2, SIZE // 2].astype(int)
  assert np.ptp(opened) < 8 and closed[0] - closed[1] > 100 and closed[2] - closed[1] > 100


def test_web_pictures_have_no_gripper():
  scene, state = scene_and_state()
  elsewhere = dataclasses.replace(state, gripper_3=np.array([0.5, 0.5, 0.1]))
  np.testing.assert_array_equal(
      drawing.draw(scene, state, SIZE, gripper=False),
      drawing.draw(scene, elsewhere, SIZE, gripper=False))
  assert not np.array_equal(drawing.draw(scene, state, SIZE), drawing.draw(scene, elsewhere, SIZE))


def test_drawing_is_a_pure_function_of_the_state():
  scene, state = scene_and_state()
  first = drawing.draw(scene, state, SIZE)
  drawing.draw(scene, dataclasses.replace(state, gripper_3=np.zeros(3)), SIZE)
  np.testing.assert_array_equal(drawing.draw(scene, state, SIZE), first)
  assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8


def test_unseen_backgrounds_are_striped_or_cluttered_and_seen_ones_are_plain():
  plain, striped, cluttered = (
      drawing.draw(*scene_and_state(background), SIZE, gripper=False)[36:, :12].astype(int)
      for background in backdrops.BACKGROUNDS)
  assert plain.std(axis=(0, 1)).max() < 6 < striped.std(axis=(0, 1)).min()
  assert cluttered.std(axis=(0, 1)).max() > 6


def test_objects_past_the_edge_are_cut():
  scene, state = scene_and_state()
  edge = dataclasses.replace(state, gripper_3=np.array([0.0, 0.0, 0.45]), held=0, closed=True,
                             positions_Nx2=np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]))
  assert drawing.draw(scene, edge, SIZE).shape == (SIZE, SIZE, 3)
  box = drawing.object_box(scene, edge, 1, SIZE)
  assert max(box) <= 1 and box[0] < box[2] and box[1] < box[3]


def test_a_symbol_is_drawn_on_paper():
  seven = next(i for i in things.CARD_INDICES if things.THINGS[i].name == '7')
  scene, state = scene_and_state(categories=(seven, 5, 7))
  box = drawing.object_box(scene, state, 0, 2 * SIZE)
  y0, x0, y1, x1 = (round(edge * 2 * SIZE) for edge in box)
  card = drawing.draw(scene, state, 2 * SIZE)[y0:y1, x0:x1].astype(int)
  assert x1 - x0 < y1 - y0  # upright
  assert (card.min(-1) > 230).mean() > 0.4  # paper
  assert 0.08 < (card.max(-1) < 90).mean() < 0.4  # ink


def test_the_colour_of_an_object_is_what_the_scene_says():
  scene, state = scene_and_state()
  box = (slice(9, 15), slice(9, 15))
  painted = dataclasses.replace(scene, colors=('green', 'blue', 'green'))
  assert (distance_to(drawing.draw(scene, state, SIZE)[box], 'red') < 40).any()
  assert (distance_to(drawing.draw(painted, state, SIZE)[box], 'green') < 40).any()


def test_what_has_fallen_shows_its_foot_at_a_side():
  def foot(roll):
    scene, state = scene_and_state()
    state = dataclasses.replace(state, rolls_N=np.array([roll, 0, 0]))
    image = drawing.draw(scene, state, 2 * SIZE).astype(int)[:48, :48]
    rows, columns = np.nonzero(np.abs(image - drawing._FOOT).max(-1) < 30)
    return np.array([columns.mean(), rows.mean()]) / (2 * SIZE) - 0.25

  (x, y), (left_x, left_y), (right_x, right_y) = foot(0), foot(np.pi / 2), foot(-np.pi / 2)
  assert abs(x) < 0.02 and y > 0.08
  assert left_x > 0.08 and right_x < -0.08 and abs(left_y) < 0.02 and abs(right_y) < 0.02


def test_a_drawer_shows_how_far_it_is_out_and_whose_handle_is_held():
  scene, state = scene_and_state()

  def draw(out, pulled=-1):
    drawers_D = np.array([0.0, out, 0.0])
    x, y = places.handles(drawers_D)[1]
    at = dataclasses.replace(
        state, drawers_D=drawers_D, closed=True, pulled=pulled, gripper_3=np.array([x, y, 0.05]),
        positions_Nx2=np.array([[0.2, 0.2], [0.2, 0.5], [0.2, 0.8]]))
    return drawing.draw(scene, at, SIZE).astype(int)

  shut, half, full = (draw(out) for out in (0.0, 0.14, 0.28))
  row = [np.abs(image[18:30] - shut[18:30]).max((0, 2)) > 20 for image in (half, full)]
  assert row[1].sum() > row[0].sum() + 4 > 8
  gold = np.abs(draw(0.14, pulled=1) - drawing._PULLED).max(-1) < 30
  assert gold.sum() >= 4 and not (np.abs(half - drawing._PULLED).max(-1) < 30).any()


def test_what_is_in_a_closed_drawer_is_out_of_sight():
  scene, state = scene_and_state()
  state = dataclasses.replace(
      state, drawers_D=np.zeros(3), positions_Nx2=np.array([[0.97, 0.5], [0.2, 0.5], [0.2, 0.8]]))
  elsewhere = dataclasses.replace(
      state, positions_Nx2=np.array([[0.99, 0.5], [0.2, 0.5], [0.2, 0.8]]))
  hidden = [drawing.draw(scene, one, SIZE)[:, 42:] for one in (state, elsewhere)]
  np.testing.assert_array_equal(*hidden)


@pytest.mark.parametrize('environment', backdrops.ENVIRONMENTS[1:])
def test_another_environment_has_another_camera_another_gripper_and_things_around(environment):
  scene, state = scene_and_state()
  state = dataclasses.replace(state, gripper_3=np.array([0.5, 0.5, 0.1]))
  seen = drawing.draw(scene, state, 2 * SIZE).astype(int)
  other = drawing.draw(
      dataclasses.replace(scene, environment=environment), state, 2 * SIZE).astype(int)
  assert np.abs(seen[0] - other[0]).max() > 60  # the floor, where the table's edge was
  # Open fingers are grey on the seen arm alone, and the middle of the table stays in the middle.
  assert np.ptp(seen[48, 48]) < 8 < np.ptp(other[48, 48])
  red = distance_to(other, 'red') < 40
  rows, columns = np.nonzero(red[:60, :60])
  # What was at (0.25, 0.25) is nearer to the middle, up to what the shear takes.
  assert 0.2 < columns.mean() / 96 < 0.45 and 0.2 < rows.mean() / 96 < 0.45


def test_every_scene_of_an_environment_has_a_camera_of_its_own():
  scene, state = scene_and_state()
  frames = [drawing.draw(dataclasses.replace(scene, environment='unseen', look=look), state, SIZE)
            for look in (1, 2)]
  assert np.abs(np.subtract(*frames, dtype=int)).mean() > 5
