"""Captions of images in JSON files beside them: COCO captions and XM3600 (Crossmodal-3600)."""

from collections.abc import Mapping, Sequence
import os

from rt2_train.data import image_text
from rt2_train.data import json_files
from rt2_train.data import objectives
from rt2_train.processor import Processor


class CocoCaptions(image_text.Files):
  """COCO's caption JSON (captions_train2017.json) and a directory of images."""

  roles = ('caption',)

  def __init__(
      self,
      annotations: str,
      image_dir: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'caption',
      name: str = 'coco_captions',
      lang: str = 'EN',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; one example per caption.

    Args:
      annotations: JSON with `images` (`id`, `file_name`) and `annotations` (`id`, `image_id`,
        `caption`).
      image_dir: where the `file_name`s lie.
      processor: of the model.
      objective: what is made of a caption, a name in `objectives.OBJECTIVES`.
      name: what errors call it.
      lang: of the captions.
      on_bad, max_bad_share: what broken images and empty texts may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: the JSON file is missing.
      ValueError: it has another schema; images or texts are broken beyond the policy.
    """
    identity, schema = json_files.identity, 'COCO captions'
    whole = json_files.load(annotations, 'images and annotations')
    listed = json_files.entries(
        whole, annotations, schema, 'images', id=identity, file_name=json_files.file_name)
    files = {entry['id']: entry['file_name'] for entry in listed}
    rows = []
    for entry in json_files.entries(
        whole, annotations, schema, 'annotations', id=identity, image_id=identity,
        caption=json_files.text):
      if entry['image_id'] not in files:
        raise ValueError(f'{annotations}: annotation {entry["id"]} is about image '
                         f'{entry["image_id"]}, which its images do not list; copy it again')
      rows.append(image_text.Row(
          f'annotation {entry["id"]}', os.path.join(image_dir, files[entry['image_id']]),
          {'caption': entry['caption']}, lang))
    super().__init__(rows, processor, objective, name, on_bad, max_bad_share)


class Xm3600(image_text.Files):
  """XM3600's captions.jsonl, in 36 languages, and a directory of images."""

  roles = ('caption',)

  def __init__(
      self,
      captions: str,
      images: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'caption',
      languages: Sequence[str] | None = None,
      name: str = 'xm3600',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; one example per caption.

    Args:
      captions: JSON lines, one image each: `image/key`, and language -> `caption` (texts).
      images: path of an image, with its key as a format field: '/xm3600/images/{image_id}.jpg'.
      processor, objective, name, on_bad, max_bad_share: as in CocoCaptions.
      languages: those to take, such as ['de', 'fr']; all when None.

    Raises:
      FileNotFoundError: the file of captions is missing.
      ValueError: it has another schema, or lacks a language; images or texts are broken beyond the
        policy.
    """
    if languages is not None and (isinstance(languages, str) or not languages):
      raise ValueError(f'{name}: languages is {languages!r}; it is a list such as '
                       "['de', 'fr'], or None for all")
    rows, keys, schema = [], set(), 'XM3600'
    for where, entry in json_files.lines(captions, 'captions'):
      json_files.check_entry(entry, where, schema, **{'image/key': json_files.identity})
      key = entry['image/key']
      if key in keys:
        raise ValueError(f'{where} has image/key {key!r}, as another before it; leave one of them '
                         'out')
      keys.add(key)
      there = [lang for lang, said in entry.items() if isinstance(said, dict)]
      for lang in there if languages is None else languages:
        if lang not in there:
          raise ValueError(f'{where} has no captions in {lang!r}; choose languages out of '
                           f'{", ".join(there)}')
        json_files.check_entry(
            entry[lang], f'{where}: {lang}', schema, caption=json_files.texts)
        rows += [
            image_text.Row(
                f'image {key} {lang} {count}', json_files.image_path(images, key),
                {'caption': caption}, lang.upper())
            for count, caption in enumerate(entry[lang]['caption'])]
    super().__init__(rows, processor, objective, name, on_bad, max_bad_share)
