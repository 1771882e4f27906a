"""A checkpoint is whole or absent, in T5X's layout, and refuses to be another run's."""

import json
import os
import shutil
import signal
import tempfile

import numpy as np
import pytest

from rt2_train import run_files
from rt2_train.training import adafactor
from rt2_train.training import checkpoints
from rt2_train.training import optimizers
from tests.training import subprocesses


def test_the_directory_is_t5xs_with_our_items_beside_it(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=3, assets=tiny.assets(), ema_decay=0.9)
  checkpoint = tmp_path / 'checkpoint_3'
  assert {p.name for p in checkpoint.iterdir() if p.is_dir()} == {'state', 'ema', 'data', 'assets'}
  assert {p.name for p in (checkpoint / 'assets').iterdir()} >= {'model.json', 'action_space.json'}
  sources = json.loads((checkpoint / 'assets' / 'sources.json').read_text())
  assert sources == {'7': 'robot', '9': 'web'}
  assert json.loads((checkpoint / 'data' / 'metadata').read_text()) == {'step': 3}
  state = tiny.saved_state(tmp_path, 3)
  assert state['state/step'] == 3 and state['state/step'].dtype == np.int32
  assert {name.split('/')[-1] for name in state if name.startswith('state/param_states/wi/')} == {
      'v_row', 'v_col', 'v', 'm'
  }
  assert state['target/wi'].shape == (16, 2, 24)
  assert all(array.dtype == np.float32 for name, array in state.items() if name != 'state/step')


@pytest.mark.parametrize('missing', ['_CHECKPOINT_METADATA', 'state/_METADATA'])
def test_a_partly_written_checkpoint_is_ignored(tiny, tmp_path, missing):
  tiny.run(tmp_path, train_steps=2, checkpoint_period=1)
  (tmp_path / 'checkpoint_2' / missing).unlink()
  shutil.copytree(tmp_path / 'checkpoint_1', tmp_path / 'checkpoint_7.orbax-checkpoint-tmp')
  assert run_files.find_checkpoint(tmp_path).name == 'checkpoint_1'
  assert tiny.run(tmp_path, train_steps=3, checkpoint_period=1)['start_step'] == 1
  names = {p.name for p in tmp_path.glob('*checkpoint_*')}
  assert names == {'checkpoint_1', 'checkpoint_2', 'checkpoint_3', 'incomplete_checkpoint_2'}


@pytest.mark.parametrize('file', ['state/ocdbt.process_0/manifest.ocdbt', 'assets/model.json'])
def test_a_truncated_checkpoint_is_named_and_the_one_before_taken(tiny, tmp_path, file, caplog):
  tiny.run(tmp_path, train_steps=2, checkpoint_period=1, assets=tiny.assets())
  path = tmp_path / 'checkpoint_2' / file
  size = path.stat().st_size
  os.truncate(path, size - 3)
  # Metadata that nobody else completes may change.
  with caplog.at_level('WARNING', 'absl'):
    summary = tiny.run(tmp_path, train_steps=3, checkpoint_period=1, assets=tiny.assets())
  assert summary['start_step'] == 1
  said = f'checkpoint_2 is not whole ({file} has {size - 3} of {size} bytes): ignored'
  assert any(said in record.getMessage() for record in caplog.records)
  assert (tmp_path / 'incomplete_checkpoint_2').is_dir()


def test_assets_that_cannot_be_written_leave_no_checkpoint(tiny, tmp_path):
  def full(directory, sources):
    tiny.assets()(directory, sources)
    raise OSError('No space left on device')

  with pytest.raises(OSError, match='No space left'):
    tiny.run(tmp_path, train_steps=1, assets=full)
  assert not list(tmp_path.glob('checkpoint_1'))
  assert tiny.run(tmp_path, train_steps=1, assets=tiny.assets())['start_step'] == 0


