"""Steps answered with a plan and an action: plans from the data, and from a file about them."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rt2_train import prompts
from rt2_train.data import chain_of_thought
from rt2_train.data import layouts
from rt2_train.data import rlds
from tests.data import rlds_fixture

PLAN_KEY = 'observation/plan'
WANTED = [
    {'instruction': 'I am hungry', 'plan': 'pick the red apple'},
    {'instruction': 'bring fruit', 'plan': 'pick the red apple'},
    {'instruction': 'show me what is inside', 'plan': 'open the drawer'},
]


def a_processor(**kwargs):
  return rlds_fixture.a_processor(
      **{'targets_length': 60, 'plan_length': 40, 'inputs_length': 64, **kwargs})


@pytest.fixture(autouse=True)
def planned(monkeypatch):
  """A schema like fractal's that also has a plan per step."""
  steps = rlds_fixture.FEATURES['fractal']['steps'].feature
  monkeypatch.setitem(rlds_fixture.FEATURES, 'planned', {'steps': tfds.features.Dataset({
      **{key: steps[key] for key in steps if key != 'observation'},
      'observation': {**dict(steps['observation'].items()), 'plan': np.str_}})})


def planned_episode(plans: list[str], seed: int = 0) -> dict:
  episode = rlds_fixture.episode('fractal', len(plans), seed)
  del episode['aspects/success']
  return {**episode, f'steps/{PLAN_KEY}': [plan.encode() for plan in plans]}


def write_plans(directory, whole=WANTED) -> str:
  path = directory / 'plans.json'
  path.write_text(whole if isinstance(whole, str) else json.dumps(whole))
  return str(path)


def open_annotated(directory, whole=WANTED, **kwargs) -> chain_of_thought.PlanExamples:
  return chain_of_thought.PlanExamples(
      str(directory / 'data'), kwargs.pop('split', 'train'), a_processor(),
      annotation_file=write_plans(directory, whole), **kwargs)


def read(example: dict) -> tuple[str, str, list[int]]:
  """What is asked, and the plan and the integers of the answer."""
  processor = a_processor()
  plan, action = processor.split_plan(example['targets'].tolist())
  return (processor.vocabulary.decode(example['inputs'].tolist()), plan,
          processor.integers_from_tokens(action).tolist())


def test_plans_of_the_data_stand_between_instruction_and_action(tmp_path):
  plans = ['open the drawer', 'pick the cup', 'pick the cup']
  rlds_fixture.write(tmp_path, 'planned', [[planned_episode(plans)]])
  processor = a_processor()
  examples = chain_of_thought.PlanExamples(
      str(tmp_path), 'train', processor, plan_key=PLAN_KEY)
  plain = rlds.RobotExamples(str(tmp_path), 'train', processor)
  assert len(examples) == 3 and examples.answered_with == 'plan'
  for i, plan in enumerate(plans):
    asked, written, action = read(examples[i])
    assert asked == prompts.plan('pick the red apple')
    assert written == plan
    assert action == processor.integers_from_tokens(plain[i]['targets']).tolist()
    np.testing.assert_array_equal(examples[i]['images'], plain[i]['images'])
    assert examples.example_id(i) == plain.example_id(i)
  assert examples.fingerprint != plain.fingerprint


def test_a_layout_may_name_the_plan_and_has_an_index_of_its_own(tmp_path, caplog):
  rlds_fixture.write(tmp_path, 'planned', [[planned_episode(['go', 'stop'])]])
  layout = dataclasses.replace(layouts.FRACTAL, plan=PLAN_KEY)
  for _ in range(2):
    examples = chain_of_thought.PlanExamples(str(tmp_path), 'train', a_processor(), layout)
    assert [read(examples[i])[1] for i in range(2)] == ['go', 'stop']
    rlds.RobotExamples(str(tmp_path), 'train', a_processor())
  assert 'stale' not in caplog.text


def test_a_step_without_a_plan_is_left_out_and_counted(tmp_path):
  rlds_fixture.write(tmp_path, 'planned', [
      [planned_episode(['', 'pick the cup', ' ', 'go'])], [planned_episode(['', ''], seed=1)]])
  examples = chain_of_thought.PlanExamples(
      str(tmp_path), 'train', a_processor(), plan_key=PLAN_KEY)
  assert [examples.step(i).step for i in range(len(examples))] == [1, 3]
  assert [read(examples[i])[1] for i in range(2)] == ['pick the cup', 'go']
  assert examples.note == 'steps without a plan left out: 4'
  with pytest.raises(IndexError, match='examples 0 to 1, not 2'):
    examples[2]
  with pytest.raises(ValueError, match=r'tabletop/train\[1:\]: no step has a plan from steps/'):
    chain_of_thought.PlanExamples(str(tmp_path), 'train[1:]', a_processor(), plan_key=PLAN_KEY)


def test_a_plan_that_is_no_text_is_found_when_the_data_are_indexed(tmp_path):
  episode = planned_episode(['go', 'go'])
  episode[f'steps/{PLAN_KEY}'][1] = b'\xff'
  rlds_fixture.write(tmp_path, 'planned', [[episode]])
  with pytest.raises(ValueError, match='episode 0 step 1: the plan is not UTF-8'):
    chain_of_thought.PlanExamples(str(tmp_path), 'train', a_processor(), plan_key=PLAN_KEY)


