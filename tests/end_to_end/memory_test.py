"""A long run of the demo holds as much memory and as many open files at its end as at its start."""

import shutil

import numpy as np
import pytest

from tests.end_to_end import commands

AUGMENTED = """
from __gin__ import dynamic_registration

from rt2_train import images

include 'gin/experiments/demo_cofinetune.gin'

AUGMENTATION = @images.Augmentation()
"""
STEPS, WARM_UP = 10_000, 3_000


@pytest.mark.slow  # That the loader keeps no batch is tested in tests/data/loader_test.py.
def test_memory_and_open_files_stay_flat(home):
  run_dir = home / 'runs/memory'
  shutil.rmtree(run_dir, ignore_errors=True)
  (home / 'memory.gin').write_text(AUGMENTED)
  done = commands.Process(home, *commands.main(
      'train', '--gin_file=memory.gin', '--gin.BATCH_SIZE=4', '--gin.INITIAL_CHECKPOINT_PATH=None',
      '--gin.EVAL_PERIOD=0', f'--gin.TRAIN_STEPS={STEPS}', '--gin.CHECKPOINT_PERIOD=1000',
      '--gin.train.log_period=25', f"--gin.MODEL_DIR='{run_dir}'",
  )).finish(timeout=3600)  # pyformat: disable
  assert done.returncode == 0, done.stderr
  lines = [line for line in commands.lines(run_dir / 'train-metrics.jsonl')
           if line['step'] >= WARM_UP]
  steps_L = np.array([line['step'] for line in lines])
  mib_L = 1024 * np.array([line['memory/host_gib'] for line in lines])
  slope = 1000 * np.polyfit(steps_L, mib_L, 1)[0]
  assert slope < 1.0, f'{slope:.2f} MiB per 1,000 steps: {mib_L.round(1).tolist()}'
  # Checkpoints open files for a moment.
  assert np.median([line['memory/open_files'] for line in lines[-5:]]) <= 2 + np.median(
      [line['memory/open_files'] for line in lines[:5]])
