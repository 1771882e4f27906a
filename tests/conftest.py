"""What every test finds: a CPU, and a compiler that is quick rather than thorough."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests compile much and compute little.
os.environ.setdefault(
    'XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
