"""A model and a loader small enough to train in seconds, with the duck types of the real ones."""

import json
import os
import signal
import time
import types

from clu import metrics as clu_metrics
from etils import epath
from flax import core
from flax import linen as nn
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rt2_train.models import losses
from rt2_train.training import adafactor
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import train as train_lib

VOCAB, EMBED, MLP, LAYERS = 32, 16, 24, 2
SOURCES = {7: 'robot', 9: 'web'}


class Network(nn.Module):
  """Mean of tokens and pixels, two stacked layers, logits through the embedding."""

  dropout_rate: float = 0.0
  vocab: int = VOCAB

  @nn.compact
  def __call__(self, tokens, images, targets, deterministic=True):
    param = lambda name, shape, axes: flax_partitioning.param_with_axes(
        name, nn.initializers.normal(0.3), shape, jnp.float32, axes=axes
    )
    embedding = param('embedding', (self.vocab, EMBED), ('vocab', 'embed'))
    patch = param('patch_kernel', (images.shape[-1], EMBED), ('patch', 'embed'))
    wi = param('wi', (EMBED, LAYERS, MLP), ('embed', 'layers', 'mlp'))
    wo = param('wo', (MLP, LAYERS, EMBED), ('mlp', 'layers', 'embed'))
    pixels = images.astype(jnp.float32).mean((1, 2, 3)) / 255.0
    x = (embedding[tokens].mean(1) + pixels @ patch)[:, None] + embedding[targets]
    for layer in range(LAYERS):
      x = x + nn.Dropout(self.dropout_rate)(
          nn.gelu(x @ wi[:, layer]) @ wo[:, layer], deterministic=deterministic
      )
    return x @ embedding.T


class Model:
  """The trainer's side of rt2_train.models.pali_x.PaLIX."""

  def __init__(self, optimizer_def=None, factor='NUM_REAL_TARGET_TOKENS', **network):
    self.module = Network(**network)
    self.optimizer_def = adafactor.Adafactor() if optimizer_def is None else optimizer_def
    self.factor = factor

  def get_initial_variables(self, rng, input_shapes, input_types=None):
    one = lambda name: jnp.ones(input_shapes[name], input_types[name])
    tokens, targets = one('encoder_input_tokens'), one('decoder_input_tokens')
    return core.freeze(self.module.init(rng, tokens, one('images'), targets))

  def loss_with_rows(self, params, batch, rng):
    logits = self.module.apply(
        {'params': params}, batch['encoder_input_tokens'], batch['images'],
        batch['decoder_input_tokens'], deterministic=rng is None,
        rngs=None if rng is None else {'dropout': rng},
    )  # pyformat: disable
    per_token = losses.token_losses(
        logits, batch['decoder_target_tokens'], z_loss=1e-3, label_smoothing=0.0
    )
    rows = losses.row_sums(per_token, batch['decoder_loss_weights'])
    norm = self.loss_normalizer(batch)
    total = lambda x_B: losses.normalized_sum(x_B, rows.weight_B, norm, self.factor)
    loss, z_loss = total(rows.loss_B), total(rows.z_loss_B)
    average = lambda x, count: clu_metrics.Average(total=x, count=jnp.float32(count))
    metrics = {
        'loss': average(loss, 1),
        'cross_ent_loss': average(loss - z_loss, 1),
        'z_loss': average(z_loss, 1),
        'accuracy': average(rows.correct_B.sum(), rows.weight_B.sum()),
    }
    return loss, (metrics, rows)

  def loss_normalizer(self, batch):
    return losses.normalizer(batch['decoder_loss_weights'], self.factor)

  def predict_batch_with_aux(self, params, batch, rng=None):
    del rng
    logits = self.module.apply(
        {'params': params}, batch['encoder_input_tokens'], batch['images'],
        batch['decoder_input_tokens'],
    )  # pyformat: disable
    return jnp.argmax(logits, -1), {}


