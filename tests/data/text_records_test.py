"""Text without images, in TFRecords and JSON lines."""

import json
import os

import numpy as np
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import vocabulary
from rt2_train.data import converters
from rt2_train.data import text_records
from tests.data import rlds_fixture
from tests.data.web_fixture import EMPTY_REMEDY
from tests.data.web_fixture import REMEDY
from tests.data.web_fixture import write_records

TEXTS = ['the cup is on the table near the red apple', 'open the drawer', 'it is red']


@pytest.fixture(scope='module')
def processor(tmp_path_factory) -> processor_lib.Processor:
  file = str(tmp_path_factory.mktemp('text') / 'sentinels.model')
  vocabulary.train(TEXTS * 9, file, 900, num_integers=256, num_sentinels=10)
  return processor_lib.Processor(
      vocabulary.Vocabulary(file), actions.RT2, images.ImageSpec(8, 8, num_images=2), 24, 16)


def write_lines(directory, texts=TEXTS, name='c4-train.00000-of-00001.json') -> str:
  path = directory / name
  lines = [json.dumps({'text': text, 'url': 'http://'}) for text in texts]
  path.write_text('\n'.join(lines) + '\n')
  return str(path)


def error_of(pattern, processor, **options) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    text_records.TextRecords(str(pattern), processor, objective='continuation', **options)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('form', ['json', 'tfrecord'])
def test_texts_come_back_from_either_format(tmp_path, processor, form):
  if form == 'json':
    pattern = write_lines(tmp_path)
  else:
    pattern = write_records(tmp_path, [[{'text': [text.encode()]} for text in TEXTS]], 'wiki')
  examples = text_records.TextRecords(pattern, processor, objective='continuation')
  assert [examples.text(i) for i in range(3)] == TEXTS
  decode = processor.vocabulary.decode
  for i, text in enumerate(TEXTS):
    example = examples[i]
    assert decode([*example['inputs'], *example['targets']]) == text
    assert example['targets'][-1] == 1 and example['inputs'].dtype == example['targets'].dtype
  name = {'json': 'c4-train', 'tfrecord': 'wiki'}[form]
  assert examples.example_id(2) == f'{name} shard 00000 record 2 text 0'


def test_an_example_has_no_image_and_fits_a_batch(tmp_path, processor):
  examples = text_records.TextRecords(write_lines(tmp_path), processor)
  example = examples[0]
  assert example['images'].shape == (2, 8, 8, 3) and not example['images'].any()
  assert example['image_mask'].tolist() == [0, 0]
  batch = converters.Batch(1, processor)
  batch.put(0, example, 7)
  assert batch.features()['image_mask'].tolist() == [[0, 0]]


def test_span_corruption_answers_what_the_prompt_leaves_out(tmp_path, processor):
  examples = text_records.TextRecords(write_lines(tmp_path), processor)
  words = processor.vocabulary.decode(examples[0]['inputs'])
  said = processor.vocabulary.decode(examples[0]['targets'])
  assert '<extra_id_0>' in words and said.startswith('<extra_id_0>')
  first, _, rest = words.partition('<extra_id_0>')
  assert TEXTS[0].startswith(first.strip()) and rest.split('<extra_id_')[0].strip() in TEXTS[0]


def test_an_example_is_the_same_every_time_and_its_objective_is_in_the_fingerprint(
    tmp_path, processor):
  pattern = write_lines(tmp_path, [' '.join(TEXTS * 400)])
  first, again = (text_records.TextRecords(pattern, processor) for _ in range(2))
  for key, value in first[0].items():
    np.testing.assert_array_equal(value, again[0][key])
  other = text_records.TextRecords(pattern, processor, objective='continuation')
  assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_book_gives_a_part_that_begins_with_a_word(tmp_path, processor):
  book = ' '.join(f'word{n}' for n in range(20_000))
  pattern = write_lines(tmp_path, [book] * 12)
  examples = text_records.TextRecords(pattern, processor, objective='continuation')
  begins = set()
  for i in range(12):
    ids = [*examples[i]['inputs'], *examples[i]['targets'][:-1]]
    assert len(ids) == 24 + 15
    said = processor.vocabulary.decode(ids)
    assert said.strip() in book
    begins.add(said[:12])
  assert len(begins) == 12


