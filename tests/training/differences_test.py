"""The first difference of nested values, in words."""

import pytest

from rt2_train.training import differences


@pytest.mark.parametrize('theirs, ours, said', [
    ({'a': [1, {'b': 2}]}, {'a': [1, {'b': 2}]}, None),
    ({'a': [1, {'b': 2}]}, {'a': [1, {'b': 3}]}, 'a.1.b is 2 in theirs and 3 in ours'),
    ({'a': 1}, {'a': 1, 'c': 2}, 'c is only in ours'),
    ({'a': 1, 'c': 2}, {'a': 1}, 'c is only in theirs'),
    ({'a': [1]}, {'a': [1, 2]}, 'a is [1] in theirs and [1, 2] in ours'),
])
def test_the_first_difference_is_named(theirs, ours, said):
  assert differences.first(theirs, ours, 'theirs', 'ours') == said