def test_a_file_turns_instructions_into_plans_of_what_people_want(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 18, 3)])
  examples = open_annotated(tmp_path)
  # Two of three instructions are plans.
  assert len(examples) == 12 * 3
  assert examples.note == 'steps without a plan left out: 18'
  asked_of = {}
  for i in range(len(examples)):
    asked, plan, _ = read(examples[i])
    step = examples.step(i)
    assert plan == step.instruction
    assert asked in {prompts.plan(entry['instruction']) for entry in WANTED
                     if entry['plan'] == plan}
    # An episode is asked for in the same words throughout.
    assert asked_of.setdefault(step.episode, asked) == asked
  assert set(asked_of.values()) == {prompts.plan(entry['instruction']) for entry in WANTED}


def test_the_words_of_an_episode_do_not_depend_on_the_part_it_is_read_in(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 9, 2)])
  whole, part = open_annotated(tmp_path), open_annotated(tmp_path, split='train[6:]')
  count = len(part)
  assert [read(part[i]) for i in range(count)] == [
      read(whole[i]) for i in range(len(whole) - count, len(whole))]


def test_frames_and_idle_steps_are_as_in_robot_examples(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  options = {'idle': {'m': 0.03, 'rad': 0.03}}
  processor = a_processor(num_images=2, history=2)
  examples = chain_of_thought.PlanExamples(
      str(tmp_path / 'data'), 'train', processor, annotation_file=write_plans(tmp_path), **options)
  plain = rlds.RobotExamples(str(tmp_path / 'data'), 'train', processor, **options)
  of = {plain.example_id(i): plain[i]['images'] for i in range(len(plain))}
  for i in range(len(examples)):
    np.testing.assert_array_equal(examples[i]['images'], of[examples.example_id(i)])


def test_a_plan_that_does_not_occur_is_noted(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  examples = open_annotated(
      tmp_path, [*WANTED, {'instruction': 'I am tired', 'plan': 'pick the red bull'}])
  assert "1 of 3 instructions not in the dataset: 'pick the red bull'" in examples.note


@pytest.mark.parametrize('whole, message', [
    ({}, 'holds {}; write a list of {"instruction": ..., "plan": ...}'),
    ([], 'holds []; write a list of {"instruction": ..., "plan": ...}'),
    ([*WANTED, 'pick'], 'entry 3 is \'pick\'; write a list of {"instruction": ..., "plan": ...}'),
    ([{'instruction': 'x'}],
     'entry 0 is {\'instruction\': \'x\'}; write a list of {"instruction": ..., "plan": ...}'),
    ([{'instruction': 'x', 'plan': ''}], "entry 0: its plan is ''; write words"),
    ([{'instruction': 7, 'plan': 'open the drawer'}], 'entry 0: its instruction is 7; write words'),
    ([{'instruction': 'x', 'plan': 'open the door'}], 'none of its 1 instructions is in the '
     "dataset; the first is 'open the door' (did you mean 'open the drawer'?)"),
    ('[', 'is not JSON (Expecting value: line 1 column 2 (char 1)); copy it again'),
])
def test_a_file_of_plans_of_another_form_is_named(tmp_path, whole, message):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  with pytest.raises(ValueError) as error:
    open_annotated(tmp_path, whole)
  said = str(error.value).removeprefix(f'{tmp_path}/plans.json').removeprefix(':')
  assert said == f' {message}'


@pytest.mark.parametrize('options, message', [
    ({}, "layout 'fractal': plans are in the data (plan_key, here '') or in a file "
     '(annotation_file, here None), not in none'),
    ({'plan_key': PLAN_KEY, 'annotation_file': 'plans.json'},
     "layout 'fractal': plans are in the data (plan_key, here 'observation/plan') or in a file "
     "(annotation_file, here 'plans.json'), not in both"),
])
def test_plans_are_from_exactly_one_place(tmp_path, options, message):
  rlds_fixture.write(tmp_path, 'planned', [[planned_episode(['go'])]])
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    chain_of_thought.PlanExamples(str(tmp_path), 'train', a_processor(), **options)


def test_a_dataset_without_the_plan_or_with_numbers_there_is_refused(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  for key, said in (
      (PLAN_KEY, 'steps/observation/plan'),
      ('action/world_vector', r'steps/action/world_vector as utf8 \(it is float32\)')):
    with pytest.raises(ValueError, match=f"features.json has no {said}, which layout 'fractal'"):
      chain_of_thought.PlanExamples(str(tmp_path), 'train', a_processor(), plan_key=key)


@pytest.mark.parametrize('change, message', [
    ({'plan_length': 3}, 'shard 00000 episode 0 step 0: the plan .* plan_length is 3'),
    ({'plan_length': 0}, 'this model writes no plans'),
    ({'inputs_length': 4}, 'shard 00000 episode 0 step 0: the prompt .* inputs_length is 4'),
])
def test_what_does_not_fit_the_model_is_named_before_training(tmp_path, change, message):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  with pytest.raises(ValueError, match=message):
    chain_of_thought.PlanExamples(
        str(tmp_path / 'data'), 'train', a_processor(**change),
        annotation_file=write_plans(tmp_path))
