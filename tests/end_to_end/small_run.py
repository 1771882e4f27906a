"""A run that several processes share in no time: small.gin."""

# The demo's data, pixels changed at random, into a model that is compiled in no time.
GIN = """
from __gin__ import dynamic_registration

from rt2_train import images
from rt2_train.data import loader
from rt2_train.training import adafactor
from rt2_train.training import partitioning
from rt2_train.training import train
from tests.end_to_end import recorded_batches
from tests.training import conftest

include 'gin/data/demo.gin'

train.train:
  model = @conftest.Model()
  train_data = @recorded_batches.RecordedBatches
  model_dir = %MODEL_DIR
  train_steps = 4
  learning_rate = 0.05
  checkpoint_period = 3
  log_period = 1
  partitioner = @partitioning.Partitioner()
conftest.Model:
  optimizer_def = @adafactor.Adafactor()
  vocab = %VOCAB_SIZE
  dropout_rate = 0.1
# Writes every batch down that training reads.
recorded_batches.RecordedBatches:
  loader = @loader.Loader()
  directory = %RECORDED
loader.Loader:
  mixture_or_task_name = 'cofinetune'
  batch_size = 8
  processor = %PROCESSOR
  augmentation = @images.Augmentation()
"""
