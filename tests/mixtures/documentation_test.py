"""docs/mixtures.md names what there is, with the weights that there are."""

import pathlib
import re

import seqio

import mixtures.chain_of_thought
import mixtures.cofinetune
import mixtures.language_table
import mixtures.open_x
import mixtures.pali_x
import mixtures.palm_e
import mixtures.sources

PAGE = (pathlib.Path(__file__).parents[2] / 'docs/mixtures.md').read_text()


def test_every_task_and_mixture_is_on_the_page():
  named = set(re.findall(r'`(\w+)`', PAGE))
  assert set(mixtures.sources.NAMES) - set(mixtures.open_x.DATASETS) <= named
  ours = {name for name in seqio.MixtureRegistry.names()
          if all(task.name in mixtures.sources.NAMES
                 for task in seqio.MixtureRegistry.get(name).tasks)}
  assert len(ours) >= 10 and ours <= named


def test_the_papers_weights_are_those_of_the_page():
  for name, weight in {**mixtures.pali_x.SIZES, **mixtures.palm_e.WEIGHTS}.items():
    row = next(line for line in PAGE.splitlines() if line.startswith('|') and f'`{name}`' in line)
    said = re.search(rf'`{name}` (\d+)', row) or re.search(r'\| (\d+) \|', row)
    assert float(said.group(1)) == weight, name
