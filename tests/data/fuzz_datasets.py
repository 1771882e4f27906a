"""Small sound datasets of every layout, as files in memory, for the fuzzer to break."""

import functools
import json
import pathlib
import struct
import tempfile

import tensorflow as tf

from rt2_train.data import layouts
from rt2_train.data import tfrecord
from tests.data import rlds_fixture

ROBOT = ('fractal', 'bridge_oxe', 'bridge', 'language_table')
RECORDS = ('caption_records', 'vqa_records')
FILES = ('vqa_json', 'coco_json', 'text_vqa_json', 'gqa_json', 'objects_json')
LAYOUTS = (*ROBOT, *RECORDS, *FILES)

_TEXTS = (('the apple', 'der Apfel'), ('a cup',), ('the sponge', 'two cups', 'a drawer'))


@functools.lru_cache(maxsize=None)
def files(layout: str) -> dict[str, bytes]:
  """The dataset of `layout`: file name to content."""
  if layout in FILES:
    pictures = {f'{image}.jpg': rlds_fixture.jpeg(image, 16, 16) for image in (1, 2, 3)}
    wholes = {name: json.dumps(whole).encode() for name, whole in _json_files(layout).items()}
    return pictures | wholes
  found, stem = {}, 'web'
  if layout in ROBOT:
    stem = 'tabletop-train'
    with tempfile.TemporaryDirectory() as directory:
      rlds_fixture.write(directory, layout, records(layout))
      found = {path.name: path.read_bytes() for path in pathlib.Path(directory).glob('*.json')}
  for i, shard in enumerate(records(layout)):
    found[f'{stem}.tfrecord-{i:05d}-of-00002'] = b''.join(frame(serialize(flat)) for flat in shard)
  return found


def _json_files(layout: str) -> dict[str, dict]:
  texts = [(10 * image + n, image, text)
           for image, said in enumerate(_TEXTS, 1) for n, text in enumerate(said)]
  if layout == 'coco_json':
    return {'captions.json': {
        'images': [{'id': image, 'file_name': f'{image}.jpg'} for image in (1, 2, 3)],
        'annotations': [{'id': number, 'image_id': image, 'caption': text}
                        for number, image, text in texts]}}
  if layout == 'objects_json':
    return {'instances.json': {
        'info': {'year': 2017, 'version': '1.0', 'description': 'COCO', 'contributor': 'all'},
        'images': [{'id': image, 'file_name': f'{image}.jpg', 'width': 16, 'height': 16,
                    'license': 1, 'date_captured': '2013-11-14', 'coco_url': 'http://'}
                   for image in (1, 2, 3)],
        'annotations': [
            {'id': number, 'image_id': image, 'category_id': number,
             'bbox': [number % 5, 2, 8, 9.5], 'area': 76, 'iscrowd': 0,
             'segmentation': [[1, 2, 3, 4, 5, 6]]}
            for number, image, _ in texts],
        'categories': [{'id': number, 'name': text, 'supercategory': 'thing'}
                       for number, _, text in texts]}}
  if layout == 'gqa_json':
    return {'questions.json': {
        str(number): {'imageId': str(image), 'question': f'is it {text}?', 'answer': text}
        for number, image, text in texts}}
  if layout == 'text_vqa_json':
    return {'questions.json': {'data': [
        {'question_id': number, 'image_id': str(image), 'question': f'is it {text}?',
         'answers': ['no', text, text]}
        for number, image, text in texts]}}
  return {
      'questions.json': {'questions': [
          {'question_id': number, 'image_id': image, 'question': f'is it {text}?'}
          for number, image, text in texts]},
      'annotations.json': {'annotations': [
          {'question_id': number, 'multiple_choice_answer': text,
           'answers': [{'answer': text, 'answer_id': 1}, {'answer': 'no', 'answer_id': 2}]}
          for number, _, text in texts]}}


