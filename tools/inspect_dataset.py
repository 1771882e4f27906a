"""Shows what a robot dataset holds: python -m tools.inspect_dataset DIR.

Prints counts, instructions, action statistics against the action space and what is broken, and
draws two pictures: frames of several episodes, and the distribution of every action dimension. In
place of DIR, --gin_file=my_data.gin reads what that file names for task `robot`.
"""

import collections
import os

from absl import app
from absl import flags
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from rt2_train import actions
from rt2_train import images
from rt2_train.data import layouts
from rt2_train.data import rlds
from tools import index_dataset

for _name in index_dataset.SOURCE_FLAGS:
  flags.declare_key_flag(_name)

_ACTION_SPACE = flags.DEFINE_string(
    'action_space', None, 'An action_space.json (checkpoints have one) to compare with; the '
    "layout's own by default.")
_POSITION = flags.DEFINE_float(
    'position', None, 'Compare with RT-2 bounds of this many metres either way.', lower_bound=0)
_ROTATION = flags.DEFINE_float(
    'rotation', None, 'Compare with RT-2 bounds of this many radians either way.', lower_bound=0)
_EPISODES = flags.DEFINE_integer('episodes', 6, 'Episodes on the contact sheet.', lower_bound=1)
_FRAMES = flags.DEFINE_integer('frames', 7, 'Frames of each of them.', lower_bound=1)
_TOP = flags.DEFINE_integer('top', 10, 'Instructions to print, most frequent first.')
_OUTPUT_DIR = flags.DEFINE_string(
    'output_dir', None, 'Where the pictures go; runs/inspect/<dataset> by default.')


def main(argv: list[str]) -> int:
  if len(argv) > 2:
    raise app.UsageError('give one directory: python -m tools.inspect_dataset DIR')
  (source,) = index_dataset.named_sources(argv[1:])
  inspect(source, _OUTPUT_DIR.value)
  return 0


def inspect(source: index_dataset.Source, output_dir: str | None):
  """Prints what the splits hold and writes the pictures of each."""
  space = _space(source.layout)
  output_dir = output_dir or os.path.join('runs', 'inspect', source.directory.name)
  os.makedirs(output_dir, exist_ok=True)
  for name in source.splits:
    steps = source.steps(name)
    index_dataset.print_report(steps.report)
    print_instructions(steps, _TOP.value)
    print_actions(steps, space)
    stem = os.path.join(output_dir, name.translate(str.maketrans('[]:%', '____')))
    contact_sheet(steps, _EPISODES.value, _FRAMES.value).savefig(f'{stem}_frames.png', dpi=100)
    histograms(steps, space).savefig(f'{stem}_actions.png', dpi=100)
    print(f'pictures: {stem}_frames.png {stem}_actions.png')


def _space(layout: layouts.Layout) -> actions.ActionSpace:
  """The action space to compare with; it must have the layout's dimensions."""
  space = layout.action_space
  if _ACTION_SPACE.value:
    with open(_ACTION_SPACE.value, encoding='utf-8') as file:
      space = actions.ActionSpace.from_json(file.read())
  elif _POSITION.value or _ROTATION.value:
    bounds = {'position': _POSITION.value, 'rotation': _ROTATION.value}
    space = actions.rt2(**{name: bound for name, bound in bounds.items() if bound})
  if space.names != layout.action_space.names:
    raise ValueError(f'layout {layout.name!r} yields ({", ".join(layout.action_space.names)}), the '
                     f'action space {space.name!r} is ({", ".join(space.names)}); pass another')
  return space


def print_instructions(steps: rlds.RobotSteps, top: int):
  """Prints the most frequent instructions, by episodes."""
  pairs = np.unique(np.stack([steps.episode_N, steps.instruction_N], 1), axis=0)
  counts = collections.Counter(pairs[:, 1].tolist()).most_common(top)
  print(f'  instructions: {len(steps.instructions)} distinct; most episodes:')
  for number, count in counts:
    print(f'  {count:8d}  {steps.instructions[number]}')


