"""The PyTorch part of tools.benchmark: models of `transformers` with the dimensions of ours.

The classes that come closest: ViT for the vision tower (sequential blocks, a class token that the
language half does not get), T5 for PaLI-X's encoder-decoder (embeddings always tied), Llama for
PaLM-E's decoder (sequential blocks). Run as people run them: eager, scaled-dot-product attention.
"""

from collections.abc import Sequence
import statistics
from typing import Any

import jax
import torch
import transformers

from rt2_train.models import encoder_decoder
from rt2_train.models import vit
from rt2_train.models import vlm
from rt2_train.training import metrics
from tools import benchmark_models
from tools import benchmark_rates

_MATRIX = 8192


class Network(torch.nn.Module):
  """A ViT, a linear projection, and a T5 or a Llama that reads image tokens before text."""

  def __init__(self, module: Any, checkpointing: bool = False):
    """Makes the model with the dimensions of `module`, in torch's default device and dtype.

    Args:
      module: one of our networks.
      checkpointing: recomputes every layer in the backward pass.
    """
    super().__init__()
    self.vit = transformers.ViTModel(_vit_config(module.vit_config), add_pooling_layer=False)
    self.projection = torch.nn.Linear(module.vit_config.width, module.config.width)
    self.has_encoder = isinstance(module.config, encoder_decoder.EncoderDecoderConfig)
    if self.has_encoder:
      self.language = transformers.T5ForConditionalGeneration(_t5_config(module.config))
    else:
      self.language = transformers.LlamaForCausalLM(_llama_config(module.config))
    if checkpointing:
      self.vit.gradient_checkpointing_enable()
      self.language.gradient_checkpointing_enable()

  def forward(self, images, inputs, targets):
    """The mean cross-entropy of `targets`."""
    x = self.embed(images, inputs)
    if self.has_encoder:
      return self.language(inputs_embeds=x, labels=targets, use_cache=False).loss
    x = torch.cat([x, self.language.get_input_embeddings()(targets)], dim=1)
    # Scores of the targets alone, as ours.
    scores = self.language(
        inputs_embeds=x[:, :-1], logits_to_keep=targets.shape[1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), targets.flatten())

  def act(self, images, inputs):
    """The tokens of a greedy answer."""
    x = self.embed(images, inputs)
    length = benchmark_models.ACTION
    mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
    tokens = self.language.generate(
        inputs_embeds=x, attention_mask=mask, do_sample=False, min_new_tokens=length,
        max_new_tokens=length)
    return tokens[:, -length:]  # T5 also tells the token that it starts with.

  def embed(self, images, inputs):
    tokens = self.projection(self.vit(images).last_hidden_state[:, 1:])
    text = self.language.get_input_embeddings()(inputs)
    return torch.cat([tokens.to(text.dtype), text], dim=1)


