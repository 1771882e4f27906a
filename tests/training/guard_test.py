"""What is not finite is named, written down and counted; what jumps is told with its source."""

import json

from clu import metrics as clu_metrics
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import guard


def average(total: float, count: float = 1) -> clu_metrics.Average:
  return clu_metrics.Average(total=jnp.float32(total), count=jnp.float32(count))


FINE = {'loss': average(1), 'loss/web': average(1), 'gradient_norm': average(1)}
EXAMPLES = lambda step: [('web', f'web/{step}'), ('robot', 'r/0'), ('robot', 'r/1')]


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
  said = []
  monkeypatch.setattr(guard.logging, 'warning', lambda text, *values: said.append(text % values))
  return said


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_examples(tmp_path, bad):
  strict = guard.Guard(str(tmp_path), EXAMPLES, patience=0)
  assert strict.look(6, FINE)['loss'].total == 1
  path = tmp_path / 'not_finite' / 'step_7.json'
  with pytest.raises(ValueError, match=f'^not finite in step 7: loss/robot; .* in {path}; the'):
    strict.look(7, FINE | {'loss/robot': average(bad)})
  assert json.loads(path.read_text()) == {
      'step': 7, 'not_finite': ['loss/robot'],
      # Step 7 is made of the batch that counts as number 6.
      'examples': {'web': ['web/6'], 'robot': ['r/0', 'r/1']},
  }  # pyformat: disable
  with pytest.raises(ValueError, match='not finite in step 8: gradient_norm'):
    strict.look(8, FINE | {'gradient_norm': average(bad)})


def test_patience_counts_steps_in_a_row(tmp_path, warnings):
  patient = guard.Guard(str(tmp_path), EXAMPLES, patience=2)
  bad = FINE | {'loss': average(np.nan)}
  for step, metrics in enumerate((bad, bad, FINE, bad, bad), start=1):
    assert (patient.look(step, metrics) is None) == (metrics is bad)
  assert patient.not_finite == 4 and len(warnings) == 4
  assert 'step 5' in warnings[-1] and warnings[-1].endswith('the step is not applied')
  with pytest.raises(ValueError, match='not finite in step 6'):
    patient.look(6, bad)


def test_endless_patience_and_other_processes_write_nothing(tmp_path, warnings):
  other = guard.Guard(str(tmp_path), EXAMPLES, patience=None, active=False)
  for step in range(1, 30):
    assert other.look(step, FINE | {'loss': average(np.nan)}) is None
  assert not warnings and not list(tmp_path.iterdir())


def test_a_jump_is_told_with_its_source_and_noise_is_not(tmp_path, warnings):
  watching = guard.Guard(str(tmp_path), EXAMPLES, patience=0)
  noise = np.random.default_rng(0).normal(0, 0.1, 200)
  for step, extra in enumerate(noise, start=1):
    falling = 3 * 0.99**step + 0.5
    watching.look(step, {'loss/robot': average(falling * (1 + extra)), 'loss/web': average(1)})
  assert not warnings
  watching.look(201, {'loss/robot': average(9), 'loss/web': average(1), 'loss/new': average(0, 0)})
  assert len(warnings) == 1
  assert warnings[0].startswith('loss spike in step 201: loss/robot is 9 after ')
