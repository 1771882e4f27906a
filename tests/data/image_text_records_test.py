"""Images and texts in TFRecords and in tar shards, under any objective."""

import os
import re

import numpy as np
import pytest

from rt2_train import prompts
from rt2_train.data import image_text_records
from rt2_train.data import loader
from rt2_train.data import tasks
from tests.data import rlds_fixture
from tests.data.web_fixture import asked
from tests.data.web_fixture import check
from tests.data.web_fixture import EMPTY_REMEDY
from tests.data.web_fixture import processor
from tests.data.web_fixture import REMEDY
from tests.data.web_fixture import SKIP_EMPTY
from tests.data.web_fixture import write_records
from tests.data.web_fixture import write_tar

PICTURES = [rlds_fixture.jpeg(number) for number in range(5)]


def open_records(pattern, **options) -> image_text_records.Records:
  return image_text_records.Records(str(pattern), processor(), **options)


def error_of(pattern, **options) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    open_records(pattern, **options)
  assert '\n' not in str(error.value)
  return str(error.value)


# TFRecord.


def test_caption_records_take_every_caption_in_its_language(tmp_path):
  pattern = write_records(tmp_path, [
      [{'image': [PICTURES[1]], 'caption': [b'the apple'], 'lang': [b'en']}],
      [{'image': [PICTURES[2]], 'caption': [b'the cup', 'die Tasse'.encode()],
        'lang': [b'en', b'de']},
       {'image': [PICTURES[3]], 'caption': [b'open']}]])
  examples = open_records(pattern)
  assert len(examples) == 4
  check(examples[0], PICTURES[1], prompts.caption('EN'), 'the apple')
  check(examples[2], PICTURES[2], prompts.caption('DE'), 'die Tasse')
  check(examples[3], PICTURES[3], prompts.caption('EN'), 'open')
  assert examples.example_id(2) == 'captions-train shard 00001 record 0 text 1'
  assert os.listdir(tmp_path / '.rt2_index') == ['captions-train.tfrecord-_.caption.npz']


def test_question_records_take_every_question_with_its_answer(tmp_path):
  pattern = write_records(tmp_path, [[
      {'image/encoded': [PICTURES[1]], 'q': [b'what?', b'is it open?'],
       'a': [b'the drawer', b'yes'], 'lang': [b'en']}]], name='vqa')
  keys = dict(image_key='image/encoded', keys={'question': 'q', 'answer': 'a'})
  examples = open_records(pattern, objective='answer', **keys)
  check(examples[1], PICTURES[1], 'Answer in EN: is it open?', 'yes')
  again = open_records(
      pattern, objective='answer', index_dir=str(tmp_path / 'elsewhere'), **keys)
  assert again.fingerprint == examples.fingerprint


def test_the_same_records_train_to_answer_to_ask_and_as_palm_e_is_asked(tmp_path):
  pattern = write_records(tmp_path, [[SOUND]], name='vqa')
  assert {objective: asked(open_records(pattern, objective=objective), 0)
          for objective in ('answer', 'question', 'palm_e_answer')} == {
      'answer': ('Answer in EN: what?', 'the cup'),
      'question': ('Generate a question in EN for the cup:', 'what?'),
      'palm_e_answer': ('Q: what? A:', 'the cup')}
  fingerprints = {open_records(pattern, objective=objective, lang=lang).fingerprint
                  for objective in ('answer', 'question', 'palm_e_answer') for lang in ('EN', 'DE')}
  assert len(fingerprints) == 6


def test_a_split_caption_is_cut_by_its_id_whoever_indexed_it(tmp_path):
  pattern = write_records(tmp_path, [[
      {'image': [PICTURES[0]], 'caption': [b'the red cup near the apple']} for _ in range(20)]])
  open_records(pattern, name='another')
  first = open_records(pattern, objective='split_caption', name='webli')
  said = [asked(first, i) for i in range(20)]
  assert len(set(said)) > 3
  assert first.example_id(3) == 'webli shard 00000 record 3 text 0'
  second = open_records(pattern, objective='split_caption', name='webli',
                        index_dir=str(tmp_path / 'elsewhere'))
  assert [asked(second, i) for i in range(20)] == said
  for prompt, answer in said:
    begun = re.fullmatch(r'Generate the alt_text in EN at (\d+):(.*)', prompt)
    assert int(begun[1]) == len(begun[2].strip())
    assert f'{begun[2]} {answer}'.split() == 'the red cup near the apple'.split()


