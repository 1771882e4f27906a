"""What can be read off a picture of the tabletop."""

import dataclasses

import numpy as np
import pytest

from rt2_train.sim import drawing
from rt2_train.sim import objects
from rt2_train.sim import tabletop

SIZE = 48


def scene_and_state(background='seen', categories=(1, 5, 7)):
  positions_Nx2 = np.array([[0.25, 0.25], [0.75, 0.3], [0.5, 0.75]])
  scene = tabletop.Scene('pick', categories, 0, 1, positions_Nx2, background, look=3)
  return scene, tabletop.State(positions_Nx2, np.zeros(3), np.array([0.1, 0.9, 0.3]))


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


def test_every_glyph_is_in_the_font(monkeypatch):
  def coverage(category):
    return drawing._glyph.__wrapped__(category, 0, SIZE)  # not from its cache

  drawn = [coverage(category) for category in range(len(objects.CATEGORIES))]
  absent = dataclasses.replace(objects.CATEGORIES[0], glyph='\U000fffff')
  monkeypatch.setattr(objects, 'CATEGORIES', (absent,))
  for category, glyph in enumerate(drawn):
    assert np.abs(glyph - coverage(0)).mean() > 0.05, category


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


def test_unseen_backgrounds_are_striped_and_seen_ones_are_plain():
  plain, striped = (
      drawing.draw(*scene_and_state(background), SIZE, gripper=False)[36:, :12].astype(int)
      for background in drawing.BACKGROUNDS)
  assert plain.std(axis=(0, 1)).max() < 6 < striped.std(axis=(0, 1)).min()


def test_objects_past_the_edge_are_cut():
  scene, state = scene_and_state()
  edge = dataclasses.replace(state, gripper_3=np.array([0.0, 0.0, 0.45]), held=0, closed=True,
                             positions_Nx2=np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]))
  assert drawing.draw(scene, edge, SIZE).shape == (SIZE, SIZE, 3)
  box = drawing.object_box(scene, edge, 1, SIZE)
  assert max(box) <= 1 and box[0] < box[2] and box[1] < box[3]
