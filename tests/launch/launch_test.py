"""The scripts that start a job elsewhere: what they would run, and when they start it again."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from tests.launch import jobset_schema

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = sorted(
    path.name for path in (ROOT / 'launch').iterdir() if path.suffix in ('.sh', '.sbatch'))
TRAINING = ['--gin_file=gin/experiments/my_pod.gin', "--gin.MODEL_DIR='/data/my run'"]
# The same for a shell to read.
QUOTED = (
    'python -m rt2_train.main --run_mode=train --distributed=auto '
    """--gin_file=gin/experiments/my_pod.gin '--gin.MODEL_DIR='"'"'/data/my run'"'"''"""
)
GKE = ['--name=run', '--image=registry/rt2:1', '--accelerator=tpu-v5p-slice', '--claim=disk']


def launch(script: str, *arguments: str, path: pathlib.Path | None = None, **environment: str):
  """Runs a script; the programs of folder `path` come first."""
  environment = {**os.environ, **environment}
  if path:
    environment['PATH'] = f'{path}:{environment["PATH"]}'
  return subprocess.run(
      ['bash', f'launch/{script}', *arguments], cwd=ROOT, env=environment, capture_output=True,
      text=True, check=False, timeout=60,
  )  # pyformat: disable


def printed(script: str, *arguments: str, **environment: str) -> str:
  done = launch(script, *arguments, **environment)
  assert (done.returncode, done.stderr) == (0, '')
  return done.stdout


@pytest.mark.parametrize('script', SCRIPTS)
def test_shellcheck_finds_nothing(script):
  shellcheck = shutil.which('shellcheck', path=os.path.dirname(sys.executable))
  assert shellcheck, "shellcheck is missing; install the extra: pip install -e '.[test]'"
  done = subprocess.run(
      [shellcheck, '--external-sources', f'launch/{script}'], cwd=ROOT, capture_output=True,
      text=True, check=False,
  )  # pyformat: disable
  assert done.returncode == 0, done.stdout


def test_a_tpu_vm_slice_gets_this_checkout_and_the_command_on_all_workers():
  assert printed('tpu_vm.sh', '--name=my-slice', '--zone=us-east5-a', '--dry_run', '--',
                 '--gin_file=a.gin').splitlines() == [
      'mkdir -p runs',
      "bash -c 'git ls-files -z | tar --null -czf runs/rt2_train.tar.gz -T -'",
      'gcloud compute tpus tpu-vm scp runs/rt2_train.tar.gz my-slice: --zone=us-east5-a '
      '--worker=all',
      'bash launch/keep_running.sh --max_restarts=10 -- '
      "gcloud compute tpus tpu-vm ssh my-slice --zone=us-east5-a --worker=all '--command="
      'mkdir -p rt2_train && tar -xzf rt2_train.tar.gz -C rt2_train && cd rt2_train && '
      'EXTRAS=tpu && . launch/setup.sh && JAX_PLATFORMS=tpu,cpu exec python -m rt2_train.main '
      "--run_mode=train --distributed=auto --gin_file=a.gin'",
  ]


def test_slurm_starts_a_process_per_gpu():
  assert printed('slurm.sbatch', '--dry_run', *TRAINING).splitlines() == [
      'export EXTRAS=cuda JAX_PLATFORMS=cuda,cpu SRUN_CPUS_PER_TASK=8',
      '. launch/setup.sh',
      f'srun --kill-on-bad-exit=1 {QUOTED}',
  ]
  directives = dict(
      line.removeprefix('#SBATCH --').partition('=')[::2]
      for line in (ROOT / 'launch/slurm.sbatch').read_text().splitlines()
      if line.startswith('#SBATCH'))
  assert directives['ntasks-per-node'] == directives['gpus-per-node']
  # What Slurm binds to one GPU calls it GPU 0, and JAX would look for GPU i.
  assert not {'gpus-per-task', 'gpu-bind'} & directives.keys()
  assert directives['signal'] == 'TERM@300' and 'requeue' in directives


def test_gke_creates_a_job_per_slice_and_a_pod_per_host():
  text = printed('gke.sh', *GKE, '--topology=4x4x8', '--slices=2', '--namespace=robots',
                 '--dry_run', '--', *TRAINING)
  command, *manifest, end = text.splitlines()
  assert (command, end) == ("kubectl create --namespace=robots -f - <<'END'", 'END')
  jobset = yaml.safe_load('\n'.join(manifest))
  jobset_schema.check(jobset)
  assert jobset['metadata']['name'] == 'run'
  [replicated] = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert (replicated['replicas'], job['parallelism'], job['completions']) == (2, 32, 32)
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
      'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
      'cloud.google.com/gke-tpu-topology': '4x4x8',
  }
  assert pod['volumes'][0]['persistentVolumeClaim']['claimName'] == 'disk'
  [container] = pod['containers']
  assert container['image'] == 'registry/rt2:1'
  assert container['command'] == [
      'python', '-m', 'rt2_train.main', '--run_mode=train', '--distributed=auto', *TRAINING]
  assert container['env'] == [{'name': 'JAX_PLATFORMS', 'value': 'tpu,cpu'}]
  assert container['resources']['limits'] == {'google.com/tpu': 4}


@pytest.mark.parametrize('topology, chips_per_host, hosts, chips', [
    ('2x2', 4, 1, 4),
    ('2x4', 8, 1, 8),
    ('1x1', 4, 1, 1),
    ('16x16', 4, 64, 4),
])
def test_a_slice_has_as_many_hosts_as_its_chips_need(topology, chips_per_host, hosts, chips):
  text = printed('gke.sh', *GKE, f'--topology={topology}', f'--chips_per_host={chips_per_host}',
                 '--dry_run', '--', *TRAINING)
  jobset = yaml.safe_load('\n'.join(text.splitlines()[1:-1]))
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  assert job['completions'] == hosts
  [container] = job['template']['spec']['containers']
  assert container['resources']['limits']['google.com/tpu'] == chips


def test_on_gke_an_interruption_is_no_failure():
  text = printed('gke.sh', *GKE, '--topology=2x2x2', '--max_restarts=3', '--dry_run', '--',
                 *TRAINING)
  spec = yaml.safe_load('\n'.join(text.splitlines()[1:-1]))['spec']
  assert spec['failurePolicy']['maxRestarts'] == 3
  [rule] = spec['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  job = spec['replicatedJobs'][0]['template']['spec']
  status, node = job['podFailurePolicy']['rules']
  [container] = job['template']['spec']['containers']
  assert status['onExitCodes'] == {
      'containerName': container['name'], 'operator': 'In', 'values': [75]}
  assert node['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]


def test_a_schema_finds_a_misspelt_field():
  with pytest.raises(AssertionError, match='spec.failurePolicy.maxRestart'):
    jobset_schema.check({
        'apiVersion': 'jobset.x-k8s.io/v1alpha2', 'kind': 'JobSet', 'metadata': {'name': 'x'},
        'spec': {'replicatedJobs': [], 'failurePolicy': {'maxRestart': 3}},
    })


@pytest.mark.parametrize('script, arguments, message', [
    ('tpu_vm.sh', ['--name=a'], '--zone=VALUE is missing'),
    ('tpu_vm.sh', ['--nmae=a'],
     'unknown option --nmae=a; there are --name --zone --project --prepare --max_restarts --dry_run, '
     'and after -- those of rt2_train.main'),
    ('tpu_vm.sh', ['--name'], '--name has no value; write --name=VALUE'),
    ('tpu_vm.sh', ['--name=a', '--zone=b'],
     'end with -- --gin_file=FILE and what else rt2_train.main takes'),
    ('tpu_vm.sh', ['--name=a', '--zone=b', '--'],
     'rt2_train.main needs arguments, such as --gin_file=FILE'),
    ('slurm.sbatch', [], 'rt2_train.main needs arguments, such as --gin_file=FILE'),
    ('gke.sh', [*GKE, '--topology=4by4', '--', 'x'], '--topology=4by4 is not like 4x4x4'),
    ('gke.sh', [*GKE, '--topology=3x3', '--', 'x'],
     '--topology=3x3 has 9 chips, which are no hosts of --chips_per_host=4'),
    ('gke.sh', [*GKE, '--topology=4x4', '--slices=0', '--', 'x'],
     '--slices=0 is not a number from 1'),
])
def test_wrong_arguments_end_in_one_line(script, arguments, message):
  done = launch(script, *arguments)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == f'{script}: {message}\n'


def program(folder: pathlib.Path, name: str, *statuses: int) -> pathlib.Path:
  """Makes a program that notes its arguments and ends with these statuses, one after the other."""
  log = folder / f'{name}.log'
  (folder / name).write_text(
      f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> {log}\n'
      f'statuses=({" ".join(map(str, statuses))})\n'
      f'exit "${{statuses[$(wc -l < {log}) - 1]}}"\n')
  (folder / name).chmod(0o755)
  return log


@pytest.mark.parametrize('statuses, tries, status', [
    ([75, 137, 0], 3, 0),
    ([75, 1], 2, 1),
    ([1], 1, 1),
])
def test_a_tpu_vm_slice_starts_again_unless_its_input_is_bad(tmp_path, statuses, tries, status):
  # The first call copies the checkout, here an empty list of files.
  log = program(tmp_path, 'gcloud', 0, *statuses)
  program(tmp_path, 'git', 0)
  program(tmp_path, 'tar', 0)
  program(tmp_path, 'mkdir', 0)
  done = launch('tpu_vm.sh', '--name=a', '--zone=b', '--', '--gin_file=a.gin', path=tmp_path)
  assert done.returncode == status, done.stderr
  calls = [line.split()[3] for line in log.read_text().splitlines()]
  assert calls == ['scp'] + ['ssh'] * tries


@pytest.mark.parametrize('status, restarts, queued', [
    (0, 0, False), (1, 0, False), (75, 99, True), (137, 9, True), (137, 10, False)])
def test_slurm_queues_a_job_again_unless_its_input_is_bad(tmp_path, status, restarts, queued):
  # The job is submitted from a checkout whose environment is there already.
  checkout = tmp_path / 'checkout'
  shutil.copytree(ROOT / 'launch', checkout / 'launch')
  (checkout / 'launch/setup.sh').write_text('echo set up\n')
  srun = program(tmp_path, 'srun', status)
  scontrol = program(tmp_path, 'scontrol', 0)
  done = launch('slurm.sbatch', *TRAINING, path=tmp_path, SLURM_SUBMIT_DIR=str(checkout),
                SLURM_JOB_ID='17', SLURM_RESTART_COUNT=str(restarts))
  assert done.returncode == status
  assert 'set up' in done.stdout
  assert srun.read_text().startswith('--kill-on-bad-exit=1 python -m rt2_train.main')
  assert scontrol.exists() == queued
  if queued:
    assert scontrol.read_text() == 'requeue 17\n'


def test_a_command_is_kept_running_until_no_restart_is_left(tmp_path):
  log = program(tmp_path, 'work', 134, 75, 137, 76, 76)
  done = launch('keep_running.sh', '--max_restarts=2', '--', 'work', 'hard', path=tmp_path)
  assert done.returncode == 76
  assert log.read_text() == 'hard\n' * 4
  assert done.stderr.splitlines() == [
      'keep_running.sh: ended with status 134; starting again, 1 restarts left',
      'keep_running.sh: interrupted; starting again',
      'keep_running.sh: ended with status 137; starting again, 0 restarts left',
      'keep_running.sh: ended with status 76, and no restart is left',
  ]


def test_whoever_stops_a_command_that_is_kept_running_stops_it_for_good(tmp_path):
  script = ['bash', str(ROOT / 'launch/keep_running.sh'), '--', 'python3', '-c',
            'import signal, sys, time\n'
            'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
            f'open({str(tmp_path / "started")!r}, "w").close()\n'
            'time.sleep(60)']
  with subprocess.Popen(script) as process:
    while not (tmp_path / 'started').exists():
      time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 75


def test_slurm_wants_to_be_submitted_from_the_checkout(tmp_path):
  done = launch('slurm.sbatch', *TRAINING, SLURM_SUBMIT_DIR=str(tmp_path))
  assert done.returncode == 2
  assert done.stderr == (
      f'slurm.sbatch: {tmp_path} is not the checkout of rt2_train; submit from there\n')


def test_gke_creates_what_it_shows(tmp_path):
  kubectl = program(tmp_path, 'kubectl', 0)
  # Reads what it is given, beside what every such program does.
  (tmp_path / 'kubectl').write_text(
      f'#!/usr/bin/env bash\necho "$*" > {kubectl}\ncat > {tmp_path}/manifest.yaml\n')
  done = launch('gke.sh', *GKE, '--topology=4x4x4', '--', *TRAINING, path=tmp_path)
  assert done.returncode == 0, done.stderr
  assert kubectl.read_text() == 'create --namespace=default -f -\n'
  shown = '\n'.join(done.stdout.splitlines()[1:-1]) + '\n'
  assert (tmp_path / 'manifest.yaml').read_text() == shown


def test_the_image_has_what_the_pods_run():
  lines = (ROOT / 'launch/Dockerfile').read_text().splitlines()
  assert "RUN pip install --no-cache-dir -e '.[tpu]' -c constraints.txt" in lines