def test_all_texts_that_are_read_in_an_image_are_one_answer(tmp_path):
  pattern = write_records(tmp_path, [[
      {'image': [PICTURES[0]], 'ocr': [b'pick', b'the cup'], 'lang': [b'de', b'de']},
      {'image': [PICTURES[1]], 'ocr': [b'apple']},
      {'image': [PICTURES[2]], 'ocr': []}]])
  assert error_of(pattern, objective='ocr') == (
      'captions-train shard 00000 record 2 text 0: ocr is empty' + EMPTY_REMEDY)
  examples = open_records(pattern, objective='ocr', on_bad=SKIP_EMPTY)
  assert [asked(examples, i) for i in range(2)] == [
      ('Generate the ocr_text in DE:', 'pick the cup'), ('Generate the ocr_text in EN:', 'apple')]
  assert len(examples) == 2 and examples.note == 'skipped: empty text 1'


SOUND = {'image': [PICTURES[1]], 'question': [b'what?'], 'answer': [b'the cup']}


@pytest.mark.parametrize('change, message', [
    ({'image': [PICTURES[1][:400]]}, 'JPEG truncated (400 bytes, no end marker)'),
    ({'image': []}, 'image has 0 values, not 1'),
    ({'answer': [b'a', b'b']}, 'answer has 2 values, question has 1'),
    ({'answer': [b'\xff']}, "answer is not UTF-8 ('utf-8' codec can't decode byte 0xff in "
                            'position 0: invalid start byte)'),
    ({'lang': [b'en', b'de']}, 'lang has 2 values, question has 1'),
    ({'answer': np.ones(1, np.float32)}, 'has no answer'),
    ({'question': [b'is <img> red?']},
     "question holds '<img>', which marks the place of an image in a prompt"),
])
def test_a_broken_record_is_named(tmp_path, change, message):
  pattern = write_records(tmp_path, [[SOUND], [SOUND, SOUND | change]], name='vqa')
  assert error_of(pattern, objective='answer') == f'vqa shard 00001 record 1: {message}{REMEDY}'
  skipping = open_records(pattern, objective='answer', on_bad='skip', max_bad_share=0.5)
  assert len(skipping) == 2
  assert skipping.report['lost_records'] == 1


def test_records_with_empty_answers_are_named_or_skipped_and_counted(tmp_path):
  both = SOUND | {'question': [b'what?', b'where?'], 'answer': [b'the cup', b' ']}
  pattern = write_records(tmp_path, [[SOUND, both]], name='vqa')
  assert error_of(pattern, objective='answer') == (
      'vqa shard 00000 record 1 text 1: answer is empty' + EMPTY_REMEDY)
  examples = open_records(pattern, objective='answer', on_bad=SKIP_EMPTY)
  assert len(examples) == 2
  assert examples.note == 'skipped: empty text 1'


def test_a_truncated_file_of_records_is_named(tmp_path):
  pattern = write_records(tmp_path, [[SOUND, SOUND]], name='vqa')
  path = pattern.replace('*', '00000-of-00001')
  os.truncate(path, os.path.getsize(path) - 10)
  assert error_of(pattern, objective='answer').startswith(
      'vqa shard 00000: ends inside the record at byte ')


def test_files_that_are_not_there_are_named(tmp_path):
  assert error_of('/none-*').startswith('no file matches /none-*; it is a pattern')
  pattern = write_records(tmp_path, [[SOUND], [SOUND], [SOUND]], name='vqa')
  os.unlink(pattern.replace('*', '00001-of-00003'))
  assert error_of(pattern) == f'{pattern}: shard 00001 of 00003 is missing; copy the rest'


# Tar.

CC3M = [
    ('000000000.jpg', PICTURES[0]), ('000000000.json', {'caption': 'the red apple', 'width': 64}),
    ('000000000.txt', 'the apple'),
    ('000000001.jpg', PICTURES[1]), ('000000001.json', {'caption': 'the red cup', 'lang': 'de'}),
    ('000000001.txt', 'the cup\n'),
]


