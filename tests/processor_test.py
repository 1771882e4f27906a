"""One object makes examples for training and reads answers for a robot, before and after disk."""

import dataclasses
import io
import json
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import PIL.Image
import pytest
import sentencepiece

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import sequences
from rt2_train import vocabulary as vocabulary_lib

EOS = 1


@pytest.fixture(scope='module')
def model_file(tmp_path_factory) -> str:
  file = str(tmp_path_factory.mktemp('processor') / 'text.model')
  words = [f'{a}{b}{c}' for a in ('ka', 'lo', 'mi', 'ru', 'te') for b in ('ba', 'do', 'gu', 'ni')
           for c in ('', 'fe', 'pa', 'so', 'vi', 'zu', 'ha', 'jo', 'ly', 'wen', 'xa', 'qui', 'yor')]
  texts = [prompts.robot(f'pick {a} near {b}') for a in words for b in words[::40]]
  vocabulary_lib.train(texts + words * 3, file, vocab_size=2500)
  return file


@pytest.fixture(scope='module')
def processor(model_file) -> processor_lib.Processor:
  return processor_lib.Processor(
      vocabulary_lib.Vocabulary(model_file), actions.RT2, images.ImageSpec(32, 48, num_images=2),
      inputs_length=24, targets_length=9)


def jpeg(height=40, width=60) -> bytes:
  file = io.BytesIO()
  PIL.Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file, 'JPEG')
  return file.getvalue()


def test_a_robot_prompt_is_the_papers_and_is_encoded_once(processor):
  ids = processor.robot_inputs('pick kaba')
  assert processor.vocabulary.decode(ids) == prompts.robot('pick kaba')
  assert ids.dtype == np.int32
  assert processor.robot_inputs('pick kaba') is ids
  with pytest.raises(ValueError, match='read-only'):
    ids[0] = 5
  assert np.array_equal(processor.robot_inputs(' pick kaba\n'), ids)


@pytest.mark.parametrize('instruction', ['', '  \n'])
def test_an_empty_instruction_is_refused(processor, instruction):
  with pytest.raises(ValueError, match='the instruction is empty'):
    processor.robot_inputs(instruction)


def test_half_an_instruction_is_never_passed_on(processor):
  with pytest.raises(ValueError, match='tokens, inputs_length is 24'):
    processor.robot_inputs('pick kaba ' * 20)
  assert len(processor.text_inputs('pick kaba ' * 20)) == 24


def test_an_action_is_eight_tokens_and_eos(processor):
  targets = processor.action_targets([1, 0.004, -0.286, 0.891, -1.509, -0.326, -0.006, 0.703])
  assert targets.dtype == np.int32 and targets[-1] == EOS
  assert processor.vocabulary.decode(targets) == '1 128 91 241 5 101 127 217'
  assert processor.integers_from_tokens(targets).tolist() == [1, 128, 91, 241, 5, 101, 127, 217]


@hypothesis.given(
    st.integers(0, 1), st.lists(st.floats(-1.5, 1.5), min_size=7, max_size=7))
def test_an_action_comes_back_from_its_tokens_within_one_bin(processor, terminate, motion):
  values = np.array([terminate, *motion])
  targets = processor.action_targets(values)
  back = processor.action_from_tokens([*targets, 0, 0])
  bound = np.array([1, 1, 1, 1, np.pi / 2, np.pi / 2, np.pi / 2, 1])
  clipped = np.clip(values, [0, *-bound[1:]], bound)
  assert (np.abs(back - clipped) <= 2 * bound / 255 + 1e-6).all()
  assert processor.grammar()[0].step(processor.grammar()[1]['action'], targets[0]) >= 0


@pytest.mark.parametrize('scheme', ['integers', 'least_frequent'])
@pytest.mark.parametrize('space, length', [(actions.RT2, 9), (actions.LANGUAGE_TABLE, 12)])
def test_every_vocabulary_writes_every_action_space(model_file, scheme, space, length):
  processor = processor_lib.Processor(
      vocabulary_lib.Vocabulary(model_file, scheme), space, images.ImageSpec(8, 8), 16, length)
  rng = np.random.default_rng(0)
  low = [dimension.first for dimension in space.dimensions]
  high = [dimension.last for dimension in space.dimensions]
  for _ in range(50):
    values = space.decode(rng.integers(low, high, endpoint=True))
    tokens = processor.action_targets(values)
    assert np.array_equal(processor.action_from_tokens(tokens), values)
    whole, starts = processor.grammar()
    assert dataclasses.replace(whole, start=starts['action']).accepts(tokens)
    assert whole.accepts(tokens)  # a question may be answered with numbers too


