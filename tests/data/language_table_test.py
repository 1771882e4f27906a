"""Language-Table's five tasks: what is shown, what is asked, what is answered."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from rt2_train import actions
from rt2_train import prompts
from rt2_train.data import language_table
from rt2_train.data import layouts
from rt2_train.data import rlds
from tests.data import rlds_fixture

PLACE = 'steps/observation/effector_translation'


def a_processor(control_hz: float | None = 10.0, **kwargs):
  return rlds_fixture.a_processor(
      actions.language_table(control_hz=control_hz), num_images=2, targets_length=40, history=2,
      **kwargs)


def open_task(directory, task: str, control_hz: float = 10.0, split='train', **kwargs):
  return language_table.TableExamples(
      str(directory), split, a_processor(control_hz, inputs_length=64), task=task,
      control_hz=control_hz, **kwargs)


def write(directory, *lengths: int) -> list[dict]:
  """Episodes of these lengths; the last step of each is left out by the layout."""
  episodes = [rlds_fixture.episode('language_table', length, seed)
              for seed, length in enumerate(lengths)]
  rlds_fixture.write(directory, 'language_table', [episodes])
  return episodes


def words(ids: np.ndarray) -> str:
  return a_processor().vocabulary.decode(ids.tolist())


def asked(examples, i: int) -> str:
  return words(examples[i]['inputs'])


def answered(examples, i: int) -> str:
  return words(examples[i]['targets'])


def shown(directory, examples, i: int) -> list[tuple[str, int]]:
  """(episode, step) of each frame, found by its pixels."""
  processor, steps = a_processor(), rlds.RobotSteps(str(directory), layout='language_table')
  places = {}
  for position in range(len(steps)):
    step = steps.step(position)
    places[processor.images(step.images)[0][0].tobytes()] = (step.episode[-1], step.step)
  return [places[image.tobytes()] for image in examples[i]['images']]


@pytest.mark.parametrize('task', language_table.TASKS)
def test_every_task_shows_two_frames_and_names_its_grammar(tmp_path, task):
  write(tmp_path, 12, 12)
  examples = open_task(tmp_path, task)
  for i in range(len(examples)):
    assert examples[i]['image_mask'].tolist() == [1, 1]
    assert examples[i]['images'].shape == (2, 32, 40, 3)
  assert examples.answered_with == ('action' if task == 'action' else 'question')
  assert len({examples.example_id(i) for i in range(len(examples))}) == len(examples)
  with pytest.raises(IndexError, match=f'examples 0 to {len(examples) - 1}, not {len(examples)}'):
    examples[len(examples)]


def test_the_frames_of_an_action_are_the_last_two_and_at_first_the_first_twice(tmp_path):
  write(tmp_path, 4, 3)
  examples = open_task(tmp_path, 'action')
  assert [shown(tmp_path, examples, i) for i in range(5)] == [
      [('0', 0), ('0', 0)], [('0', 0), ('0', 1)], [('0', 1), ('0', 2)],
      [('1', 0), ('1', 0)], [('1', 0), ('1', 1)]]


def test_at_ten_per_second_the_action_is_that_of_robot_examples(tmp_path):
  write(tmp_path, 6, 5)
  examples = open_task(tmp_path, 'action')
  plain = rlds.RobotExamples(str(tmp_path), 'train', a_processor(), 'language_table')
  assert len(examples) == len(plain) == 9
  for i in range(9):
    for key in ('inputs', 'targets'):
      np.testing.assert_array_equal(examples[i][key], plain[i][key])
  assert examples.example_id(6) == plain.example_id(6)
  assert examples.note == plain.note


def test_at_five_per_second_two_moves_are_summed_before_they_are_binned(tmp_path):
  episodes = write(tmp_path, 7, 4)
  for episode in episodes:
    # Half a unit each, which alone would be rounded away.
    episode['steps/action'][:] = 0.0016 * np.array([1, -1])
  rlds_fixture.write(tmp_path / 'half', 'language_table', [episodes])
  examples = open_task(tmp_path / 'half', 'action', control_hz=5)
  processor = a_processor(5.0)
  for i in range(len(examples)):
    assert processor.integers_from_tokens(examples[i]['targets']).tolist() == [1, -1]
  whole = open_task(tmp_path, 'action', control_hz=5)
  assert len(whole) == 5 + 2
  # Steps 0 to 4 have a successor, in both phases; 5 has none, since 6 was left out.
  assert [shown(tmp_path, whole, i) for i in range(5)] == [
      [('0', 0), ('0', 0)], [('0', 0), ('0', 1)], [('0', 0), ('0', 2)], [('0', 1), ('0', 3)],
      [('0', 2), ('0', 4)]]
  assert 'steps without a whole move left out: 2' in whole.note


def test_a_broken_step_ends_the_moves_that_would_need_it(tmp_path):
  episodes = write(tmp_path, 8)
  episodes[0]['steps/action'][3] = np.nan
  rlds_fixture.write(tmp_path / 'broken', 'language_table', [episodes])
  examples = open_task(
      tmp_path / 'broken', 'action', control_hz=5, on_bad={'bad action': 'skip'})
  assert [examples.step(i).step for i in range(len(examples))] == [0, 1, 4, 5]


@pytest.mark.parametrize('control_hz', [4, 20, 0, -5, 3])
def test_a_rate_that_is_no_whole_part_of_the_datas_is_refused(tmp_path, control_hz):
  write(tmp_path, 4)
  with pytest.raises(ValueError, match=re.escape(
      f"control_hz is {control_hz}; layout 'language_table' has 10 steps per second, of which it "
      'takes a whole part, such as half')):
    language_table.TableExamples(str(tmp_path), 'train', a_processor(), control_hz=control_hz)


def test_a_model_of_another_rate_is_refused(tmp_path):
  write(tmp_path, 4)
  with pytest.raises(ValueError, match='its actions are 5 per second, those of action space '
                     "'language_table' 10; give both the same control_hz"):
    language_table.TableExamples(str(tmp_path), 'train', a_processor(10.0), control_hz=5)
  with pytest.raises(ValueError, match='its actions are 10 per second, .* 5; give both'):
    rlds.RobotExamples(str(tmp_path), 'train', a_processor(5.0), 'language_table')


def test_episodes_too_short_for_a_move_are_refused(tmp_path):
  write(tmp_path, 2, 2)
  with pytest.raises(ValueError, match='no step has a move at this rate; episodes are too short'):
    open_task(tmp_path, 'action', control_hz=5)


def test_the_instruction_is_answered(tmp_path):
  write(tmp_path, 4, 4)
  examples = open_task(tmp_path, 'instruction')
  assert {asked(examples, i) for i in range(6)} == {prompts.table_instruction()}
  assert [answered(examples, i) for i in (0, 5)] == list(rlds_fixture.INSTRUCTIONS[:2])
  assert examples.note == 'left out: last step 2'


def test_instructions_that_do_not_fit_an_answer_are_counted(tmp_path):
  write(tmp_path, 4, 4)
  processor = rlds_fixture.a_processor(
      actions.LANGUAGE_TABLE, num_images=2, targets_length=24, inputs_length=32, history=2)
  long = rlds_fixture.episode('language_table', 4, instruction='move the cup ' * 20)
  rlds_fixture.write(tmp_path / 'long', 'language_table', [[long]])
  examples = language_table.TableExamples(
      str(tmp_path / 'long'), 'train', processor, task='instruction')
  assert 'instructions that are cut to targets_length: 1' in examples.note


def test_the_arm_is_answered_on_a_grid_over_the_workspace(tmp_path):
  episode = rlds_fixture.episode('language_table', 6)
  episode[PLACE][:5] = [
      [0.15, -0.3048], [0.6, 0.3048], [0.375, 0], [0.2, 0.3], [0.7, -0.4]]
  rlds_fixture.write(tmp_path, 'language_table', [[episode]])
  examples = open_task(tmp_path, 'arm')
  assert {asked(examples, i) for i in range(5)} == {prompts.table_arm()}
  assert [answered(examples, i) for i in range(5)] == [
      '0 0', '99 99', '50 50', '11 99', '99 0']
  assert 'arm outside the workspace: 1' in examples.note


def test_a_place_that_is_no_number_is_found_when_the_data_are_indexed(tmp_path):
  episode = rlds_fixture.episode('language_table', 6)
  episode[PLACE][2, 1] = np.inf
  rlds_fixture.write(tmp_path, 'language_table', [[episode]])
  with pytest.raises(ValueError, match='episode 0 step 2: observation/effector_translation is '
                     r'\[.*, inf\], not finite'):
    open_task(tmp_path, 'arm')


def test_a_layout_that_does_not_keep_the_place_is_refused(tmp_path):
  write(tmp_path, 4)
  without = dataclasses.replace(layouts.LANGUAGE_TABLE, name='bare', extra_keys=())
  with pytest.raises(ValueError, match="layout 'bare' keeps no observation/effector_translation, "
                     'where the arm is; add it to extra_keys'):
    open_task(tmp_path, 'arm', layout=without)


@pytest.mark.parametrize('control_hz, stride', [(10, 1), (5, 2)])
def test_the_number_of_steps_between_the_two_frames_is_answered(tmp_path, control_hz, stride):
  write(tmp_path, 26, 9)
  examples = open_task(tmp_path, 'steps', control_hz)
  seen = collections.Counter()
  for i in range(len(examples)):
    (first, before), (second, after) = shown(tmp_path, examples, i)
    assert first == second == examples.step(i).episode[-1] and after == examples.step(i).step
    assert after - before == stride * int(answered(examples, i))
    # Two equal frames only where the episode has no other so far.
    assert (before == after) == (after < stride)
    assert (after - before) // stride <= 20
    seen[after - before] += 1
  assert {asked(examples, i) for i in range(3)} == {prompts.table_steps()}
  assert len(seen) > 5


def test_success_is_asked_of_the_end_and_of_what_is_not_the_end(tmp_path):
  write(tmp_path, *[20] * 30)
  examples = open_task(tmp_path, 'success')
  assert len(examples) == 30 * 4
  counts = collections.Counter()
  for i in range(len(examples)):
    step, answer = examples.step(i), answered(examples, i)
    own = asked(examples, i) == prompts.table_success(step.instruction)
    if answer == 'yes':
      assert own and step.step >= 17  # Of 0 to 18.
    elif own:
      assert 1 <= step.step < 10
    else:
      assert step.step >= 17
      assert "asked for '" in examples.example_id(i)
    counts[answer, own] += 1
  assert counts['yes', True] == 60
  assert counts['no', True] > 15 and counts['no', False] > 15


def test_success_of_one_instruction_alone_is_asked_of_early_steps(tmp_path):
  rlds_fixture.write(tmp_path, 'language_table', [[
      rlds_fixture.episode('language_table', 12, seed, 'push it') for seed in range(6)]])
  examples = open_task(tmp_path, 'success')
  assert {asked(examples, i) for i in range(len(examples))} == {prompts.table_success('push it')}


def test_short_episodes_have_no_success_and_are_counted(tmp_path):
  write(tmp_path, 8, 9)  # The last step is left out: seven and eight.
  examples = open_task(tmp_path, 'success')
  assert len(examples) == 4
  assert 'steps of episodes of fewer than 8 left out: 7' in examples.note
  with pytest.raises(ValueError, match='no episode has 8 steps, which success takes'):
    open_task(tmp_path, 'success', split='train[:1]')


def test_a_question_that_would_lose_its_end_is_refused(tmp_path):
  long = rlds_fixture.episode('language_table', 12, instruction='move the cup near it ' * 5)
  rlds_fixture.write(tmp_path, 'language_table', [[long]])
  with pytest.raises(ValueError, match='shard 00000 episode 0 step .*: the prompt .* takes .* '
                     'tokens, inputs_length is 32; raise it'):
    language_table.TableExamples(
        str(tmp_path), 'train', a_processor(inputs_length=32), task='success')


def test_tasks_and_rates_have_fingerprints_of_their_own(tmp_path):
  write(tmp_path, 12, 12)
  found = [open_task(tmp_path, task).fingerprint for task in language_table.TASKS]
  found += [open_task(tmp_path, task, 5).fingerprint for task in language_table.TASKS]
  assert len(set(found)) == 10


def test_an_unknown_task_is_refused(tmp_path):
  with pytest.raises(ValueError, match="task is 'arms'; it is one of action, instruction, arm, "
                     'steps, success'):
    open_task(tmp_path, 'arms')


def test_a_model_of_one_image_is_refused(tmp_path):
  write(tmp_path, 4)
  with pytest.raises(ValueError, match='read two frames, the processor has history 1; set HISTORY'):
    language_table.TableExamples(
        str(tmp_path), 'train', rlds_fixture.a_processor(actions.LANGUAGE_TABLE))
