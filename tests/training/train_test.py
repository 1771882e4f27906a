"""What a run promises: the same bits after a crash, and files a person can read."""

import json
import signal

import numpy as np
import pytest

from rt2_train.training import evaluators
from rt2_train.training import optimizers
from tests.training import subprocesses


def without_times(lines):
  """The metrics that two runs share: not speed, not memory."""
  kept = lambda name: not name.startswith(('timing/', 'memory/'))
  return [{k: v for k, v in line.items() if kept(k)} for line in lines]


def assert_same_arrays(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tiny, tmp_path):
  straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
  shared = {'model': tiny.Model(dropout_rate=0.3), 'ema_decay': 0.9, 'log_period': 3}
  shared['checkpoint_period'] = 4
  tiny.run(straight, train_steps=8, **shared)
  first = tiny.run(resumed, train_steps=4, **shared)
  second = tiny.run(resumed, train_steps=8, **shared)
  assert (first['start_step'], second['start_step']) == (0, 4)
  for item in ('state', 'ema'):
    assert_same_arrays(tiny.saved_state(straight, 8, item), tiny.saved_state(resumed, 8, item))
  assert without_times(tiny.lines(straight)) == without_times(tiny.lines(resumed))


def test_a_killed_run_goes_on_with_the_same_bits_and_repeats_no_line(tiny, tmp_path):
  killed, straight = tmp_path / 'killed', tmp_path / 'straight'
  process = subprocesses.python(
      f'c.run({str(killed)!r}, model=c.Model(dropout_rate=0.3), train_steps=8, '
      'checkpoint_period=4, log_period=1, '
      f'data=lambda: c.KilledLoader({str(killed)!r}, saved_step=4, at=6))'
  )
  assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
  # Logged, but not saved: these lines are written again.
  assert tiny.lines(killed)[-1]['step'] > 4
  for directory in (killed, straight):
    model = tiny.Model(dropout_rate=0.3)
    tiny.run(directory, model=model, train_steps=8, checkpoint_period=4, log_period=1)
  assert [line['step'] for line in tiny.lines(killed)] == list(range(1, 9))
  assert without_times(tiny.lines(killed)) == without_times(tiny.lines(straight))
  assert_same_arrays(tiny.saved_state(killed, 8), tiny.saved_state(straight, 8))


def test_two_devices_train_like_one_and_take_over_its_checkpoint(tiny, tmp_path):
  one, two, three = (str(tmp_path / name) for name in ('one', 'two', 'three'))
  tiny.run(one, train_steps=4, checkpoint_period=2)
  process = subprocesses.python(
      f'import shutil; shutil.copytree({one!r} + "/checkpoint_2", {three!r} + "/checkpoint_2"); '
      f'c.run({two!r}, train_steps=4, checkpoint_period=2, num_microbatches=2); '
      f'c.run({three!r}, train_steps=4, checkpoint_period=2, '
      'partitioner=c.partitioning.Partitioner("fsdp", small=0)); '
      'import jax; assert jax.device_count() == 2; '
      f'c.run({two!r} + "x", data=lambda: c.Loader(rows=5))',
      devices=2,
  )
  assert 'BATCH_SIZE 5 does not divide over 2 devices of mesh axis data;' in process.stderr
  expected = tiny.saved_state(one, 4)
  for other in (two, three):
    arrays = tiny.saved_state(other, 4)
    for name, array in expected.items():
      np.testing.assert_allclose(arrays[name], array, rtol=1e-5, atol=1e-7, err_msg=name)
  table = (tmp_path / 'three' / 'model-info.txt').read_text()
  assert "(data, -, -)" in table and 'embed, layers, mlp' in table


def test_a_warm_start_takes_the_parameters_and_nothing_else(tiny, tmp_path):
  tiny.run(tmp_path / 'web', assets=tiny.assets())
  # A directory of a run means its newest checkpoint. A rate of 0 leaves the parameters in place.
  still = {'train_steps': 1, 'learning_rate': 0.0, 'assets': tiny.assets(bins=10)}
  tiny.run(tmp_path / 'newest', initial_checkpoint_path=str(tmp_path / 'web'), **still)
  third = str(tmp_path / 'web' / 'checkpoint_3')
  tiny.run(tmp_path / 'named', initial_checkpoint_path=third, **still)
  targets = lambda arrays: {k: v for k, v in arrays.items() if k.startswith('target/')}
  for name, step in (('newest', 6), ('named', 3)):
    started = tiny.saved_state(tmp_path / name, 1)
    assert_same_arrays(targets(started), targets(tiny.saved_state(tmp_path / 'web', step)))
    assert started['state/step'] == 1