def test_an_action_prompt_takes_no_text_but_a_question_does(processor):
  whole, starts = processor.grammar()
  answer = [*processor.vocabulary.encode('pick kaba'), EOS]
  assert whole.start == starts['question'] and whole.accepts(answer)
  assert not dataclasses.replace(whole, start=starts['action']).accepts(answer)


@pytest.fixture(scope='module', params=['integers', 'least_frequent'])
def planner(model_file, request) -> processor_lib.Processor:
  return processor_lib.Processor(
      vocabulary_lib.Vocabulary(model_file, request.param), actions.RT2, images.ImageSpec(8, 8),
      inputs_length=40, targets_length=64, plan_length=40)


def test_a_plan_and_its_action_come_back_from_their_tokens(planner):
  values = actions.RT2.decode(np.array([1, 128, 91, 241, 5, 101, 127, 217]))
  tokens = planner.plan_targets(' pick kaba ', values)
  plan, action = planner.split_plan([*tokens, 0, 0])
  assert plan == 'pick kaba'
  assert np.array_equal(planner.action_from_tokens(action), values)
  asked = planner.plan_inputs('pick kaba')
  assert planner.vocabulary.decode(asked) == prompts.plan('pick kaba')
  whole, starts = planner.grammar()
  under_plan = dataclasses.replace(whole, start=starts['plan'])
  assert under_plan.accepts(tokens)
  assert not under_plan.accepts(planner.action_targets(values))
  assert not under_plan.accepts(planner.text_targets('pick kaba'))


def test_every_walk_under_a_plan_ends_in_an_action(planner):
  whole, starts = planner.grammar()
  rng = np.random.default_rng(0)
  for _ in range(20):
    state, tokens = starts['plan'], []
    while EOS not in tokens:
      tokens.append(int(rng.choice(np.flatnonzero(whole.allowed(state)))))
      state = whole.step(state, tokens[-1])
    assert len(tokens) <= planner.targets_length
    assert planner.action_from_tokens(planner.split_plan(tokens)[1]).shape == (8,)


@pytest.mark.parametrize('plan, message', [
    (' ', 'the plan is empty'),
    ('pick kaba ' * 30, 'takes .* tokens, plan_length is 40'),
    ('pick kaba. Action: pick', 'holds .Action:., which ends plans'),
])
def test_a_plan_that_cannot_be_written_is_refused(planner, plan, message):
  with pytest.raises(ValueError, match=message):
    planner.plan_targets(plan, np.zeros(8))


def test_plans_are_for_models_that_are_asked_for_them(processor, planner):
  assert sorted(processor.grammar()[1]) == ['action', 'question']
  with pytest.raises(ValueError, match='writes no plans: its processor has plan_length 0'):
    processor.plan_inputs('pick kaba')
  with pytest.raises(ValueError, match='raise the targets length'):
    dataclasses.replace(planner, plan_length=60)
  with pytest.raises(ValueError, match="has no 'Action:'"):
    planner.split_plan(planner.text_targets('pick kaba'))


@pytest.mark.parametrize('text, message', [
    ('1 128 91 241 5 101 127', 'has 7 integers, an action of rt2 has 8'),
    ('1 128 91 241 5 101 127 217 3', 'has 9 integers'),
    ('7 128 91 241 5 101 127 217', 'terminate of rt2 is 7'),
    ('1 128 91 241 5 101 127 999', 'gripper of rt2 is 999'),
    ('pick kaba', 'is no integer'),
    ('', 'has 0 integers'),
])
def test_an_answer_that_is_no_action_is_refused(processor, text, message):
  with pytest.raises(ValueError, match=message):
    processor.action_from_tokens([*processor.vocabulary.encode(text), EOS])


@pytest.mark.parametrize('values', [np.zeros((2, 8)), np.zeros(7), [np.nan] + [0] * 7])
def test_values_that_are_no_single_action_are_refused(processor, values):
  with pytest.raises(ValueError):
    processor.action_targets(values)


