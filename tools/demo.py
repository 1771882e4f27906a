"""The whole recipe at a size for a laptop: data, VLM, co-fine-tuning, evaluation, pictures.

Each phase is one command of this project, printed before it runs. Training that was interrupted
goes on where it stopped, training that was finished is left alone; evaluations are made again.
"""

from collections.abc import Sequence
import dataclasses
import json
import operator
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

from absl import app
from absl import flags
import psutil

from rt2_train.evaluation import episodes as episodes_lib
from rt2_train.evaluation import pictures
from rt2_train.evaluation import report

_ABLATION = flags.DEFINE_bool(
    'ablation', False, 'Also train from scratch and by plain fine-tuning, and compare.')
_MODEL = flags.DEFINE_enum(
    'model', 'pali_x', ['pali_x', 'palm_e'], 'Which family: encoder-decoder or decoder-only.')
_PLANS = flags.DEFINE_bool(
    'plans', False, 'Also instructions of two steps, and a policy that says its plan (PaLI-X).')
_NUM_EPISODES = flags.DEFINE_integer(
    'closed_loop_episodes', 500, 'Episodes per suite.', lower_bound=1)


@dataclasses.dataclass(frozen=True)
class Variant:
  """A way to run the recipe; the demo's gin files name the same places.

  Attributes:
    name: the gin file gin/experiments/demo_<name>.gin is laid over each run's; '' for none.
    title: of its table.
    run_dir: where its runs lie.
    data_dir: where its data lie.
    data_flags: what they are made with.
  """

  name: str = ''
  title: str = 'RT-2-PaLI-X'
  run_dir: pathlib.Path = pathlib.Path('runs/demo')
  data_dir: pathlib.Path = pathlib.Path('runs/demo/data')
  data_flags: tuple[str, ...] = ()


_VARIANTS = {
    'pali_x': Variant(),
    'palm_e': Variant('palm_e', 'RT-2-PaLM-E', pathlib.Path('runs/demo_palm_e')),
    'plans': Variant(
        'plans', run_dir=pathlib.Path('runs/demo_plans'),
        data_dir=pathlib.Path('runs/demo_plans/data'),
        data_flags=('--skills=pick,move_near,move_then_pick', '--num_episodes=4500')),
}
_TWO_STEPS = 'move_then_pick'
# A VLM that answers this share of held-out questions has learnt its world.
_VLM_ACCURACY = 0.90
# What phases that all runs stand on are accounted to.
_SHARED = 'all'
# Status of a training run that was told to stop and has saved what it had (rt2_train.main).
_INTERRUPTED = 75


class Recipe:
  """Runs commands one after the other and keeps the account of time and memory."""

  def __init__(self, variant: Variant):
    self.variant, self.run_dir = variant, variant.run_dir
    self._account = self.run_dir / 'phases.json'
    self._phases = json.loads(self._account.read_text()) if self._account.exists() else {}

  def run(self, phase: str, run: str, *command: str) -> None:
    """Runs `python -m command...` for the run of that name, and accounts for it.

    What an interrupted attempt took is added; what is done once more counts once.
    """
    print(f'\n== {phase}\n$ python -m {shlex.join(command)}', flush=True)
    start = time.time()
    process = subprocess.Popen([sys.executable, '-m', *command], env=_environment(self.run_dir))
    # Whoever stops the demo stops the phase: it saves what it has, and is accounted for.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    peak_gib = _watch_memory(process)
    try:
      status = process.wait()
    except KeyboardInterrupt:
      status = process.wait()  # The terminal has told it, too.
    seconds = time.time() - start
    before = self._phases.get(phase, {'seconds': 0.0, 'peak_rss_gib': 0.0, 'finished': False})
    self._phases[phase] = {
        'run': run,
        'seconds': (max if before['finished'] else operator.add)(before['seconds'], seconds),
        'peak_rss_gib': max(before['peak_rss_gib'], peak_gib[0]),
        'finished': not status,
    }
    report.write_json(self._account, self._phases)
    if status == _INTERRUPTED:
      sys.exit(f'demo: interrupted in phase "{phase}"; the same command goes on from there')
    if status:
      sys.exit(
          f'demo: phase "{phase}" failed with status {status}; mend what it names and run the same '
          'command again')

  def cost(self, run: str) -> dict[str, float]:
    """Time and memory of a run, with the data and the VLM it stands on."""
    phases = [phase for phase in self._phases.values() if phase.get('run') in (_SHARED, run)]
    return {
        'wall_seconds': sum(phase['seconds'] for phase in phases),
        'peak_rss_gib': max(phase['peak_rss_gib'] for phase in phases),
    }


