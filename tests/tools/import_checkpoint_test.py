"""The command, from flags to its last line."""

import pathlib
import subprocess
import sys

FIXTURES = pathlib.Path(__file__).parents[1] / 'convert/fixtures/t5_1_1_siglip'


def command(*arguments):
  return subprocess.run(
      [sys.executable, '-m', 'tools.import_checkpoint', *arguments], capture_output=True, text=True,
      check=False)


def test_the_command_joins_two_halves_and_says_what_became_of_every_tensor(tmp_path):
  done = command(
      '--from=hf', f'--source={FIXTURES}/vision', '--from=hf', f'--source={FIXTURES}/language',
      f'--gin_file={FIXTURES}/model.gin', f'--output={tmp_path}/out')
  assert done.returncode == 0, done.stderr
  assert 'token_embedder/embedding <- shared.weight' in done.stdout
  assert 'image_projection/kernel <- random' in done.stdout
  assert '50 parameters imported, 2 initialised, 11 source tensors unused' in done.stdout
  assert done.stdout.splitlines()[-1] == (
      f'wrote {tmp_path}/out; train from it with '
      f"--gin.INITIAL_CHECKPOINT_PATH=\"'{tmp_path}/out'\"")


def test_what_is_wrong_is_one_line(tmp_path):
  done = command(
      '--from=t5x', f'--source={FIXTURES}/language', f'--gin_file={FIXTURES}/model.gin',
      f'--output={tmp_path}/out')
  assert done.returncode == 1 and not (tmp_path / 'out').exists()
  assert done.stderr.splitlines()[-1] == (
      f'import_checkpoint: {FIXTURES}/language holds no T5X checkpoint; name a checkpoint_<step> '
      'directory with the file `checkpoint`, or with `state/_METADATA` (--traceback shows where)')
