"""Mixtures `open_x` and `cofinetune_open_x`: many robots of Open X-Embodiment.

One source for each dataset whose action map is published (rt2_train/data/open_x.py says where), by
the dataset's own name:

  import mixtures.open_x
  mixtures.open_x.taco_play.data_dir = '/data/taco_play/0.1.0'
  mixtures.open_x.taco_play.splits = {'train': 'train[:95%]', 'validation': 'train[95%:]'}

Weights are those that RT-1-X's example lists; a dataset that it does not list weighs as much as its
small ones. Values stay as recorded, so datasets in other units than the model's action space need
bounds that hold all of them. A dataset that is not here takes a `layouts.Layout` of its own in gin,
see gin/data/my_robot.gin.
"""

from mixtures import cofinetune
from mixtures import robot
from mixtures import sources
from mixtures import web
from rt2_train.data import layouts
from rt2_train.data import open_x
from rt2_train.data import rlds

_SMALL = 5.0

# Language-Table moves in two dimensions: see mixtures/language_table.py.
DATASETS = {
    'fractal20220817_data': layouts.FRACTAL,
    'bridge': layouts.BRIDGE_OXE,
    'bridge_dataset': layouts.BRIDGE,
    **{layout.name: layout for layout in open_x.LAYOUTS.values()},
}

for _name, _layout in DATASETS.items():
  globals()[_name] = robot.dataset('mixtures.open_x', _name, rlds.RobotExamples, layout=_layout)
  robot.register(_name, globals()[_name], example=f'/data/{_name}/0.1.0')

rates = sources.rates(
    'mixtures.open_x',
    {name: float(open_x.RT_1_X_WEIGHTS.get(name, _SMALL)) for name in DATASETS})
sources.add_mixture('open_x', (lambda: 1.0, rates))
sources.add_mixture(
    'cofinetune_open_x', (cofinetune.share, rates), (lambda: 1 - cofinetune.share(), web.rates))
