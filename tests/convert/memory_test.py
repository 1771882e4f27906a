"""What an import takes of memory does not grow with the model, but with its largest tensor."""

import json
import math
import subprocess
import sys

import pytest

_GIB = 2**30
_VOCAB, _WIDTH = 250_112, 512

_IMPORT = """
import resource, sys
import gin
from rt2_train import gin_files
from rt2_train.convert import importer
gin_files.parse(['gin/runs/import.gin', sys.argv[1]], ["ALLOW_MISSING = ('^image_', '^vit/')"])
gin.get_configurable(importer.import_checkpoint)(sources=[('hf', sys.argv[2])], output=sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

_GIN = f"""
from __gin__ import dynamic_registration

from rt2_train.models import encoder_decoder
from rt2_train.models import vit

include 'gin/models/pali_x.gin'

vit.ViTConfig:
  width = 8
  depth = 1
  heads = 1
  mlp_dim = 8
  patch_size = 4

encoder_decoder.EncoderDecoderConfig:
  encoder_layers = 8
  decoder_layers = 8
  width = {_WIDTH}
  heads = 6
  head_dim = 64
  mlp_dim = 1024

VOCAB_SIZE = {_VOCAB}
IMAGE_SIZE = 8
"""


def _shapes():
  """mT5-small, of 300 M parameters, of which each table has 128 M."""
  table = (_VOCAB, _WIDTH)
  shapes = {'shared.weight': table, 'lm_head.weight': table}
  for tower, attentions in (('encoder', ['SelfAttention']),
                            ('decoder', ['SelfAttention', 'EncDecAttention'])):
    bias = f'{tower}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    shapes |= {bias: (32, 6), f'{tower}.final_layer_norm.weight': (_WIDTH,)}
    for i in range(8):
      for j, name in enumerate([*attentions, 'DenseReluDense']):
        layer = f'{tower}.block.{i}.layer.{j}'
        shapes[f'{layer}.layer_norm.weight'] = (_WIDTH,)
        parts = {'q': (384, _WIDTH), 'k': (384, _WIDTH), 'v': (384, _WIDTH), 'o': (_WIDTH, 384)}
        if name == 'DenseReluDense':
          parts = {'wi_0': (1024, _WIDTH), 'wi_1': (1024, _WIDTH), 'wo': (_WIDTH, 1024)}
        shapes |= {f'{layer}.{name}.{part}.weight': shape for part, shape in parts.items()}
  return shapes


@pytest.mark.slow
def test_300_million_parameters_take_less_than_their_largest_tensor_and_a_gibibyte(tmp_path):
  header, end = {}, 0
  for name, shape in _shapes().items():
    size = 4 * math.prod(shape)
    header[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [end, end + size]}
    end += size
  head = json.dumps(header).encode()
  source = tmp_path / 'source'
  source.mkdir()
  (source / 'config.json').write_text('{"model_type": "mt5"}')
  with open(source / 'model.safetensors', 'wb') as file:
    file.write(len(head).to_bytes(8, 'little') + head)
    file.truncate(8 + len(head) + end)  # Zeros, which take no room on disk.
  assert end > 4 * 299_000_000
  (tmp_path / 'model.gin').write_text(_GIN)
  done = subprocess.run(
      [sys.executable, '-c', _IMPORT, *(str(tmp_path / name) for name in (
          'model.gin', 'source', 'out'))], capture_output=True, text=True, check=True)
  peak = int(done.stdout.splitlines()[-1])
  assert peak < 1.3 * 4 * _VOCAB * _WIDTH + _GIB, f'{peak / _GIB:.2f} GiB'