def test_a_warm_start_from_nothing_or_another_vocabulary_is_refused(tiny, tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere holds no whole checkpoint'):
    tiny.run(tmp_path / 'a', initial_checkpoint_path=str(tmp_path / 'nowhere'))
  tiny.run(tmp_path / 'web', train_steps=1, assets=tiny.assets())
  with pytest.raises(ValueError, match='vocabulary.model: the file there is another one'):
    other = tiny.assets(vocabulary=b'other')
    tiny.run(tmp_path / 'b', initial_checkpoint_path=str(tmp_path / 'web'), assets=other)


@pytest.mark.parametrize('rule, dtype', [
    (None, 'bfloat16'), (optimizers.adamw(weight_decay=0.1), None)])
def test_frozen_parameters_stay_and_the_run_resumes(tiny, tmp_path, rule, dtype):
  shared = {
      'model': tiny.Model(rule), 'frozen': ['embedding', 'patch'], 'frozen_dtype': dtype,
      'checkpoint_period': 1}
  tiny.run(tmp_path, train_steps=1, **shared)
  summary = tiny.run(tmp_path, train_steps=3, **shared)
  assert summary['start_step'] == 1
  first, last = tiny.saved_state(tmp_path, 1), tiny.saved_state(tmp_path, 3)
  for name in ('target/embedding', 'target/patch_kernel'):
    np.testing.assert_array_equal(first[name], last[name])
  assert np.all(first['target/wi'] != last['target/wi'])
  assert last['target/embedding'].dtype == (dtype or 'float32')
  assert last['target/wi'].dtype == 'float32'


def test_float32_parameters_start_a_run_that_keeps_them_in_bfloat16(tiny, tmp_path):
  tiny.run(tmp_path / 'vlm', train_steps=1)
  tiny.run(tmp_path / 'align', train_steps=1, initial_checkpoint_path=str(tmp_path / 'vlm'),
           frozen=['embedding', 'patch'], frozen_dtype='bfloat16')
  before, after = tiny.saved_state(tmp_path / 'vlm', 1), tiny.saved_state(tmp_path / 'align', 1)
  np.testing.assert_array_equal(
      after['target/embedding'], before['target/embedding'].astype('bfloat16'))


def test_periods_are_multiples_of_the_step_and_the_last_step_is_saved(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=5, checkpoint_period=4)
  tiny.run(tmp_path, train_steps=10, checkpoint_period=4)
  steps = sorted(int(p.name.split('_')[1]) for p in tmp_path.glob('checkpoint_*'))
  assert steps == [4, 5, 8, 10]


def test_a_finished_run_is_left_alone(tiny, tmp_path):
  summary = tiny.run(tmp_path, train_steps=2)
  assert tiny.run(tmp_path, train_steps=2) == summary
  assert len(tiny.lines(tmp_path)) == 1


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tiny, tmp_path):
  with pytest.raises(ValueError, match='not finite in step 3: gradient_norm, loss, loss/robot;'):
    tiny.run(tmp_path, data=lambda: tiny.Loader(broken_step=2))
  assert not list(tmp_path.glob('checkpoint_*'))


def test_a_step_that_is_not_finite_counts_but_is_not_applied(tiny, tmp_path):
  summary = tiny.run(
      tmp_path, data=lambda: tiny.Loader(broken_step=2), train_steps=4, checkpoint_period=1,
      log_period=1, ema_decay=0.9, max_not_finite_steps=1)
  assert summary['finished'] and summary['not_finite_steps'] == 1
  before, after, last = (tiny.saved_state(tmp_path, step) for step in (2, 3, 4))
  assert (before.pop('state/step'), after.pop('state/step')) == (2, 3)
  assert_same_arrays(before, after)
  assert_same_arrays(tiny.saved_state(tmp_path, 2, 'ema'), tiny.saved_state(tmp_path, 3, 'ema'))
  assert np.all(last['target/wi'] != after['target/wi'])
  assert np.all(np.isfinite(last['target/wi']))
  # The log has no loss where none was applied.
  assert ['loss' in line for line in tiny.lines(tmp_path)] == [True, True, False, True]
  found = json.loads((tmp_path / 'not_finite/step_3.json').read_text())
  assert found['examples']['robot'] == ['2/1', '2/3', '2/5', '2/7']