def test_text_targets_are_cut_but_keep_their_eos(processor):
  short = processor.text_targets('kaba')
  assert short[-1] == EOS and processor.vocabulary.decode(short) == 'kaba'
  long = processor.text_targets('kaba loba ' * 30)
  assert len(long) == 9 and long[-1] == EOS and EOS not in long[:-1]


def test_an_answer_of_parts_ends_behind_a_whole_one(processor):
  parts = processor.text_targets(' and '.join(['ka ba', 'do gu', 'lo ni fe pa so vi']), ' and ')
  assert processor.vocabulary.decode(parts) in ('ka ba and do gu', 'ka ba')
  one = processor.text_targets('loba ' * 30, ' and ')
  assert len(one) == processor.targets_length


def test_frames_are_decoded_resized_and_filled_up(processor):
  frames, mask = processor.images([jpeg()])
  assert frames.shape == (2, 32, 48, 3) and frames.dtype == np.uint8
  assert mask.tolist() == [1, 0] and mask.dtype == np.int32
  assert (np.abs(frames[0].astype(int) - 90) <= 2).all() and (frames[1] == 0).all()
  frames, mask = processor.images([])
  assert not frames.any() and mask.tolist() == [0, 0]


def test_bytes_and_the_array_they_hold_give_the_same_pixels(processor):
  frames, mask = processor.images([jpeg(), images.decode(jpeg())])
  assert np.array_equal(frames[0], frames[1]) and mask.tolist() == [1, 1]


def test_too_many_frames_are_refused(processor):
  with pytest.raises(ValueError, match='3 frames, but the model takes 2'):
    processor.images([jpeg()] * 3)


def test_targets_too_short_for_an_action_are_refused_at_the_start(processor):
  with pytest.raises(ValueError, match='up to 9 tokens with EOS, but only 8'):
    dataclasses.replace(processor, targets_length=8)
  with pytest.raises(ValueError, match='inputs_length is 0'):
    dataclasses.replace(processor, inputs_length=0)


@pytest.mark.parametrize('scheme', ['integers', 'least_frequent'])
@pytest.mark.parametrize('space', [actions.rt2(0.05, scheme='center'), actions.LANGUAGE_TABLE])
def test_a_processor_comes_back_from_disk(tmp_path, model_file, scheme, space):
  processor = processor_lib.Processor(
      vocabulary_lib.Vocabulary(model_file, scheme), space,
      images.ImageSpec(24, 32, 3, resize='pad'), 20, 15)
  processor.save(str(tmp_path / 'assets'))
  loaded = processor_lib.Processor.load(str(tmp_path / 'assets'))
  assert loaded == processor
  assert loaded.fingerprint == processor.fingerprint
  assert np.array_equal(loaded.vocabulary.action_ids_256, processor.vocabulary.action_ids_256)
  assert np.array_equal(loaded.robot_inputs('pick kaba'), processor.robot_inputs('pick kaba'))
  assert sorted(path.name for path in (tmp_path / 'assets').iterdir()) == [
      'action_space.json', 'processor.json', 'vocabulary.model']


def test_whatever_changes_an_example_changes_the_fingerprint(processor, model_file, monkeypatch):
  changed = [
      dict(vocabulary=vocabulary_lib.Vocabulary(model_file, 'least_frequent')),
      dict(action_space=actions.rt2(position=0.5)),
      dict(action_space=actions.rt2(scheme='center')),
      dict(image_spec=images.ImageSpec(32, 48, num_images=2, resize='pad')),
      dict(inputs_length=25),
      dict(targets_length=10),
      dict(targets_length=30, plan_length=8),
      dict(history=2),
  ]
  prints = {dataclasses.replace(processor, **change).fingerprint for change in changed}
  prints.add(processor.fingerprint)
  monkeypatch.setitem(prompts.TEMPLATES, 'robot', 'What should the robot do to {instruction}?')
  prints.add(dataclasses.replace(processor).fingerprint)
  assert len(prints) == len(changed) + 2


def saved(processor, directory) -> pathlib.Path:
  processor.save(str(directory))
  return directory