def print_actions(steps: rlds.RobotSteps, space: actions.ActionSpace):
  """Prints each dimension's distribution against the bounds of `space`."""
  bins_NxD = space.encode(steps.action_NxD)
  clipped = steps.clipped(space)
  print(f'  {"":10s}{"min":>9s}{"q01":>9s}{"mean":>9s}{"q99":>9s}{"max":>9s}'
        f'{"low":>9s}{"high":>9s}{"clipped":>10s}  bins used by 98 %')
  for d, dimension in enumerate(space.dimensions):
    values_N = steps.action_NxD[:, d]
    low, high = np.quantile(values_N, [0.01, 0.99])
    first, last = np.quantile(bins_NxD[:, d], [0.01, 0.99])
    shown = (values_N.min(), low, values_N.mean(), high, values_N.max(), dimension.low,
             dimension.high)
    print(f'  {dimension.name:10s}' + ''.join(f'{value:9.4f}' for value in shown)
          + f'{clipped[dimension.name]:10.3%}  {int(last - first) + 1} of '
          f'{dimension.last - dimension.first + 1}')
  if 'terminate' in space.names:
    stops_N = steps.action_NxD[:, 0] == actions.TERMINATE_STOP
    ending = len(np.unique(steps.episode_N[stops_N])) / len(np.unique(steps.episode_N))
    print(f'  terminate: {stops_N.mean():.3%} of the steps; {ending:.1%} of the episodes stop')
  if 'gripper' in space.names:
    gripper_N = steps.action_NxD[:, space.names.index('gripper')]
    print(f'  gripper ({steps.layout.gripper}): open {np.mean(gripper_N < -0.1):.1%}, '
          f'between {np.mean(np.abs(gripper_N) <= 0.1):.1%}, close {np.mean(gripper_N > 0.1):.1%}')


def contact_sheet(
    steps: rlds.RobotSteps, num_episodes: int, num_frames: int) -> matplotlib.figure.Figure:
  """Frames of episodes spread over the split: a row each, under its instruction."""
  numbers = np.unique(steps.episode_N)
  numbers = numbers[np.linspace(0, len(numbers) - 1, min(num_episodes, len(numbers))).astype(int)]
  figure = matplotlib.figure.Figure(figsize=(1.9 * num_frames, 1.9 * len(numbers)))
  axes = figure.subplots(len(numbers), num_frames, squeeze=False)
  # By hand: laying out so many axes automatically takes seconds.
  top = 1 - 0.4 / (1.9 * len(numbers))
  figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top, wspace=0.03, hspace=0.3)
  for axis in axes.flat:
    axis.axis('off')
  for row, number in zip(axes, numbers):
    rows = np.flatnonzero(steps.episode_N == number)
    chosen = np.unique(np.linspace(0, len(rows) - 1, num_frames).astype(int))
    for axis, i in zip(row, rows[chosen]):
      step = steps.step(int(i))
      try:
        frame = images.decode(step.images[0])
        axis.imshow(frame[..., ::-1] if steps.layout.bgr else frame)
      except ValueError as e:
        raise ValueError(f'{steps.example_id(int(i))}: {e}; write the shard again') from e
      title = f'step {step.step}' + (' (last)' if step.is_last else '')
      if i == rows[0]:
        title = f'{step.episode}: {step.instruction}\n{title}'
      axis.set_title(title, fontsize=8, loc='left')
  return figure


def histograms(steps: rlds.RobotSteps, space: actions.ActionSpace) -> matplotlib.figure.Figure:
  """The distribution of every dimension, with the bounds of `space` and what is beyond them."""
  columns = min(4, space.size)
  rows = -(-space.size // columns)
  figure = matplotlib.figure.Figure(figsize=(3.4 * columns, 2.5 * rows), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False)
  clipped = steps.clipped(space)
  for axis in axes.flat[space.size:]:
    axis.axis('off')
  for d, (axis, dimension) in enumerate(zip(axes.flat, space.dimensions)):
    values_N = steps.action_NxD[:, d]
    shown = (min(dimension.low, values_N.min()), max(dimension.high, values_N.max()))
    axis.hist(values_N, bins=128, range=shown, log=True, color='#4477aa')
    axis.set_ylim(bottom=0.5)  # On a log axis a single step would have no height.
    axis.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    for bound in (dimension.low, dimension.high):
      axis.axvline(bound, color='#cc3311', linewidth=1)
    unit = f' [{dimension.unit}]' if dimension.unit else ''
    axis.set_title(f'{dimension.name}{unit}, clipped {clipped[dimension.name]:.2%}', fontsize=9)
    axis.tick_params(labelsize=7)
  figure.suptitle(f'{steps.name}: {len(steps)} steps; red: bounds of {space.name}', fontsize=10)
  return figure


if __name__ == '__main__':
  index_dataset.run(main)