@functools.lru_cache(maxsize=None)
def records(layout: str) -> list[list[dict]]:
  """Two shards of three flat records."""
  if layout in ROBOT:
    return [rlds_fixture.episodes(layout, 3, 3), rlds_fixture.episodes(layout, 3, 4, 3)]
  found = []
  for number in range(6):
    texts = [text.encode() for text in _TEXTS[number % 3]]
    record = {'image': [rlds_fixture.jpeg(number, 16, 16)], 'lang': [b'en'] * len(texts)}
    if layout == 'caption_records':
      record['caption'] = [b'%s %d' % (text, number) for text in texts]
    else:
      record['question'] = [b'is it %s %d?' % (text, number) for text in texts]
      record['answer'] = texts
    found.append(record)
  return [found[:3], found[3:]]


@functools.lru_cache(maxsize=None)
def rows(layout: str) -> dict[str, tuple[list[tuple[str, str, dict | list]], str]]:
  """What each row of a layout of JSON and image files is made of: (file, key, entry), image.

  A list stands for all entries that are about one image.
  """
  wholes = _json_files(layout)
  if layout == 'coco_json':
    listed = {entry['id']: entry for entry in wholes['captions.json']['images']}
    return {
        f'annotation {entry["id"]}': (
            [('captions.json', 'annotations', entry),
             ('captions.json', 'images', listed[entry['image_id']])],
            f'{entry["image_id"]}.jpg')
        for entry in wholes['captions.json']['annotations']}
  if layout == 'objects_json':
    whole, made = wholes['instances.json'], {}
    for image in whole['images']:
      about = [entry for entry in whole['annotations'] if entry['image_id'] == image['id']]
      names = [each for each in whole['categories']
               if each['id'] in {entry['category_id'] for entry in about}]
      made[f'image {image["id"]}'] = (
          [('instances.json', 'images', image), ('instances.json', 'annotations', about),
           *(('instances.json', 'categories', name) for name in names)], image['file_name'])
    return made
  if layout == 'gqa_json':
    return {f'question {number}': ([('questions.json', number, entry)], f'{entry["imageId"]}.jpg')
            for number, entry in wholes['questions.json'].items()}
  if layout == 'text_vqa_json':
    return {
        f'question {entry["question_id"]}': (
            [('questions.json', 'data', entry)], f'{entry["image_id"]}.jpg')
        for entry in wholes['questions.json']['data']}
  pairs = zip(wholes['questions.json']['questions'], wholes['annotations.json']['annotations'])
  return {
      f'question {question["question_id"]}': (
          [('questions.json', 'questions', question), ('annotations.json', 'annotations', answer)],
          f'{question["image_id"]}.jpg')
      for question, answer in pairs}


def read_keys(layout: str) -> list[str]:
  """The keys of a record that its reader looks at."""
  if layout in ROBOT:
    flags = ('is_first', 'is_last')
    return [f'steps/{key}' for key in (*layouts.LAYOUTS[layout].keys, *flags)]
  return sorted(records(layout)[0][0])


def serialize(flat: dict) -> bytes:
  """The tf.train.Example of a flat record, the same in every process."""
  example = tf.train.Example.FromString(rlds_fixture.serialize(flat))
  return example.SerializeToString(deterministic=True)


def frame(payload: bytes, length: int | None = None) -> bytes:
  """A TFRecord of `payload` whose CRCs are right, whatever length it states."""
  head = struct.pack('<Q', len(payload) if length is None else length)
  crcs = [struct.pack('<I', tfrecord.masked_crc32c(part)) for part in (head, payload)]
  return head + crcs[0] + payload + crcs[1]


def frames(data: bytes) -> list[tuple[int, int]]:
  """(start, stop) of each whole record of a shard."""
  found, start = [], 0
  while start + 16 <= len(data):
    stop = start + 16 + struct.unpack_from('<Q', data, start)[0]
    if stop > len(data):
      break
    found.append((start, stop))
    start = stop
  return found
