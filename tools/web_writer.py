"""Writes web pictures of the tabletop to disk: VQAv2's and COCO's JSON, and caption TFRecords."""

from collections.abc import Iterable
import json
import os

import numpy as np
import tensorflow as tf

from rt2_train import prompts
from rt2_train.sim import drawing
from rt2_train.sim import web
from tools import fractal_writer

Pictures = Iterable[tuple[np.random.Generator, web.Picture]]


def write_vqa(
    directory: str, split: str, image_size: int, pictures: Pictures, num_questions: int,
) -> list[str]:
  """Writes questions in VQAv2's form and objects in COCO's; returns all the text.

  Files: {split}_questions.json and {split}_annotations.json, {split}_instances.json,
  images/{split}/{image_id:012d}.jpg. Beside VQAv2's keys an annotation's `question_type` is the
  kind of question, and `answers` are all that are right.
  """
  images = os.path.join(directory, 'images', split)
  os.makedirs(images)
  asked, seen, texts = ([], []), [], []
  for image_id, (rng, picture) in enumerate(pictures):
    with open(os.path.join(images, f'{image_id:012d}.jpg'), 'wb') as file:
      file.write(fractal_writer.jpeg(picture.draw(image_size)))
    for question in web.sample_questions(rng, picture, num_questions):
      _append(asked, image_id, question)
      texts += [prompts.vqa(question.text), question.answer]
    question = web.sample_detection(rng, picture, image_size)
    texts += [question.text, question.answer]
    seen.append([
        (name, drawing.object_box(picture.scene, picture.state, i, image_size))
        for i, name in enumerate(picture.names)])
  path = os.path.join(directory, split)
  _write_json(f'{path}_questions.json', {'questions': asked[0]})
  _write_json(f'{path}_annotations.json', {'annotations': asked[1]})
  _write_json(f'{path}_instances.json', _instances(seen, image_size))
  return texts


def write_captions(
    directory: str, split: str, image_size: int, pictures: Pictures, num_shards: int,
) -> list[str]:
  """Writes one caption per picture as tf.train.Examples; returns all the text.

  Files: {split}.tfrecord-SSSSS-of-NNNNN. Keys: image/encoded (JPEG), image/key, caption, language
  ('en', 'de', 'es' or 'fr').
  """
  os.makedirs(directory, exist_ok=True)
  stem = os.path.join(directory, f'{split}.tfrecord')
  writers = [
      tf.io.TFRecordWriter(f'{stem}-{shard:05d}-of-{num_shards:05d}')
      for shard in range(num_shards)]
  texts = []
  for i, (rng, picture) in enumerate(pictures):
    language, caption = web.sample_caption(rng, picture)
    writers[i % num_shards].write(_example({
        'image/encoded': fractal_writer.jpeg(picture.draw(image_size)),
        'image/key': f'{split}/{i:08d}'.encode(),
        'caption': caption.encode(),
        'language': language.encode(),
    }))
    texts += [prompts.caption(language.upper()), caption]
  for writer in writers:
    writer.close()
  return texts


def _append(asked: tuple[list, list], image_id: int, question: web.Question) -> None:
  questions, annotations = asked
  ids = {'question_id': len(questions), 'image_id': image_id}
  questions.append({**ids, 'question': question.text})
  annotations.append({
      **ids,
      'question_type': question.kind,
      'multiple_choice_answer': question.answer,
      'answers': [{'answer': answer} for answer in question.accepted],
  })


def _instances(seen: list[list[tuple[str, tuple[float, ...]]]], image_size: int) -> dict:
  """COCO's instances of pictures, each with (name, (y0, x0, y1, x1) as shares) of its objects."""
  names = sorted({name for objects in seen for name, _ in objects})
  annotations = []
  for image_id, objects in enumerate(seen):
    for name, box in objects:
      # Boxes begin and end with a pixel.
      y0, x0, y1, x1 = (round(share * image_size) for share in box)
      annotations.append({
          'id': len(annotations),
          'image_id': image_id,
          'category_id': names.index(name) + 1,
          'bbox': [x0, y0, x1 - x0, y1 - y0],
          'area': (x1 - x0) * (y1 - y0),
          'iscrowd': 0,
      })
  return {
      'images': [
          {'id': image_id, 'file_name': f'{image_id:012d}.jpg', 'width': image_size,
           'height': image_size}
          for image_id in range(len(seen))],
      'annotations': annotations,
      'categories': [{'id': number, 'name': name} for number, name in enumerate(names, 1)],
  }


def _example(values: dict[str, bytes]) -> bytes:
  feature = {
      key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
      for key, value in values.items()}
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString(deterministic=True)


def _write_json(path: str, content: dict) -> None:
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(content, file, ensure_ascii=False)