def _environment(run_dir: pathlib.Path) -> dict[str, str]:
  """What the phases find in their environment; whatever the user has set stays."""
  ours = {
      # XLA's buffers are new at each step: in huge pages a step takes a fifth less time.
      'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
      # What one phase has compiled, the next need not compile again.
      'JAX_COMPILATION_CACHE_DIR': str((run_dir / 'compiled').absolute()),
  }
  if not sys.stderr.isatty():
    ours['TQDM_MININTERVAL'] = '20'  # A log file does not want ten lines a second.
  return ours | dict(os.environ)


def _watch_memory(process: subprocess.Popen) -> list[float]:
  """Peak resident memory [GiB] of the process and its children, sampled twice a second."""
  peak = [0.0]

  def watch():
    while process.poll() is None:
      try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
        peak[0] = max(peak[0], sum(one.memory_info().rss for one in family) / 2**30)
      except psutil.Error:
        pass
      time.sleep(0.5)

  threading.Thread(target=watch, daemon=True).start()
  return peak


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  if _PLANS.value and (_ABLATION.value or _MODEL.value != 'pali_x'):
    raise app.UsageError('--plans is a recipe of its own; give it without --ablation and --model')
  recipe = Recipe(_VARIANTS['plans' if _PLANS.value else _MODEL.value])
  recipe.run_dir.mkdir(parents=True, exist_ok=True)
  recipe.run(
      'demo data', _SHARED, 'tools.make_demo_data', f'--output_dir={recipe.variant.data_dir}',
      *recipe.variant.data_flags)
  before = _pretrain(recipe)
  names = [*(('from_scratch', 'finetune') if _ABLATION.value else ()), 'cofinetune']
  # Co-fine-tuning comes first: its table is what most people wait for.
  for name in reversed(names):
    recipe.run(f'train {name}', name, *_training(recipe, name))
    _evaluate(recipe, name, None if name == 'from_scratch' else before)
    if name == 'cofinetune':
      _report(recipe)
  if _ABLATION.value:
    _report_ablation(recipe, names)
  if _PLANS.value:
    _plan(recipe)


def _training(recipe: Recipe, name: str) -> list[str]:
  return ['rt2_train.main', '--run_mode=train', *_gin(recipe, name)]


def _gin(recipe: Recipe, name: str) -> list[str]:
  """What configures run `name` of the chosen variant."""
  files = [f'--gin_file=gin/experiments/demo_{name}.gin']
  if not recipe.variant.name:
    return files
  bindings = [f"--gin.MODEL_DIR='{recipe.run_dir / name}'"]
  if name in ('cofinetune', 'finetune'):
    bindings.append(f"--gin.INITIAL_CHECKPOINT_PATH='{recipe.run_dir / 'pretrain'}'")
  return [*files, f'--gin_file=gin/experiments/demo_{recipe.variant.name}.gin', *bindings]


def _pretrain(recipe: Recipe) -> float:
  """Trains the VLM and returns the share of held-out questions it answers."""
  recipe.run('train the VLM', _SHARED, *_training(recipe, 'pretrain'))
  accuracy = _offline(recipe, 'pretrain', 'web', _SHARED)['vqa']['accuracy']
  if accuracy < _VLM_ACCURACY:
    # Fine-tuning a model that has not learnt its world wastes the rest of the recipe.
    sys.exit(
        f'demo: the VLM answers {accuracy:.2f} of held-out questions, {_VLM_ACCURACY} are wanted; '
        f'remove {recipe.run_dir}/pretrain and raise TRAIN_STEPS in '
        'gin/experiments/demo_pretrain.gin')
  return accuracy