def test_a_kill_while_saving_leaves_the_checkpoint_before_although_one_is_kept(tiny, tmp_path):
  process = subprocesses.python(f"""
import os, signal

saves = []

def killing(directory, sources):
  c.assets()(directory, sources)
  saves.append(directory)
  if len(saves) == 2:
    os.kill(os.getpid(), signal.SIGKILL)

c.run({str(tmp_path)!r}, train_steps=6, checkpoint_period=2, keep=1, assets=killing)
""")
  assert process.returncode == -signal.SIGKILL, process.stderr
  assert run_files.find_checkpoint(tmp_path).name == 'checkpoint_2'
  assert list(tmp_path.glob('checkpoint_4*tmp*'))
  summary = tiny.run(tmp_path, train_steps=6, checkpoint_period=2, keep=1, assets=tiny.assets())
  assert summary['start_step'] == 2
  assert [p.name for p in tmp_path.glob('checkpoint_*')] == ['checkpoint_6']


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(tiny, tmp_path):
  code = (
      f'import resource; c.run({str(tmp_path)!r}, train_steps=1); '
      # A file of a checkpoint is larger than this.
      'resource.setrlimit(resource.RLIMIT_FSIZE, (3000, -1)); '
      f'c.run({str(tmp_path)!r}, train_steps=6, checkpoint_period=2)')
  process = subprocesses.python(code)
  assert process.returncode == 1
  begin = f'OSError: a checkpoint cannot be written into {tmp_path}: '
  # TensorStore's threads have their own last words.
  said = [line for line in process.stderr.splitlines() if line.startswith(begin)]
  assert said and 'checkpoint_2' in said[-1] and 'File too large' in said[-1], process.stderr
  assert said[-1].endswith('start again: the run goes on from checkpoint_1')
  assert [p.name for p in tmp_path.glob('checkpoint_*') if 'tmp' not in p.name] == ['checkpoint_1']
  assert tiny.run(tmp_path, train_steps=3)['start_step'] == 1
  assert not list(tmp_path.glob('*tmp*'))


# Fills the disk up to some bytes when its batch is asked for, and says how the run ended.
FULL = """
import os, pathlib, shutil
ROOM, AT = {room}, {at}
run_dir = {directory!r} + '/run'

class Filling(c.Loader):
  def __next__(self):
    if self.step == AT:
      free = shutil.disk_usage({directory!r}).free
      (pathlib.Path({directory!r}) / 'others').write_bytes(bytes(free - ROOM))
    return super().__next__()

try:
  c.run(run_dir, data=Filling, train_steps=1000, checkpoint_period={period}, log_period=1)
except OSError as error:
  print(error)
"""


@subprocesses.needs_a_disk
@pytest.mark.parametrize(
    ('at', 'room', 'period', 'named'),
    [
        (0, 0, 1000, 'run/model-info.txt cannot be written'),
        (3, 8192, 1000, ' cannot be written'),  # The log or the account, whichever grows first.
        (3, 65536, 4, 'a checkpoint cannot be written into '),
    ],
)  # pyformat: disable
def test_a_disk_that_is_full_is_named_whatever_was_to_be_written(
    tiny, tmp_path, at, room, period, named):
  code = FULL.format(directory=str(tmp_path), at=at, room=room, period=period)
  process = subprocesses.on_a_disk_of(1 << 20, tmp_path, code)
  [said] = process.stdout.splitlines()
  assert 'No space left on device' in said and str(tmp_path / 'run') in said and named in said
  assert 'make room there' in said
  # Threads of Orbax and TensorStore may have their own last words.
  assert 'tensorboardX' not in process.stderr, process.stderr


