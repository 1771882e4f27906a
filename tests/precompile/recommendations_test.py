"""What is recommended where a run names no rules."""

import pytest

from rt2_train.models import stacks
from rt2_train.precompile import recommendations
from rt2_train.precompile import topologies
from rt2_train.training import chips
from rt2_train.training import partitioning


@pytest.mark.parametrize('chip', chips.CHIPS)
@pytest.mark.parametrize('program', ['train', 'decode'])
def test_what_is_recommended_makes_a_mesh_of_every_slice(chip, program):
  for shape in chips.CHIPS[chip].shapes:
    topology = topologies.parse(f'{chip}:{shape}')
    for advice in recommendations.recommend(topology, program, batch_size=2048):
      assert advice.rules in partitioning.RULES
      assert topology.chips % advice.model_parallelism == 0
      assert set(advice.remat_policies) <= set(stacks.REMAT_POLICIES)


def test_products_are_split_where_chips_have_few_rows():
  pod = topologies.parse('v5p:8x8x8')
  assert recommendations.recommend(pod, 'train', 1024)[0][:2] == ('fsdp_tensor', 8)
  assert recommendations.recommend(pod, 'train', 2048)[0][:2] == ('fsdp_tensor', 2)
  assert recommendations.recommend(pod, 'train', 16384)[0][:2] == ('fsdp', 1)


def test_the_mesh_goes_with_the_rules_that_a_run_names():
  parts = lambda rules: recommendations.recommend(
      topologies.parse('v5p:4x4x4'), 'train', 2048, rules)[0].model_parallelism
  assert [parts(rules) for rules in ('fsdp', 'hsdp', 'fsdp_tensor')] == [1, 4, 2]


def test_decoding_splits_over_fewer_chips_where_there_are_fewer_heads():
  options = recommendations.recommend(topologies.parse('v5e:4x8'), 'decode', 1)
  assert [advice.model_parallelism for advice in options] == [32, 16, 8, 4, 2, 1]
