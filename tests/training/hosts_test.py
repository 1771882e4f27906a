"""Several processes train, evaluate and save like one."""

import json

import numpy as np
import pytest

from rt2_train.training import hosts
from rt2_train.training import partitioning
from tests.training import evaluated_run
from tests.training import subprocesses

# Metrics that do not depend on who computed them, and how fast.
_SHARED = ('loss', 'accuracy', 'gradient_norm', 'cross_ent_loss', 'z_loss', 'tokens', 'score')
# Of [4 devices of 2 processes, in the order of a mesh], [data, model].
_MESHES = (
    ([0, 1, 2, 3], [4, 1]), ([0, 2, 1, 3], [4, 1]), ([3, 1, 0, 2], [4, 1]),
    ([0, 2, 1, 3], [2, 2]), ([0, 2, 1, 3], [1, 4]),
)  # pyformat: disable

# What two processes with two devices each do for the tests below; they print what they found.
SCRIPT = """
import json, pathlib, time
import numpy as np
from rt2_train.training import hosts
from tests.training import evaluated_run

home = pathlib.Path({home!r})
# Each device has rows of its own; or all four work on the same ones.
apart = c.partitioning.Partitioner('fsdp', 2, small=0)
evaluated_run.run(c, home / 'apart', train_steps=4, partitioner=apart)
joined = c.partitioning.Partitioner('fsdp_tensor', 4, small=0)
evaluated_run.run(c, home / 'joined', partitioner=joined)

rows = []
for places, shape in {meshes!r}:
  partitioner = c.partitioning.Partitioner('fsdp_tensor')
  devices = np.array(jax.devices())[places].reshape(1, *shape)
  partitioner.mesh = jax.sharding.Mesh(devices, partitioner.mesh.axis_names)
  mine = hosts.rows(partitioner, 8)
  batch = partitioner.batch({{'row': np.arange(8)[mine]}})['row']
  whole = jax.jit(lambda x: x, out_shardings=partitioner.replicated)(batch)
  rows.append((mine.tolist(), np.asarray(whole).tolist()))

turns = []
with hosts.main_first('makes a file'):
  if hosts.is_main():
    time.sleep(0.5)
    (home / 'found').touch()
  turns.append((home / 'found').exists())
try:
  with hosts.main_first('finds nothing'):
    raise ValueError('no data')
except ValueError as error:
  turns.append(str(error))

texts = hosts.gather_texts('text ' + 'é' * (1 + jax.process_index()))
warned = []
hosts.logging.warning = lambda text, *values: warned.append(text % values)
for shares in ((0.01, 0.02), (0.5, 0.01), (0.02, 0.5)):
  hosts.tell_stragglers(['process 0 on a', 'process 1 on b'], shares[jax.process_index()])


class OtherData(c.Loader):
  # Process 1 has another file than process 0.

  def state(self):
    return {{'step': 0, 'sources': {{'web': f'file {{jax.process_index()}}'}}}}


try:
  c.run(home / 'other', data=OtherData)
except ValueError as error:
  refused = str(error)
print(json.dumps({{
    'rows': rows, 'turns': turns, 'texts': texts, 'warned': warned, 'refused': refused}}))
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  return tmp_path_factory.mktemp('hosts')


@pytest.fixture(scope='module')
def said(home):
  """What each of the two processes says."""
  script = SCRIPT.format(home=str(home), meshes=_MESHES)
  return [json.loads(out) for out in subprocesses.together(script, processes=2, devices=2)]


@pytest.fixture
def alone(tiny, home):
  """The directory of the same run by this process, on one device."""
  if not (home / 'alone').exists():
    evaluated_run.run(tiny, home / 'alone')
  return home / 'alone'


def assert_same_runs(tiny, one, other, step):
  for name in ('train', 'training_eval/web', 'training_eval/all', 'inference_eval/robot'):
    lines, expected = tiny.lines(other, name), tiny.lines(one, name)
    assert [line['step'] for line in lines] == [line['step'] for line in expected]
    for line, wanted in zip(lines, expected):
      shared = [key for key in wanted if key.split('/')[0] in _SHARED]
      assert shared
      for key in shared:
        np.testing.assert_allclose(line[key], wanted[key], rtol=1e-5, err_msg=f'{name} {key}')
  checkpoints = [sorted(path.name for path in each.glob('checkpoint_*')) for each in (one, other)]
  assert checkpoints[0] == checkpoints[1]
  for item in ('state', 'ema'):
    expected, arrays = (tiny.saved_state(each, step, item) for each in (one, other))
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
      np.testing.assert_allclose(arrays[key], array, rtol=1e-5, atol=1e-7, err_msg=key)


def test_one_process_goes_on_where_two_stopped(tiny, home, said, alone):
  summary = evaluated_run.run(tiny, home / 'apart')
  assert summary['start_step'] == 4
  assert_same_runs(tiny, alone, home / 'apart', 6)


def test_two_processes_that_work_on_the_same_rows_train_like_one(tiny, home, said, alone):
  assert_same_runs(tiny, alone, home / 'joined', 6)


def test_a_process_reads_the_rows_its_devices_hold_wherever_they_are_in_the_mesh(said):
  first, second = (each['rows'] for each in said)
  everything = list(range(8))
  # The global batch has its rows in order, whoever read them.
  assert [whole for _, whole in first + second] == [everything] * 10
  assert [mine for mine, _ in first] == [
      [0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5], everything, everything]
  assert [mine for mine, _ in second] == [
      [4, 5, 6, 7], [2, 3, 6, 7], [0, 1, 6, 7], everything, everything]


def test_one_process_holds_all_rows():
  assert hosts.is_main()
  assert hosts.rows(partitioning.Partitioner(), 8).tolist() == list(range(8))


def test_the_first_process_goes_first_even_when_it_fails(said):
  assert [each['turns'] for each in said] == [[True, 'no data']] * 2


def test_texts_of_unequal_length_are_gathered(said):
  assert [each['texts'] for each in said] == [['text é', 'text éé']] * 2


def test_the_first_process_tells_who_is_waited_for(said):
  assert said[1]['warned'] == []
  assert said[0]['warned'] == [
      f'process {i} on {host} waits for its data 50 % of the time, most others {usual} %: all wait '
      'for it' for i, host, usual in ((0, 'a', 1), (1, 'b', 2))]


def test_processes_with_other_data_are_refused_by_all(said, home):
  for each in said:
    assert each['refused'].startswith('process 1 on ')
    assert "sources.web is 'file 0' in the data of process 0 on" in each['refused']
    assert each['refused'].endswith("'file 1' in its own; give all the same files")
  assert not list((home / 'other').glob('checkpoint_*'))