def test_the_index_is_read_instead_of_the_text(tmp_path, processor):
  path = write_lines(tmp_path)
  text_records.TextRecords(path, processor)
  status = os.stat(path)
  data = open(path, 'rb').read()
  with open(path, 'wb') as file:
    file.write(data.replace(b'cup', b'pen'))
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  assert text_records.TextRecords(path, processor).text(0).startswith('the pen')


@pytest.mark.parametrize('line, message', [
    (b'{"text": "x', 'the line is not JSON (Unterminated string starting at: line 1 column 10 '
                     '(char 9))'),
    (b'', 'the line is not JSON (Expecting value: line 1 column 1 (char 0))'),
    (b'["x"]', 'has no text under \'text\''),
    (b'{"text": 7}', 'has no text under \'text\''),
    (b'{"text": "\\ud800"}', "text is not Unicode ('utf-8' codec can't encode character '\\ud800' "
                             'in position 0: surrogates not allowed)'),
])
def test_a_broken_line_is_named_or_skipped(tmp_path, processor, line, message):
  path = write_lines(tmp_path)
  with open(path, 'ab') as file:
    file.write(line + b'\n')
  assert error_of(path, processor) == f'c4-train shard 00000 record 3: {message}{REMEDY}'
  examples = text_records.TextRecords(path, processor, on_bad='skip', max_bad_share=0.5)
  assert len(examples) == 3 and examples.report['lost_records'] == 1


def test_an_empty_text_is_named_or_skipped(tmp_path, processor):
  path = write_lines(tmp_path, [*TEXTS, ' \n'])
  assert error_of(path, processor) == (
      'c4-train shard 00000 record 3 text 0: text is empty' + EMPTY_REMEDY)
  examples = text_records.TextRecords(path, processor, on_bad={'empty text': 'skip'})
  assert examples.note == 'skipped: empty text 1'


@pytest.mark.parametrize('record, message', [
    ({'title': [b'x']}, 'has no text'),
    ({'text': [b'x', b'y']}, 'text has 2 values, not 1'),
    ({'text': [b'\xff']}, "text is not UTF-8 ('utf-8' codec can't decode byte 0xff in position 0: "
                          'invalid start byte)'),
])
def test_a_broken_example_is_named(tmp_path, processor, record, message):
  pattern = write_records(tmp_path, [[{'text': [b'open']}, record]], 'wiki')
  assert error_of(pattern, processor) == f'wiki shard 00000 record 1: {message}{REMEDY}'


def test_what_cannot_be_read_in_place_is_refused(tmp_path, processor):
  (tmp_path / 'c4.json.gz').write_bytes(b'')
  assert error_of(tmp_path / 'c4.json.gz', processor) == (
      f'{tmp_path}/c4.json.gz is compressed, which has no random access; unpack it')
  (tmp_path / 'c4.tar').write_bytes(b'')
  assert error_of(tmp_path / 'c4.tar', processor) == (
      f'{tmp_path}/c4.tar matches {tmp_path}/c4.tar (tar); name files of one format, out of '
      'tfrecord, json lines')
  empty = write_lines(tmp_path, [' '])
  assert error_of(empty, processor, on_bad={'empty text': 'skip'}) == (
      f'{empty} has no usable text in 1 records (skipped: empty text 1)')
  assert 'shard 00001 of 00002 is missing' in error_of(
      write_lines(tmp_path, name='c4-val.00000-of-00002.json'), processor)


def test_a_model_without_sentinels_is_refused_with_the_data_it_was_for(tmp_path):
  with pytest.raises(ValueError, match='^c4-train: vocabulary .* has no piece <extra_id_0>, but'):
    text_records.TextRecords(write_lines(tmp_path), rlds_fixture.a_processor())
