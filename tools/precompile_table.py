"""Compiles the models for the slices below and writes the table of gin/README.md.

  python -m tools.precompile_table                 all that has no report yet, then the table
  python -m tools.precompile_table --only=55b      what has 55b in its name

Reports are kept in --output_dir; remove one to compile it again.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any

from absl import app
from absl import flags

_ROOT = pathlib.Path(__file__).parents[1]
_BEGIN, _END = '<!-- begin: tools.precompile_table -->', '<!-- end: tools.precompile_table -->'

_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/precompile', 'Where the reports are kept.')
_README = flags.DEFINE_string(
    'readme', str(_ROOT / 'gin/README.md'), 'Markdown file whose marked part is replaced.')
_FAST = flags.DEFINE_bool(
    'fast', False, 'Stops before code generation everywhere: seconds a row, but no estimates.')
_AGAIN = flags.DEFINE_bool('again', False, 'Compiles although a report is there: after a change.')
_ONLY = flags.DEFINE_string('only', '', 'Compiles only what has this in its name.')


@dataclasses.dataclass(frozen=True)
class Case:
  """One row of the table; settings that are None are those that precompile recommends."""

  model: str
  topology: str
  batch_size: int
  program: str = 'train'
  slices: int = 1
  full_codegen: bool = False

  @property
  def name(self) -> str:
    slices = f'_x{self.slices}' if self.slices > 1 else ''
    return f'{self.model}_{self.program}_{self.topology.replace(":", "_")}{slices}'

  def command(self, report: pathlib.Path) -> list[str]:
    bindings = {
        'TOPOLOGY': self.topology, 'BATCH_SIZE': self.batch_size, 'PROGRAM': self.program,
        'SLICES': self.slices, 'FULL_CODEGEN': self.full_codegen and not _FAST.value,
        'REPORT': str(report),
    }
    return [
        'rt2_train.main', '--run_mode=precompile', f'--gin_file=gin/models/{self.model}.gin',
        '--gin_file=gin/runs/precompile.gin',
        *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
    ]  # pyformat: disable


CASES = (
    Case('pali_x_55b', 'v5p:4x4x4', 2048, full_codegen=True),
    Case('pali_x_55b', 'v5p:8x8x8', 2048, full_codegen=True),
    Case('pali_x_55b', 'v5p:8x8x16', 2048),
    Case('pali_x_55b', 'v4:4x4x8', 2048),
    Case('pali_x_55b', 'v5e:16x16', 2048, full_codegen=True),
    Case('pali_x_55b', 'v6e:16x16', 2048),
    Case('pali_x_55b', 'v5p:8x8x8', 4096, slices=2),
    Case('pali_x_5b', 'v5p:4x4x4', 2048),
    Case('palm_e_12b', 'v5e:16x16', 512),
    Case('pali_x_55b', 'v5p:2x2x1', 1, program='decode'),
    Case('palm_e_12b', 'v5e:2x2', 1, program='decode'),
    Case('pali_x_5b', 'v5e:2x2', 1, program='decode'),
)


def row(case: Case, found: Mapping[str, Any]) -> list[str]:
  """The cells of one compiled case."""
  slices = f'{case.slices} x ' if case.slices > 1 else ''
  mesh = ' x '.join(str(size) for size in found['mesh'].values() if size > 1) or '1'
  bound, estimate = found['scheduled_mfu'], found.get('estimated_mfu')
  if case.program == 'decode':
    speed = [f'{1 / found["scheduled_seconds"]:.0f} Hz', '']
  else:
    speed = [f'{bound:.1%}', '' if estimate is None else f'{estimate:.1%}']
  return [
      case.model, case.program, f'{slices}{case.topology} ({found["chips"]})',
      str(case.batch_size), f'{found["rules"]}, {mesh}', found['remat'],
      f'{found["hbm_gib_per_chip"]:.1f} of {found["hbm_capacity_gib"]:.1f}',
      f'{found["hardware_flops"] / found["model_flops"]:.3f}',
      f'{sum(sum(axes.values()) for axes in found["collective_bytes"].values()) / 1e9:.0f}',
      f'{found["exposed_collective_seconds"]:.2f}', *speed, f'{found["seconds_to_compile"]:.0f}',
  ]  # pyformat: disable


_COLUMNS = (
    'model', 'step', 'slice (chips)', 'batch', 'rules, mesh', 'remat', 'HBM GiB per chip',
    'hardware / model FLOPs', 'GB sent per chip', 'exposed s', 'MFU at most', 'MFU estimated',
    'compiled in s',
)


def table(reports: Mapping[Case, Mapping[str, Any]]) -> str:
  """Markdown with a row per report."""
  rows = (row(case, found) for case, found in reports.items())
  lines = [_COLUMNS, ['---'] * len(_COLUMNS), *rows]
  return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def write(readme: pathlib.Path, text: str) -> None:
  """Replaces what stands between the marks of `readme`.

  Raises:
    ValueError: the marks are not there.
  """
  before, begin, rest = readme.read_text().partition(_BEGIN)
  _, end, after = rest.partition(_END)
  if not begin or not end:
    raise ValueError(f'{readme} lacks the lines {_BEGIN} and {_END}, between which the table goes')
  readme.write_text(f'{before}{begin}\n{text}{end}{after}')


def _is_there(case: Case, report: pathlib.Path) -> bool:
  """Whether a report has what the case asks for, so that a long table may be interrupted."""
  if _AGAIN.value or not report.exists():
    return False
  estimated = 'estimated_mfu' in json.loads(report.read_text())
  return estimated or _FAST.value or not case.full_codegen


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  folder = pathlib.Path(_OUTPUT_DIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  failed = []
  for case in CASES:
    report = folder / f'{case.name}.json'
    if _ONLY.value not in case.name or _is_there(case, report):
      continue
    command = case.command(report)
    print(f'\n$ python -m {shlex.join(command)}', flush=True)
    if status := subprocess.call([sys.executable, '-m', *command]):
      failed.append(f'{case.name} failed with status {status}')
  found = {
      case: json.loads(path.read_text())
      for case in CASES if (path := folder / f'{case.name}.json').exists()
  }
  text = table(found)
  write(pathlib.Path(_README.value), text)
  print(f'\n{text}\nwrote {_README.value}')
  if failed:
    sys.exit(f'precompile_table: {"; ".join(failed)}; the table is without these rows')


if __name__ == '__main__':
  app.run(main)