def train_seconds(
    module: Any, device: str, *, batch_size: int, inputs_length: int, targets_length: int,
    checkpointing: bool, rounds: int,
) -> tuple[int, list[float]]:
  """Parameters, and seconds of a training step in each round: bfloat16 autocast, fused AdamW."""
  with torch.device(device):
    network = Network(module, checkpointing).train()
  optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
  batch = _batch(module, device, batch_size, inputs_length, targets_length)

  def step():
    with torch.autocast(device, dtype=torch.bfloat16):
      loss = network(*batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss

  seconds = benchmark_rates.seconds_per_call(step, torch.Tensor.item, rounds)
  return _size(network), seconds


@torch.inference_mode()
def decode_seconds(
    module: Any, device: str, rounds: int, rows: int = 1, dtype: torch.dtype = torch.bfloat16,
) -> tuple[int, list[float]]:
  """Parameters, and seconds of `rows` actions at once in each round, all in `dtype`."""
  before = torch.get_default_dtype()
  torch.set_default_dtype(dtype)
  try:
    with torch.device(device):
      network = Network(module).eval()
  finally:
    torch.set_default_dtype(before)
  images, inputs, _ = _batch(module, device, rows, benchmark_models.PROMPT, 1)
  images = images.to(dtype)
  # A robot waits for its action before it asks for the next.
  run = lambda: network.act(images, inputs).cpu()
  return _size(network), benchmark_rates.seconds_per_call(run, lambda _: None, rounds)


def print_all(
    names: Sequence[str], remat: str | None, rounds: int, **settings: int | None
) -> None:
  """Prints training steps and actions per second of each model on the CUDA device."""
  if not torch.cuda.is_available():
    print(f'pytorch: not measured, since PyTorch {torch.__version__} sees no CUDA device')
    return
  jax.config.update('jax_platforms', 'cpu')  # It only counts FLOPs here; the card is PyTorch's.
  settings['batch_size'] = settings['batch_size'] or benchmark_models.BATCH_SIZES[False]
  checkpointing = remat != 'none'
  row, device = benchmark_rates.row, 'cuda'
  print(f'pytorch: PyTorch {torch.__version__}, transformers {transformers.__version__}, eager, on '
        f'{torch.cuda.get_device_name()}; median (range) of {rounds} rounds')
  flops = _matmul_rates(device, rounds)
  print(row('matrix products', [rate / 1e12 for rate in flops], 'TFLOP/s'))
  for name in names or benchmark_models.TRAINED[False]:
    model = benchmark_models.build(name)
    try:
      parameters, seconds = train_seconds(
          model.module, device, checkpointing=checkpointing, rounds=rounds, **settings)
    except torch.OutOfMemoryError as error:
      print(f'  training {name} does not fit: {_first_line(error)}; use a smaller --batch_size')
      continue
    print(f'  training {name}, {parameters:,} parameters, batch {settings["batch_size"]}, fused '
          f'AdamW, bfloat16 autocast, {"full" if checkpointing else "no"} checkpointing')
    rates = [_step_flops(model, settings) / s for s in seconds]
    print(row('  step', [1e3 * s for s in seconds], 'ms'))
    print(row('  examples', [settings['batch_size'] / s for s in seconds], 'per second'))
    limit = statistics.median(flops)
    print(row('  MFU of matrix products', [100 * rate / limit for rate in rates], '%'))
  for name in names or benchmark_models.DECODED[False]:
    torch.cuda.empty_cache()
    try:
      parameters, seconds = decode_seconds(benchmark_models.build(name).module, device, rounds)
    except torch.OutOfMemoryError as error:
      print(f'  decoding {name} does not fit: {_first_line(error)}')
      continue
    print(row(f'  decoding {name}', [1 / s for s in seconds], 'Hz', f'{parameters:,} parameters'))
  benchmark_models.close(on_cpu=False)


def _matmul_rates(device: str, rounds: int) -> list[float]:
  a, b = (
      torch.randn(_MATRIX, _MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
  wait = lambda _: torch.cuda.synchronize()
  seconds = benchmark_rates.seconds_per_call(lambda: a @ b, wait, rounds)
  return [2 * _MATRIX**3 / s for s in seconds]


def _step_flops(model: vlm.VisionLanguageModel, settings: dict[str, Any]) -> float:
  """Model FLOPs of our training step, whose matrix products are the same."""
  loss = lambda params, batch: model.loss_fn(params, batch, None)[0]
  return metrics.model_flops(
      loss, benchmark_rates.parameter_shapes(model), model.batch_shapes(**settings))


def _batch(module, device, rows, inputs_length, targets_length):
  config, ids = module.vit_config, (3, module.config.vocab_size)
  with torch.device(device):
    return (
        torch.rand(rows, 3, config.image_height, config.image_width) * 2 - 1,
        torch.randint(*ids, (rows, inputs_length)),
        torch.randint(*ids, (rows, targets_length)),
    )


def _size(network: torch.nn.Module) -> int:
  return sum(parameter.numel() for parameter in network.parameters())


def _first_line(error: BaseException) -> str:
  return str(error).split('. ')[0]


def _vit_config(config: vit.ViTConfig) -> transformers.ViTConfig:
  return transformers.ViTConfig(
      hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.heads,
      intermediate_size=config.mlp_dim, patch_size=config.patch_size, qkv_bias=config.qkv_bias,
      image_size=(config.image_height, config.image_width))


def _t5_config(config: encoder_decoder.EncoderDecoderConfig) -> transformers.T5Config:
  return transformers.T5Config(
      vocab_size=config.vocab_size, d_model=config.width, d_kv=config.head_dim,
      num_heads=config.heads, d_ff=config.mlp_dim, num_layers=config.encoder_layers,
      num_decoder_layers=config.decoder_layers, dropout_rate=0.0,
      feed_forward_proj=f'gated-{config.activations[0]}', decoder_start_token_id=0)


def _llama_config(config: Any) -> transformers.LlamaConfig:
  return transformers.LlamaConfig(
      vocab_size=config.vocab_size, hidden_size=config.width, head_dim=config.head_dim,
      num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
      intermediate_size=config.mlp_dim, num_hidden_layers=config.layers,
      tie_word_embeddings=config.tied_embeddings)