def test_debug_nans_stops_at_the_operation(tiny, tmp_path):
  process = subprocesses.python(
      f'c.run({str(tmp_path)!r}, data=lambda: c.Loader(broken_step=1), debug_nans=True)')
  assert process.returncode == 1
  assert 'FloatingPointError: invalid value (nan) encountered' in process.stderr


def test_sigterm_saves_the_step_and_ends_the_run(tiny, tmp_path):
  class Preempted(tiny.Loader):

    def __next__(self):
      if self.step == 2:
        signal.raise_signal(signal.SIGTERM)
      return super().__next__()

  summary = tiny.run(tmp_path, data=Preempted, train_steps=100, checkpoint_period=50)
  assert (summary['steps'], summary['finished']) == (3, False)
  assert (tmp_path / 'checkpoint_3').is_dir()


def test_a_run_leaves_files_a_person_can_read(tiny, tmp_path):
  summary = tiny.run(tmp_path)
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  metrics = {'loss', 'loss/robot', 'loss/web', 'accuracy', 'accuracy/robot', 'accuracy/web'}
  assert summary['final'].keys() == metrics
  assert summary['finished'] and summary['examples_per_second'] > 0
  assert 0 <= summary['data_wait_share'] < 1
  info = (tmp_path / 'model-info.txt').read_text()
  assert 'wi            (16, 2, 24)  embed, layers, mlp  (-, -, -)  3,072' in info
  mixtures = (tmp_path / 'mixtures.txt').read_text().splitlines()
  assert mixtures[1].split() == ['robot', '0.5000', '100']
  assert 'timing/seqs_per_second' in tiny.lines(tmp_path)[0]


def test_evaluators_run_at_their_period_and_the_best_checkpoint_stays_after_a_resume(
    tiny, tmp_path):
  class Judge:
    """Says that step 2 was the best, and how good the answers are."""

    scores = iter([0.1, 0.9, 0.3, 0.2, 0.2])

    def evaluate(self, predict):
      answers = predict(tiny.batch_of(0))
      assert answers.shape == (8, 6)
      return {'robot': {'score': next(self.scores)}}

  judge = {
      'training_eval': lambda: evaluators.TrainingEval(tiny.Loader, num_batches=2),
      'inference_eval': lambda: evaluators.InferenceEval(Judge),
  }
  for train_steps in (3, 5):
    tiny.run(
        tmp_path, train_steps=train_steps, checkpoint_period=1, eval_period=1, evaluators=judge,
        keep=1, keep_best_metric='inference_eval/robot/score',
    )  # pyformat: disable
  assert sorted(p.name for p in tmp_path.glob('checkpoint_*')) == ['checkpoint_2', 'checkpoint_5']
  lines = tiny.lines(tmp_path, 'training_eval/web')
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5]
  assert {'loss', 'accuracy'} <= set(lines[0])
  assert tiny.lines(tmp_path, 'training_eval/all')[0]['loss'] > 0


def test_the_best_needs_an_evaluation_at_each_checkpoint(tiny, tmp_path):
  with pytest.raises(ValueError, match='checkpoint_period 3 is no multiple of eval_period 2'):
    tiny.run(tmp_path, eval_period=2, evaluators={'x': len}, keep_best_metric='x/y/z')


def test_training_loads_neither_tensorflow_nor_seqio():
  process = subprocesses.python(
      'import pkgutil, importlib, rt2_train.training as t; '
      'names = [m.name for m in pkgutil.iter_modules(t.__path__)]; '
      '[importlib.import_module(f"rt2_train.training.{name}") for name in names]; '
      'print([m for m in sys.modules if m.split(".")[0] in ("tensorflow", "seqio")])'
  )
  assert process.stdout.strip() == '[]', process.stderr
