"""Objects in images, from COCO's instances JSON: for detection and for object-aware questions."""

from collections.abc import Mapping
import collections
import os
import reprlib

from rt2_train.data import faults
from rt2_train.data import image_text
from rt2_train.data import json_files
from rt2_train.data import objectives
from rt2_train.processor import Processor

_SCHEMA = 'COCO instances'
# Pixels by which rounded boxes may leave their image; farther out they belong to another one.
_ROUNDED = 1.0


class CocoObjects(image_text.Files):
  """COCO's instances JSON (instances_train2017.json) and a directory of images."""

  roles = ('objects', 'names')

  def __init__(
      self,
      annotations: str,
      image_dir: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'detection',
      name: str = 'coco_objects',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; one example per image. One without objects is left out, and counted.

    A crowd (`iscrowd`) is known to be there, but nobody asks for its box.

    Args:
      annotations: JSON with `images` (`id`, `file_name`, `width`, `height`), `categories` (`id`,
        `name`) and `annotations` (`id`, `image_id`, `category_id`, `bbox`: x, y, width and height
        in pixels).
      image_dir: where the `file_name`s lie.
      processor: of the model.
      objective: 'detection' or 'object_aware', or either with options of its own.
      name: what errors call it.
      on_bad, max_bad_share: what broken images and boxes may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: the JSON file is missing.
      ValueError: it has another schema, or points to images or categories that it does not list;
        images or boxes are broken beyond the policy.
    """
    objective = objectives.resolve(objective)
    identity, size = json_files.identity, json_files.size
    whole = json_files.load(annotations, 'images, categories and annotations')
    images = json_files.entries(
        whole, annotations, _SCHEMA, 'images', id=identity, file_name=json_files.file_name,
        width=size, height=size)
    names = _names(whole, annotations)
    found = _objects(whole, annotations, {image['id']: image for image in images}, names)
    rows, left_out = [], collections.Counter()
    everything = sorted(set(names.values()))
    for image in images:
      objects = found[image['id']]
      if not isinstance(objects, faults.Fault):
        # Presence is all that the names of a dataset are asked for.
        if not any(each.box or 'names' in objective.roles for each in objects):
          left_out['no object'] += 1
          continue
        objects = {'objects': tuple(objects), 'names': everything}
      rows.append(image_text.Row(
          f'image {image["id"]}', os.path.join(image_dir, image['file_name']), objects, 'EN'))
    super().__init__(rows, processor, objective, name, on_bad, max_bad_share, left_out)


def _names(whole: dict, path: str) -> dict[int | str, str]:
  """Category id -> name."""
  categories = json_files.entries(
      whole, path, _SCHEMA, 'categories', id=json_files.identity, name=json_files.text)
  names = {}
  for count, category in enumerate(categories):
    try:
      names[category['id']] = image_text.check_text(category['name'], 'the name')
    except faults.Fault as fault:
      raise ValueError(f'{path}: categories[{count}]: {fault}; write it again') from fault
    if not names[category['id']]:
      raise ValueError(f'{path}: categories[{count}] has an empty name; write it')
  return names


def _objects(
    whole: dict, path: str, images: Mapping[int | str, dict], names: Mapping[int | str, str]
) -> dict[int | str, list[objectives.Object] | faults.Fault]:
  """Image id -> its objects, or what is wrong with one of them."""
  identity = json_files.identity
  found = {image: [] for image in images}
  for entry in json_files.entries(
      whole, path, _SCHEMA, 'annotations', id=identity, image_id=identity, category_id=identity,
      bbox=json_files.box):
    image, category = entry['image_id'], entry['category_id']
    if entry.get('iscrowd', 0) not in (0, 1):
      raise ValueError(f'{path}: annotation {entry["id"]} has iscrowd '
                       f'{reprlib.repr(entry["iscrowd"])}; it is 0 or 1')
    for key, listed in (('image', images), ('category', names)):
      if entry[f'{key}_id'] not in listed:
        where = {'image': 'images', 'category': 'categories'}[key]
        raise ValueError(f'{path}: annotation {entry["id"]} is about {key} {entry[f"{key}_id"]}, '
                         f'which its {where} do not list; copy it again')
    if isinstance(found[image], faults.Fault):
      continue
    box = None
    if not entry.get('iscrowd'):
      box = _box(entry['bbox'], images[image]['width'], images[image]['height'])
      if box is None:
        found[image] = faults.Fault(
            'bad box', f'annotation {entry["id"]}: bbox {entry["bbox"]} of {names[category]} is no '
            f'part of an image of {images[image]["width"]}x{images[image]["height"]}')
        continue
    found[image].append(objectives.Object(names[category], box))
  return found


def _box(bbox: list, width: float, height: float) -> tuple[float, float, float, float] | None:
  """(y0, x0, y1, x1) as shares; None where that is no box inside the image."""
  x, y, w, h = bbox
  # A comparison with NaN is false, too.
  if not (-_ROUNDED <= x <= x + w <= width + _ROUNDED
          and -_ROUNDED <= y <= y + h <= height + _ROUNDED):
    return None
  box = (y / height, x / width, (y + h) / height, (x + w) / width)
  return tuple(min(max(share, 0.0), 1.0) for share in box)