def test_a_directory_that_may_not_be_written_is_named():
  # Pytest's own directories are closed to nobody, who is user 65534.
  with tempfile.TemporaryDirectory() as directory:
    os.chmod(directory, 0o555)
    process = subprocesses.python(
        # What nobody may not import is imported before. Root, who may write anywhere, becomes nobody.
        'import os, tempfile; c.run(tempfile.mkdtemp(), train_steps=1); '
        f'os.getuid() or os.setuid(65534); c.run({directory!r})')
    assert f"PermissionError: [Errno 13] Permission denied: '{directory}/" in process.stderr
    assert not os.listdir(directory)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'width': 99}, 'model.json: language.width is 16 in the checkpoint and 99 in this run'),
        ({'bins': 10}, 'action_space.json: bins.1 is 256 in the checkpoint and 10 in this run'),
        ({'vocabulary': b'other'}, 'vocabulary.model: the file there is another one'),
    ],
)
def test_a_checkpoint_of_another_model_or_robot_is_refused(tiny, tmp_path, change, message):
  tiny.run(tmp_path, train_steps=1, assets=tiny.assets())
  with pytest.raises(ValueError, match=message):
    tiny.run(tmp_path, train_steps=2, assets=tiny.assets(**change))


def test_another_vocabulary_goes_on_when_it_is_allowed_and_is_recorded(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=1, assets=tiny.assets())
  other = tiny.assets(vocabulary=b'other', bins=10)
  assert tiny.run(tmp_path, train_steps=2, assets=other, allow_data_change=True)['finished']
  recorded = json.loads((tmp_path / 'data_changes.jsonl').read_text())
  assert recorded == {'step': 1, 'changes': [
      'action_space.json: bins.1 is 256 in the checkpoint and 10 in this run',
      'vocabulary.model: the file there is another one']}
  with pytest.raises(ValueError, match='model.json: language.width'):
    tiny.run(tmp_path, train_steps=3, assets=tiny.assets(width=99), allow_data_change=True)


def test_parameters_of_another_shape_are_named_with_a_remedy(tiny, tmp_path):
  tiny.run(tmp_path / 'a', train_steps=1)
  bigger = tiny.Model(vocab=40)
  message = r'target/embedding is \(32, 16\) there and \(40, 16\) here; start from a checkpoint'
  with pytest.raises(ValueError, match=message):
    tiny.run(tmp_path / 'b', model=bigger, initial_checkpoint_path=str(tmp_path / 'a'))


def test_parameters_that_are_missing_or_left_over_are_named(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=1)
  shapes = {'embedding': (32, 16), 'wi': (16, 2, 24), 'wo': (24, 2, 16), 'new': (1,)}
  wanted = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  message = 'target/new is not in the checkpoint; target/patch_kernel is only in the checkpoint'
  with pytest.raises(ValueError, match=message):
    checkpoints.restore_params(str(tmp_path / 'checkpoint_1'), wanted)


def test_resuming_with_another_optimizer_is_refused(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=1)
  with pytest.raises(ValueError, match='does not fit: state/param_states/.*resume with model'):
    tiny.run(tmp_path, model=tiny.Model(optimizers.adamw()), train_steps=2)
  with pytest.raises(ValueError, match=r'wi/m is \(1,\) there and \(16, 2, 24\) here'):
    tiny.run(tmp_path, model=tiny.Model(adafactor.Adafactor(beta1=0.9)), train_steps=2)
  with pytest.raises(ValueError, match='keeps no moving average'):
    tiny.run(tmp_path, train_steps=2, ema_decay=0.9)


def test_a_checkpoint_without_loader_state_resumes_at_its_step(tiny, tmp_path):
  # T5X writes state/ alone; the order of batches follows from the step.
  for name in ('ours', 'theirs'):
    tiny.run(tmp_path / name, train_steps=2, checkpoint_period=2)
  shutil.rmtree(tmp_path / 'theirs' / 'checkpoint_2' / 'data')
  for name in ('ours', 'theirs'):
    tiny.run(tmp_path / name, train_steps=4, checkpoint_period=2)
  ours, theirs = (tiny.saved_state(tmp_path / name, 4) for name in ('ours', 'theirs'))
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])


def test_only_the_newest_checkpoints_stay(tiny, tmp_path):
  tiny.run(tmp_path, train_steps=5, checkpoint_period=1, keep=2)
  assert sorted(p.name for p in tmp_path.glob('checkpoint_*')) == ['checkpoint_4', 'checkpoint_5']
