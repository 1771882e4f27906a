"""Replays training frames through the serving path: do training and serving agree, and how well?

  python -m tools.replay --checkpoint=runs/demo/cofinetune --dataset=runs/demo/data/tabletop/0.1.0

For steps of recorded episodes, what training made of them (pixels, prompt) is compared with what
the server makes of the message a robot would send, bit for bit; both are answered in batches of one
size and the answers compared; the actions are compared with the recorded ones. Status 1 says that
training and serving differ. In place of --dataset, --gin_file=my_data.gin reads what that file
names for task `robot`.
"""

from collections.abc import Sequence
import os

from absl import app
from absl import flags
import numpy as np

from rt2_train import actions
from rt2_train import images
from rt2_train.data import rlds
from rt2_train.serving import arrays
from rt2_train.serving import client
from rt2_train.serving import messages
from rt2_train.serving import policy as policy_lib
from tools import index_dataset

for _name in index_dataset.SOURCE_FLAGS:
  flags.declare_key_flag(_name)
_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'A run, one of its checkpoints, or what was exported.')
_DATASET = flags.DEFINE_string('dataset', None, 'Directory of RLDS episodes.')
_NUM_STEPS = flags.DEFINE_integer(
    'num_steps', 256, 'How many steps, spread over a split.', lower_bound=1)
_SERVER = flags.DEFINE_string(
    'server', None, 'Address of tools.serve with the same checkpoint and --batch_sizes=16, whose '
    'answers are compared; by default the serving path runs in this process.')

_BATCH = 16


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  if _CHECKPOINT.value is None:
    raise app.UsageError('give --checkpoint')
  (source,) = index_dataset.named_sources([_DATASET.value] if _DATASET.value else [])
  policy = policy_lib.Policy.from_checkpoint(_CHECKPOINT.value, batch_sizes=[_BATCH])
  remote = None
  if _SERVER.value:
    remote = client.RemotePolicy(_SERVER.value, os.environ.get('RT2_API_KEY'))
  differing = replay(source, source.splits[0], policy, remote, _NUM_STEPS.value)
  return int(differing > 0)


def replay(
    source: index_dataset.Source, split: str, policy: policy_lib.Policy,
    remote: client.RemotePolicy | None, most: int) -> int:
  """Prints agreement and errors of at most so many steps; returns in how many the two differ."""
  processor = policy.processor
  trained = rlds.RobotExamples(
      source.directory.path, split, processor, source.layout, source.index_dir, on_bad='skip',
      max_bad_share=1)
  steps = source.steps(split)
  keys = tuple(f'image_{camera}' for camera in range(len(source.layout.images)))
  interface = messages.Interface(processor, 'prompt', keys, 'close_positive')
  chosen = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
  same = {'pixels': [], 'prompts': [], 'answers': []}
  said, recorded = [], []
  for first in range(0, len(chosen), _BATCH):
    rows, observations = [], []
    for i in chosen[first:first + _BATCH]:
      packed = arrays.pack_msgpack(_message(steps, int(i), keys, processor.history))
      observations.append(interface.observation(arrays.unpack_msgpack(packed)))
      served = policy.prepare(observations[-1])
      row = {**served, **_as_trained(trained[int(i)], served['inputs'])}
      same['pixels'].append(
          all(np.array_equal(row[name], served[name]) for name in ('images', 'image_mask')))
      same['prompts'].append(np.array_equal(row['inputs'], served['inputs']))
      rows.append(row)
      recorded.append(steps.action_NxD[i])
    answered = (remote or policy).infer(observations)
    for tokens, action in zip(policy.answer(rows), answered, strict=True):
      same['answers'].append(np.array_equal(tokens, action.tokens))
      said.append(action.values)
  print(f'{source.directory.name}/{split}: {len(chosen)} of {len(steps)} steps, answered '
        f'{"by " + _SERVER.value if remote else "in this process"} with {policy.checkpoint}')
  _print_errors(np.stack(said), np.stack(recorded), processor.action_space)
  return _print_agreement(same)


def _message(
    steps: rlds.RobotSteps, i: int, keys: Sequence[str], history: int) -> dict[str, object]:
  """What a robot would send: frames as its cameras give them, and the instruction."""
  frames = [images.decode(frame) for frame in steps.images(i, history)]
  if steps.layout.bgr:
    frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
  cameras = {key: frames[camera::len(keys)] for camera, key in enumerate(keys)}
  return {**cameras, 'prompt': steps.step(i).instruction}


def _as_trained(example: dict[str, np.ndarray], like_L: np.ndarray) -> dict[str, np.ndarray]:
  """The model's inputs of a training example, its prompt padded."""
  inputs_L = np.zeros_like(like_L)
  inputs_L[:len(example['inputs'])] = example['inputs']
  return {'inputs': inputs_L, 'images': example['images'], 'image_mask': example['image_mask']}


def _print_errors(
    said_NxD: np.ndarray, recorded_NxD: np.ndarray, space: actions.ActionSpace) -> None:
  print('  error of the action     mean |error|   median      95 %   same bin')
  error_NxD = np.abs(said_NxD - recorded_NxD)
  same_NxD = space.encode(said_NxD) == space.encode(recorded_NxD)
  for dimension, error_N, same_N in zip(space.dimensions, error_NxD.T, same_NxD.T, strict=True):
    name = f'{dimension.name} {dimension.unit}'
    print(f'    {name:18}    {error_N.mean():11.4f} {np.median(error_N):8.4f} '
          f'{np.quantile(error_N, 0.95):9.4f}   {same_N.mean():8.1%}')


def _print_agreement(same: dict[str, list[bool]]) -> int:
  for name, each in same.items():
    print(f'  {name:8} {sum(each)} of {len(each)} the same in training and serving')
  differing = sum(not all(each) for each in zip(*same.values(), strict=True))
  print(f'training and serving differ in {differing} steps' if differing else
        'training and serving agree')
  return differing


if __name__ == '__main__':
  index_dataset.run(main)
