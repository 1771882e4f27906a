"""Each notation of XLA names the partitions that its documentation says."""

import pytest

from rt2_train.precompile import replica_groups


@pytest.mark.parametrize(
    'attributes, expected',
    [
        ('replica_groups={{0,1},{2,3}}, dimensions={0}', ((0, 1), (2, 3))),
        ('channel_id=1, source_target_pairs={{0,1},{1,0}}', ((0, 1), (1, 0))),
        ('replica_groups=[2,2]<=[4], use_global_device_ids=true', ((0, 1), (2, 3))),
        ('replica_groups=[2,2]<=[2,2]T(1,0)', ((0, 2), (1, 3))),
        ('replica_groups=[4,2]<=[2,2,2]T(0,2,1), x', ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=4], use_global_device_ids=true", ((0, 1, 2, 3),)),
        # The second half of an axis of four, that is neighbours; then its first half.
        ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ('dimensions={0}', ((0, 1, 2, 3),)),
        ('replica_groups={}, dimensions={0}', ((0, 1, 2, 3),)),
    ],
)
def test_groups_are_read_in_every_notation(attributes, expected):
  assert replica_groups.parse(attributes, partitions=4) == expected