def batch_of(step: int, rows: int = 8) -> dict[str, np.ndarray]:
  """A batch as a function of the step: rows of unequal length from two sources."""
  rng = np.random.default_rng(step)
  targets = rng.integers(2, VOCAB, (rows, 6)).astype(np.int32)
  weights = (np.arange(6) < rng.integers(1, 7, (rows, 1))).astype(np.float32)
  return {
      'encoder_input_tokens': rng.integers(2, VOCAB, (rows, 5)).astype(np.int32),
      'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
      'decoder_target_tokens': targets,
      'decoder_loss_weights': weights,
      'images': rng.integers(0, 256, (rows, 1, 4, 4, 3)).astype(np.uint8),
      'image_mask': np.ones((rows, 1), np.int32),
      'source': np.where(np.arange(rows) % 2, 7, 9).astype(np.int32)[:, None],
  }


class Loader:
  """Yields batch_of(0), batch_of(1), ..."""

  sources = SOURCES

  def __init__(self, rows=8, broken_step=None):
    """In batch number `broken_step` the robot's loss is NaN."""
    self.batch_size, self.broken_step = rows, broken_step
    self.rows = range(rows)
    self.step, self.wait_seconds = 0, 0.0

  def __next__(self):
    started = time.perf_counter()
    batch = batch_of(self.step, self.batch_size)
    if self.step == self.broken_step:
      batch['decoder_loss_weights'][batch['source'][:, 0] == 7] = np.nan
    self.step += 1
    self.wait_seconds += time.perf_counter() - started
    return {name: values[list(self.rows)] for name, values in batch.items()}

  def select(self, rows):
    self.rows = rows

  def state(self):
    return {'step': self.step}

  def restore(self, state, allow_change=False):
    self.step = state['step']
    return []

  def examples(self, step):
    return [('web' if row % 2 == 0 else 'robot', f'{step}/{row}') for row in range(self.batch_size)]

  def seek(self, step):
    self.step = step

  def table(self):
    return [{'source': name, 'weight': 0.5, 'examples': 100} for name in SOURCES.values()]


class SlowLoader(Loader):
  """Takes its time for every batch."""

  def __init__(self, seconds):
    super().__init__()
    self.seconds = seconds

  def __next__(self):
    time.sleep(self.seconds)
    return super().__next__()


class KilledLoader(Loader):
  """Kills its process when batch `at` is asked for and the checkpoint before is on disk."""

  def __init__(self, model_dir, saved_step, at):
    super().__init__()
    self.at, self.saved = at, os.path.join(model_dir, f'checkpoint_{saved_step}')

  def __next__(self):
    if self.step == self.at:
      while not os.path.exists(self.saved):
        time.sleep(0.01)
      os.kill(os.getpid(), signal.SIGKILL)
    return super().__next__()


def assets(width: int = EMBED, bins: int = 256, vocabulary: bytes = b'pieces'):
  """A function that writes the assets of a checkpoint."""

  def write(directory, sources):
    for name, content in (
        ('model.json', {'language': {'width': width}}),
        ('action_space.json', {'bins': [0, bins]}),
        ('sources.json', {str(key): name for key, name in sources.items()}),
    ):
      with open(os.path.join(directory, name), 'w', encoding='utf-8') as file:
        json.dump(content, file)
    with open(os.path.join(directory, 'vocabulary.model'), 'wb') as file:
      file.write(vocabulary)

  return write


def run(model_dir, model=None, data=Loader, **settings):
  """A short run with the settings that most tests share."""
  settings = {
      'train_steps': 6, 'learning_rate': 0.05, 'checkpoint_period': 3, 'log_period': 2,
      'progress': False, **settings,
  }  # pyformat: disable
  model = Model() if model is None else model
  return train_lib.train(model=model, train_data=data, model_dir=str(model_dir), **settings)


def lines(model_dir, name='train'):
  """The JSON lines of one writer."""
  with open(os.path.join(model_dir, f'{name}-metrics.jsonl'), encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def saved_state(model_dir, step, item='state'):
  """The arrays of a checkpoint, by path, whatever devices wrote it."""
  directory = epath.Path(os.path.abspath(model_dir)) / f'checkpoint_{step}' / item
  handler = ocp.PyTreeCheckpointHandler()
  as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(directory).tree
  )
  tree = handler.restore(directory, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return optimizers.flatten(tree)


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """Equal programs are compiled once; subprocesses find the cache by the environment."""
  options = {
      'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compilation_cache')),
      'jax_persistent_cache_min_compile_time_secs': 0.0,
      'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
    del os.environ[name.upper()]


@pytest.fixture
def tiny():
  """Everything above."""
  return types.SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith('_')})
