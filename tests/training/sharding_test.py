"""Whatever the rules, a model computes the same."""

import json
import os
import subprocess
import sys

import pytest


# Each compiles for seconds; of the two slices the slow tests take care.
ONE_SLICE = ('data_parallel', 'fsdp', 'fsdp_two_stage', 'hsdp', 'fsdp_tensor')
TWO_SLICES = ('data_parallel', 'fsdp, two slices', 'fsdp_tensor, two slices')


@pytest.fixture(
    scope='module', params=[ONE_SLICE, pytest.param(TWO_SLICES, marks=pytest.mark.slow)],
    ids=['one slice', 'two slices'])
def results(request) -> dict[str, dict[str, float]]:
  environment = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 '
                   '--xla_cpu_use_fusion_emitters=false',
      # Devices that wait for each other's sums must not use up XLA's threads.
      'NPROC': '32',
      # The partitioner says which moves it makes the long way.
      'TF_CPP_MIN_LOG_LEVEL': '2',
  }
  done = subprocess.run(
      [sys.executable, '-m', 'tests.training.on_eight_devices', *request.param], env=environment,
      check=True, capture_output=True, text=True)
  report = json.loads(done.stdout.splitlines()[-1])
  assert report['devices'] == 8 and len(report['results']) == 2 * len(request.param)
  return report['results']


def test_loss_and_gradients_do_not_depend_on_the_rules(results):
  for name, result in results.items():
    assert result['loss'] < 1e-5 and result['gradient'] < 1e-5, f'{name}: {result}'


@pytest.mark.parametrize('model', ['PaLI-X', 'PaLM-E'])
def test_every_rule_set_but_data_parallel_cuts_parameters(results, model):
  cut = {name.split(': ')[1]: result['cut'] for name, result in results.items()
         if name.startswith(f'{model}: ')}
  assert cut.pop('data_parallel') == 0
  assert min(cut.values()) >= 10