def _offline(recipe: Recipe, name: str, mixture: str, run: str) -> dict[str, dict[str, float]]:
  """Metrics of the checkpoint of run `name` on the held-out part of `mixture`."""
  output = recipe.run_dir / name / 'offline.json'
  recipe.run(
      f'evaluate {name} on held-out data', run, 'rt2_train.main', '--run_mode=eval',
      '--gin_file=gin/data/demo.gin', '--gin_file=gin/runs/eval.gin',
      f"--gin.CHECKPOINT_PATH='{recipe.run_dir / name}'", f"--gin.MIXTURE_OR_TASK_NAME='{mixture}'",
      f"--gin.OUTPUT_PATH='{output}'", f"--gin.DATA_DIR='{recipe.variant.data_dir}'",
  )  # pyformat: disable
  return json.loads(output.read_text())


def _evaluate(recipe: Recipe, name: str, accuracy_before: float | None) -> None:
  """Evaluates run `name` offline and in closed loop, and writes its summary."""
  offline = _offline(recipe, name, 'cofinetune', name)
  played = _act(recipe, name, 'closed_loop')
  report.write_summary(
      recipe.run_dir / name / 'evaluation',
      episodes=played,
      web={'accuracy_before': accuracy_before, 'accuracy_after': offline['vqa']['accuracy']},
      offline=offline,
      **recipe.cost(name),
  )


def _act(recipe: Recipe, name: str, folder: str, *flags_: str) -> list[episodes_lib.Episode]:
  """Lets run `name` act, and returns its episodes, which are kept in `folder`."""
  played = recipe.run_dir / name / folder
  parameters = json.loads((recipe.variant.data_dir / 'parameters.json').read_text())
  recipe.run(
      f'let {name} act ({folder})', name, 'tools.closed_loop',
      f'--checkpoint={recipe.run_dir / name}', f'--output_dir={played}',
      f'--num_episodes={_NUM_EPISODES.value}', f'--num_categories={parameters["num_categories"]}',
      *flags_,
  )  # pyformat: disable
  return episodes_lib.load(played)


def _plan(recipe: Recipe) -> None:
  """Teaches the co-fine-tuned policy to plan, and compares it in instructions of two steps."""
  recipe.run(
      'train chain_of_thought', 'chain_of_thought', *_training(recipe, 'chain_of_thought'))
  asked = [f'--skill={_TWO_STEPS}', '--suites=seen,unseen']
  without = _act(recipe, 'cofinetune', 'two_steps', *asked)
  planned = _act(recipe, 'chain_of_thought', 'two_steps', *asked, '--plan')
  pictures.rollouts(recipe.run_dir / 'plans.png', planned)
  compared = {'co-fine-tuned': without, 'with a plan': planned}
  report.write_json(recipe.run_dir / 'plans.json', report.comparison(compared))
  print('\n' + report.comparison_table('instructions of two steps', compared))
  print(f'\nplans.json and plans.png are in {recipe.run_dir}/')


def _report(recipe: Recipe) -> None:
  """The demo's own summary, table and pictures."""
  recipe.run(
      'look at the batches', 'cofinetune', 'tools.inspect_mixture',
      *_gin(recipe, 'cofinetune'), f'--output={recipe.run_dir}/mixture.png',
  )  # pyformat: disable
  runs = {'VLM, web data': 'pretrain', 'co-fine-tuning, robot and web data': 'cofinetune'}
  trained = {title: recipe.run_dir / name for title, name in runs.items()}
  pictures.curves(recipe.run_dir / 'curves.png', trained)
  played = episodes_lib.load(recipe.run_dir / 'cofinetune/closed_loop')
  pictures.rollouts(recipe.run_dir / 'rollouts.png', played)
  summary = report.read_summary(recipe.run_dir / 'cofinetune/evaluation')
  summary |= recipe.cost('cofinetune')
  report.write_json(recipe.run_dir / report.SUMMARY, summary)
  print('\n' + report.table(f'{recipe.variant.title} in miniature, co-fine-tuned', summary))
  print(f'\nsummary.json, curves.png, rollouts.png and mixture.png are in {recipe.run_dir}/')


def _report_ablation(recipe: Recipe, names: Sequence[str]) -> None:
  summaries = {name: report.read_summary(recipe.run_dir / name / 'evaluation') for name in names}
  played = {name: episodes_lib.load(recipe.run_dir / name / 'closed_loop') for name in names}
  report.write_ablation(recipe.run_dir / report.ABLATION, summaries)
  print('\n' + report.ablation_table(summaries, played))
  print(f'\nablation.json is in {recipe.run_dir}/')


if __name__ == '__main__':
  app.run(main)
