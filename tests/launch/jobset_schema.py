"""The part of JobSet's schema (jobset.x-k8s.io/v1alpha2, with batch/v1 and v1 inside) that we use.

A field is its type, a set of the values it may have, a list of one kind of item, or an object; a
name that starts with `!` must be there. What is not here is an error, so that no misspelt field
is passed over, as a server may do.

Source: the custom resource definition of kubernetes-sigs/jobset, and Kubernetes' API reference.
"""

_POD = {
    '!restartPolicy': {'Never'},  # What podFailurePolicy asks for.
    'terminationGracePeriodSeconds': int,
    'hostNetwork': bool,
    'dnsPolicy': {'ClusterFirstWithHostNet', 'ClusterFirst', 'Default', 'None'},
    'nodeSelector': {'*': str},
    '!containers': [{
        '!name': str,
        '!image': str,
        'command': [str],
        'env': [{'!name': str, 'value': str}],
        'ports': [{'!containerPort': int}],
        'securityContext': {'privileged': bool},
        'resources': {'limits': {'*': int}},
        'volumeMounts': [{'!name': str, '!mountPath': str}],
    }],
    'volumes': [{'!name': str, 'persistentVolumeClaim': {'!claimName': str}}],
}
_JOB = {
    'completionMode': {'Indexed', 'NonIndexed'},
    'parallelism': int,
    'completions': int,
    'backoffLimit': int,
    'podFailurePolicy': {'!rules': [{
        '!action': {'FailJob', 'FailIndex', 'Ignore', 'Count'},
        'onExitCodes': {'containerName': str, '!operator': {'In', 'NotIn'}, '!values': [int]},
        'onPodConditions': [{'!type': str, 'status': {'True', 'False', 'Unknown'}}],
    }]},
    '!template': {'!spec': _POD},
}
JOB_SET = {
    '!apiVersion': {'jobset.x-k8s.io/v1alpha2'},
    '!kind': {'JobSet'},
    '!metadata': {'!name': str, 'annotations': {'*': str}},
    '!spec': {
        'failurePolicy': {
            'maxRestarts': int,
            'rules': [{
                '!name': str,
                '!action': {
                    'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts',
                    'RestartJob', 'RestartJobAndIgnoreMaxRestarts',
                },
                'onJobFailureReasons': [{
                    'BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes',
                    'MaxFailedIndexesExceeded', 'PodFailurePolicy',
                }],
            }],
        },
        '!replicatedJobs': [{'!name': str, 'replicas': int, '!template': {'!spec': _JOB}}],
    },
}


def check(value, schema=JOB_SET, where: str = '') -> None:
  """Raises AssertionError that names the first field which is not as the schema has it."""
  if isinstance(schema, dict):
    assert isinstance(value, dict), f'{where} is {value!r}, not an object'
    kinds = {name.lstrip('!'): kind for name, kind in schema.items()}
    for name in schema:
      assert not name.startswith('!') or name[1:] in value, f'{where}{name[1:]} is missing'
    for name, part in value.items():
      assert name in kinds or '*' in kinds, f'{where}{name} is no field that we know'
      check(part, kinds.get(name, kinds.get('*')), f'{where}{name}.')
  elif isinstance(schema, list):
    assert isinstance(value, list), f'{where} is {value!r}, not a list'
    for i, part in enumerate(value):
      check(part, schema[0], f'{where}{i}.')
  elif isinstance(schema, set):
    assert value in schema, f'{where} is {value!r}, not one of {sorted(schema)}'
  else:
    assert type(value) is schema, f'{where} is {value!r}, not of type {schema.__name__}'