def test_shards_of_img2dataset_are_read_where_they_lie(tmp_path):
  write_tar(tmp_path / '00000.tar', *CC3M)
  write_tar(tmp_path / '00001.tar', ('000010000.png', PICTURES[2]), ('000010000.txt', 'open'))
  examples = open_records(tmp_path / '*.tar', name='cc3m')
  assert len(examples) == 3
  check(examples[0], PICTURES[0], prompts.caption('EN'), 'the apple')
  check(examples[1], PICTURES[1], prompts.caption('DE'), 'the cup')
  check(examples[2], PICTURES[2], prompts.caption('EN'), 'open')
  assert examples.example_id(2) == 'cc3m shard 00001 sample 0 text 0'
  assert sorted(os.listdir(tmp_path)) == ['.rt2_index', '00000.tar', '00001.tar']
  os.truncate(tmp_path / '00001.tar', 100)
  with pytest.raises(ValueError, match='^cc3m shard 00001 sample 0 text 0: .*1.tar ends inside'):
    examples[2]


def test_texts_may_be_keys_of_a_samples_json(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *CC3M)
  examples = open_records(path, keys={'caption': 'caption'})
  assert [asked(examples, i)[1] for i in range(2)] == ['the red apple', 'the red cup']
  assert examples.fingerprint != open_records(path).fingerprint


def test_one_json_may_hold_several_questions_about_its_image(tmp_path):
  path = write_tar(
      tmp_path / 'vq2a.tar', ('0.jpg', PICTURES[0]),
      ('0.json', {'question': ['what?', 'is it open?'], 'answer': ['the cup', 'yes']}),
      ('1.jpg', PICTURES[1]), ('1.json', {'question': 'where?', 'answer': 'on the table'}))
  examples = open_records(path, objective='answer')
  assert [asked(examples, i) for i in range(3)] == [
      ('Answer in EN: what?', 'the cup'), ('Answer in EN: is it open?', 'yes'),
      ('Answer in EN: where?', 'on the table')]
  assert examples.example_id(1) == 'vq2a shard 00000 sample 0 text 1'
  ocr = open_records(path, objective='ocr', keys={'ocr': 'question'})
  assert [asked(ocr, i)[1] for i in range(2)] == ['what? is it open?', 'where?']


