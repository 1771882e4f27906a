"""Says how many tokens of held-out answers an exported checkpoint writes as the checkpoint does.

  python -m tools.token_agreement --checkpoint=runs/demo/cofinetune --exported=exported \\
      --gin_file=gin/data/demo.gin --mixture=cofinetune --at_least=0.99
"""

from collections.abc import Sequence
import sys

from absl import app
from absl import flags
import gin

from rt2_train import gin_files
from rt2_train.data import evaluator as evaluator_lib
from rt2_train.evaluation import agreement

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'A run, or one of its checkpoints.', required=True)
_EXPORTED = flags.DEFINE_string('exported', None, 'What was exported of it.', required=True)
_GIN_FILE = flags.DEFINE_multi_string(
    'gin_file', None, 'Where the data are, such as gin/data/demo.gin.', required=True)
_GIN_BINDINGS = flags.DEFINE_multi_string('gin_bindings', [], 'A gin line, such as "DATA_DIR=\'x\'".')
_MIXTURE = flags.DEFINE_string('mixture', None, 'A mixture or task.', required=True)
_SPLIT = flags.DEFINE_string('split', 'validation', 'Which split of its tasks.')
_EXAMPLES = flags.DEFINE_integer(
    'examples', 1000, 'Most examples of each task, evenly spread.', lower_bound=1)
_AT_LEAST = flags.DEFINE_float(
    'at_least', 0.0, 'Ends with an error where a smaller share of the tokens agrees.')


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  macros = {
      'CHECKPOINT_PATH': _CHECKPOINT.value, 'MIXTURE_OR_TASK_NAME': _MIXTURE.value,
      'SPLIT': _SPLIT.value, 'EVAL_EXAMPLES': _EXAMPLES.value, 'OUTPUT_PATH': None,
  }
  try:
    gin_files.parse(
        [*_GIN_FILE.value, 'gin/runs/eval.gin'],
        [*_GIN_BINDINGS.value, *(f'{name} = {value!r}' for name, value in macros.items())])
    tasks = agreement.measure(
        checkpoint_path=_CHECKPOINT.value, exported_path=_EXPORTED.value,
        evaluator=gin.get_configurable(evaluator_lib.Evaluator))
  except (ValueError, OSError) as error:
    sys.exit(f'token_agreement: {gin_files.message(error)}')
  for task, counts in tasks.items():
    print(f'{task:16s} {counts.same_tokens} of {counts.tokens} tokens agree '
          f'({counts.same_tokens / counts.tokens:.4f}), {counts.same_answers} of {counts.answers} '
          f'answers ({counts.same_answers / counts.answers:.4f})')
  share = sum(counts.same_tokens for counts in tasks.values()) / sum(
      counts.tokens for counts in tasks.values())
  if share < _AT_LEAST.value:
    sys.exit(f'token_agreement: {share:.4f} of all tokens agree; {_AT_LEAST.value} was asked for')


if __name__ == '__main__':
  app.run(main)