def test_a_model_is_not_asked_with_words_it_was_not_trained_on(tmp_path, processor, monkeypatch):
  directory = saved(processor, tmp_path)
  monkeypatch.setitem(prompts.TEMPLATES, 'a_new_one', 'Say {something}')
  assert processor_lib.Processor.load(str(directory)) == processor
  monkeypatch.setitem(prompts.TEMPLATES, 'robot', 'What should the robot do to {instruction}?')
  with pytest.raises(ValueError, match='prompt robot was .* when the checkpoint was written'):
    processor_lib.Processor.load(str(directory))


def test_an_exchanged_vocabulary_is_refused(tmp_path, processor):
  directory = saved(processor, tmp_path)
  vocabulary_lib.train(['another text'], str(directory / 'vocabulary.model'), vocab_size=1500)
  with pytest.raises(ValueError, match='vocabulary was'):
    processor_lib.Processor.load(str(directory))


@pytest.mark.parametrize('name', ['processor.json', 'action_space.json', 'vocabulary.model'])
def test_a_missing_file_is_named(tmp_path, processor, name):
  directory = saved(processor, tmp_path)
  (directory / name).unlink()
  with pytest.raises(FileNotFoundError, match=name):
    processor_lib.Processor.load(str(directory))


@pytest.mark.parametrize('text, message', [('{"inputs', 'is damaged'), ('{}', 'is not a proc')])
def test_a_damaged_file_is_named(tmp_path, processor, text, message):
  directory = saved(processor, tmp_path)
  (directory / 'processor.json').write_text(text)
  with pytest.raises(ValueError, match=f'processor.json {message}'):
    processor_lib.Processor.load(str(directory))


def test_the_files_are_plain_json(tmp_path, processor):
  directory = saved(processor, tmp_path)
  settings = json.loads((directory / 'processor.json').read_text())
  assert settings['action_ids'] == processor.vocabulary.action_ids_256.tolist()
  assert settings['image_spec']['num_images'] == 2


@pytest.fixture(scope='module')
def paligemma(tmp_path_factory) -> processor_lib.Processor:
  """With a model as Gemma's: byte-pair pieces, <bos> 2, no dummy prefix, a piece for the newline."""
  file = tmp_path_factory.mktemp('gemma') / 'gemma.model'
  texts = [prompts.robot(f'pick {a} near {b}') for a in 'abcdefgh' for b in 'ijklmnop']
  with open(file, 'wb') as out:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, model_type='bpe', vocab_size=400,
        hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False,
        normalization_rule_name='identity', remove_extra_whitespaces=False, minloglevel=2,
        user_defined_symbols=['\n', *(f'<loc{i:04d}>' for i in range(256))])
  return processor_lib.Processor(
      vocabulary_lib.Vocabulary(str(file), '<loc{:04d}>'), actions.RT2,
      images.ImageSpec(32, 48, num_images=2), inputs_length=24, targets_length=9,
      layout='decoder_only', image_tokens=3, prompt_format='paligemma')


def test_paligemma_reads_images_then_bos_text_and_newline(paligemma):
  vocabulary, text = paligemma.vocabulary, prompts.robot('pick a')
  ids = paligemma.robot_inputs('pick a').tolist()
  assert ids == [sequences.IMAGE_TOKEN_ID] * 6 + [2, *vocabulary.encode(text + '\n')]
  assert vocabulary.decode(ids[7:]) == text + '\n'


def test_a_text_is_cut_before_the_newline(paligemma):
  ids = paligemma.text_inputs('pick a near i ' * 20).tolist()
  assert len(ids) == paligemma.prompt_length
  assert ids[-1:] == paligemma.vocabulary.encode('\n')


def test_paligemma_takes_no_images_inside_its_text(paligemma):
  with pytest.raises(ValueError, match='before all text; leave <img> out'):
    paligemma.text_inputs('is <img> like <img>?')


def test_paligemmas_prompts_need_bos_and_newline(paligemma, model_file):
  with pytest.raises(ValueError, match='lacks <bos> or a newline'):
    dataclasses.replace(paligemma, vocabulary=vocabulary_lib.Vocabulary(model_file))


def test_the_prompt_format_is_kept_on_disk(paligemma, tmp_path):
  paligemma.save(str(tmp_path))
  loaded = processor_lib.Processor.load(str(tmp_path))
  assert loaded == paligemma
  values = actions.RT2.decode(np.array([1, 128, 91, 241, 5, 101, 127, 217]))
  np.testing.assert_array_equal(loaded.action_targets(values), paligemma.action_targets(values))