@pytest.mark.parametrize('members, message', [
    ([('7.txt', 'the cup')], 'no image beside it (.jpg, .jpeg, .png, .webp)'),
    ([('7.jpg', PICTURES[3])], 'no .txt beside it'),
    ([('7.jpg', PICTURES[3]), ('7.json', {})], 'no .txt beside it'),
    ([('7.jpg', PICTURES[3]), ('7.PNG', PICTURES[3]), ('7.txt', 'x')], '2 images, not 1'),
    ([('7.jpg', PICTURES[3]), ('7.JPG', PICTURES[3]), ('7.txt', 'x')], 'two members have one name'),
    ([('7.jpg', PICTURES[3][:300]), ('7.txt', 'x')], 'JPEG truncated (300 bytes, no end marker)'),
    ([('7.jpg', PICTURES[3]), ('7.txt', b'\xff')],
     ".txt is not UTF-8 ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
    ([('7.jpg', PICTURES[3]), ('7.json', b'{'), ('7.txt', 'x')],
     '.json is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 '
     '(char 1))'),
    ([('7.jpg', PICTURES[3]), ('7.txt', 'x'), ('8.json', {}), ('7.json', {})], None),
])
def test_a_broken_sample_is_named_with_its_key(tmp_path, members, message):
  path = write_tar(tmp_path / 'cc3m.tar', *CC3M, *members)
  number, message = (2, f"'7': {message}") if message else (3, "'8': no image beside it (.jpg, "
                                                            '.jpeg, .png, .webp) (and 1 more; '
                                                            'missing image: 1, sample order: 1)')
  assert error_of(path) == f'cc3m shard 00000 sample {number}: {message}{REMEDY}'
  skipping = open_records(path, on_bad='skip', max_bad_share=0.5)
  assert [asked(skipping, i)[1] for i in range(2)] == ['the apple', 'the cup']
  assert skipping.report['lost_records'] == len(members) // 4 + 1


def test_an_empty_caption_of_a_sample_is_named_or_skipped(tmp_path):
  path = write_tar(tmp_path / 'cc3m.tar', *CC3M, ('7.jpg', PICTURES[3]), ('7.txt', '\n'))
  assert error_of(path) == (
      "cc3m shard 00000 sample 2 text 0: '7': .txt is empty" + EMPTY_REMEDY)
  assert open_records(path, on_bad=SKIP_EMPTY).note == 'skipped: empty text 1'


def test_a_truncated_tar_is_named_and_costs_the_sample_it_ends_in(tmp_path):
  path = write_tar(tmp_path / 'cc3m.tar', *CC3M)
  os.truncate(path, 10_000)
  assert error_of(path).startswith('cc3m shard 00000: ends ')
  examples = open_records(path, on_bad='skip', max_bad_share=0.5)
  assert (len(examples), examples.note) == (
      1, 'skipped: truncated shard 1; 1 of 2 records lost')


def test_an_empty_shard_and_one_without_samples_are_told_apart(tmp_path):
  write_tar(tmp_path / '0.tar', *CC3M)
  write_tar(tmp_path / '1.tar')
  assert len(open_records(tmp_path / '*.tar')) == 2
  (tmp_path / '2.tar').write_bytes(b'')
  assert error_of(tmp_path / '*.tar', name='cc3m') == (
      'cc3m shard 00002: is empty (0 bytes, some samples expected)' + REMEDY)


def test_a_dataset_without_any_example_is_refused(tmp_path):
  path = write_tar(tmp_path / '0.tar')
  assert error_of(path) == f'{path} has no usable example in 0 samples ()'


def test_what_is_drawn_is_the_same_in_every_epoch_through_seqio_and_the_loader(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *(
      member for i in range(6) for member in (
          (f'{i}.jpg', PICTURES[i % 5]), (f'{i}.txt', f'the red cup near {i} green apples'))))
  examples = open_records(path, objective='split_caption')
  tasks.add_task('drawn_by_id', {'train': lambda: examples})
  by_seqio = {
      row['example_id'].decode(): (row['inputs'].tolist(), row['targets'].tolist())
      for row in tasks.get('drawn_by_id').get_dataset(shuffle=False).as_numpy_iterator()}
  one = loader.Loader('drawn_by_id', 3, processor())
  for step in range(4):  # Two epochs.
    batch = next(one)
    for row, (_, example_id) in enumerate(one.examples(step)):
      inputs, targets = by_seqio[example_id]
      assert batch['encoder_input_tokens'][row][:len(inputs)].tolist() == inputs
      assert batch['decoder_target_tokens'][row][:len(targets)].tolist() == targets
  one.close()
  assert len({tuple(inputs) for inputs, _ in by_seqio.values()}) > 2


# Patterns and options.


def test_data_are_called_by_their_files_or_else_by_their_directory(tmp_path):
  (tmp_path / 'cc3m').mkdir()
  write_tar(tmp_path / 'cc3m' / '00000.tar', *CC3M)
  assert open_records(tmp_path / 'cc3m' / '*.tar').report['name'] == 'cc3m'
  assert open_records(tmp_path / 'cc3m' / '0*.tar').report['name'] == '0'


def test_files_of_several_formats_or_compressed_ones_are_refused(tmp_path):
  write_tar(tmp_path / '00000.tar', *CC3M)
  (tmp_path / '00000.parquet').write_bytes(b'')
  assert error_of(tmp_path / '*') == (
      f'{tmp_path}/* matches {tmp_path}/00000.parquet (tfrecord), {tmp_path}/00000.tar (tar); name '
      'files of one format, out of tfrecord, tar')
  (tmp_path / '00001.tar.gz').write_bytes(b'')
  assert error_of(tmp_path / '*.gz') == (
      f'{tmp_path}/00001.tar.gz is compressed, which has no random access; unpack it')


def test_a_pattern_of_several_directories_says_where_its_index_goes(tmp_path):
  for name in 'ab':
    (tmp_path / name).mkdir()
    write_tar(tmp_path / name / '0.tar', *CC3M)
  pattern = str(tmp_path / '?' / '0.tar')
  assert error_of(pattern) == (
      f'{pattern} is of several directories; pass index_dir, which is to hold the index of them '
      'all')
  assert len(open_records(pattern, index_dir=str(tmp_path / 'index'))) == 4


@pytest.mark.parametrize('options, message', [
    ({'objective': 'detection'}, "0: objective 'detection' takes objects, which these data do not "
     'say; choose one of caption, split_caption, ocr, answer, palm_e_answer, question'),
    ({'keys': {'text': 'caption'}},
     "0: keys names text, objective 'caption' takes caption"),
    ({'objective': 'answer', 'keys': {'question': 'answer'}},
     "0: keys is {'question': 'answer', 'answer': 'answer'}; each role lies in a place of its own"),
])
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
  path = write_tar(tmp_path / '0.tar', *CC3M)
  assert error_of(path, **options) == message
