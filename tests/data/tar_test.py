"""Tar shards as Python's tarfile and GNU's and BSD's tar write them, walked without unpacking."""

import io
import tarfile

import google_crc32c
import numpy as np
import pytest

from rt2_train.data import faults
from rt2_train.data import tar
from rt2_train.data import tfrecord
from tests.data.web_fixture import write_tar

MEMBERS = [
    ('0000.jpg', b'one'), ('0000.txt', b'a cup'), ('0001.JPG', b'x' * 513), ('0001.txt', b'')]


def walked(path) -> list[tuple[str, dict[str, bytes]]]:
  """Key, and suffix to bytes, of every sample, read where the file has them."""
  with open(path, 'rb') as file:
    data = file.read()
  found = []
  for sample in tar.samples(str(path)):
    sample.check()
    assert data[sample.offset:sample.offset + len(sample.payload)] == sample.payload
    assert sample.crc == google_crc32c.value(sample.payload)
    members = tar.members(sample.payload)
    assert {member.key for member in members} == {sample.key}
    found.append((sample.key, {
        member.suffix: data[sample.offset + member.start:sample.offset + member.stop]
        for member in members}))
  return found


def error_of(path) -> str:
  with pytest.raises(tfrecord.CorruptFileError) as error:
    list(tar.samples(str(path)))
  return str(error.value)


FOUND = [('0000', {'.jpg': b'one', '.txt': b'a cup'}), ('0001', {'.jpg': b'x' * 513, '.txt': b''})]


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_neighbouring_members_of_one_name_are_a_sample(tmp_path, form):
  assert walked(write_tar(tmp_path / 'a.tar', *MEMBERS, format=form)) == FOUND


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_do_not_fit_a_header_are_read_from_the_one_before(tmp_path, form):
  stem = 'cup/' * 60 + '\u00e9' * 30
  path = write_tar(tmp_path / 'a.tar', (f'{stem}.jpg', b'1'), (f'{stem}.txt', b'2'), format=form)
  assert walked(path) == [(stem, {'.jpg': b'1', '.txt': b'2'})]


def test_the_key_ends_at_the_first_dot_of_the_last_part(tmp_path):
  path = write_tar(
      tmp_path / 'a.tar', ('./v1.0/7.seg.png', b'1'), ('./v1.0/7.jpg', b'2'), ('v2.0/7.jpg', b'3'))
  assert walked(path) == [
      ('./v1.0/7', {'.seg.png': b'1', '.jpg': b'2'}), ('v2.0/7', {'.jpg': b'3'})]


def test_what_is_no_file_of_a_sample_is_passed_by(tmp_path):
  path = tmp_path / 'a.tar'
  with tarfile.open(path, 'w', pax_headers={'comment': 'all'}) as archive:
    for kind, name in ((tarfile.DIRTYPE, 'set'), (tarfile.SYMTYPE, 'set/0.jpg'),
                       (tarfile.REGTYPE, '__wds__/info.json'), (tarfile.REGTYPE, 'set/README'),
                       (tarfile.REGTYPE, 'set/._0.jpg'), (tarfile.REGTYPE, 'set/0.jpg')):
      info = tarfile.TarInfo(name)
      info.type, info.linkname = kind, '/etc/passwd' if kind == tarfile.SYMTYPE else ''
      info.size = 3 if kind == tarfile.REGTYPE else 0
      archive.addfile(info, io.BytesIO(b'abc'))
  assert walked(path) == [('set/0', {'.jpg': b'abc'})]


def test_members_that_do_not_lie_side_by_side_are_found(tmp_path):
  path = write_tar(
      tmp_path / 'a.tar', ('0.jpg', b'1'), ('1.jpg', b'2'), ('0.txt', b'3'), ('1.txt', b'4'))
  samples = list(tar.samples(path))
  assert [(sample.key, sample.again) for sample in samples] == [
      ('0', False), ('1', False), ('0', True), ('1', True)]
  with pytest.raises(faults.Fault, match="members of '0' do not lie side by side; sort the"):
    samples[2].check()


def test_a_cut_file_ends_with_its_place_wherever_it_is_cut(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *MEMBERS, format=tarfile.USTAR_FORMAT)
  with open(path, 'rb') as file:
    data = file.read()
  # 0: header, 512: data, 1024: header, 1536: data, 2048: header, 2560: data of 513 bytes, ...
  for size, message in ((700, 'ends at byte 700 without the mark of its end'),
                        (513, 'ends inside the member at byte 0 (513 of 515 bytes)'),
                        (2600, 'ends inside the member at byte 2048 (2600 of 3073 bytes)'),
                        (4096, 'ends at byte 4096 without the mark of its end')):
    (tmp_path / 'cut.tar').write_bytes(data[:size])
    assert error_of(tmp_path / 'cut.tar') == message
  assert len(walked(path)) == 2


def test_a_sample_in_which_a_file_ends_is_not_given_out(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *MEMBERS, format=tarfile.USTAR_FORMAT)
  with open(path, 'r+b') as file:
    file.truncate(4096)
  samples = tar.samples(path)
  assert next(samples).key == '0000'
  with pytest.raises(tfrecord.CorruptFileError):
    next(samples)


def test_archives_joined_end_to_end_are_refused_since_only_the_first_would_be_read(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *MEMBERS)
  with open(path, 'rb') as file:
    data = file.read()
  (tmp_path / 'b.tar').write_bytes(data + data)
  assert 'goes on after its end at byte' in error_of(tmp_path / 'b.tar')


@pytest.mark.parametrize('at, data, message', [
    (0, b'X', 'the header at byte 0 is broken (bad checksum)'),
    (2048, b'X', 'the header at byte 2048 is broken (bad checksum)'),
])
def test_a_broken_header_is_named(tmp_path, at, data, message):
  path = write_tar(tmp_path / 'a.tar', *MEMBERS, format=tarfile.USTAR_FORMAT)
  with open(path, 'r+b') as file:
    file.seek(at)
    file.write(data)
  assert error_of(path) == message


@pytest.mark.parametrize('size, message', [
    (3 << 30, 'the header at byte 0 is broken (it states 3221225472 bytes)'),
    (9 << 40, 'the header at byte 0 is broken (it states 9895604649984 bytes)'),
    (1 << 20, 'ends inside the member at byte 0 (10240 of 1049088 bytes)'),
])
def test_sizes_that_cannot_be_are_refused_unread(tmp_path, size, message):
  info = tarfile.TarInfo('0.jpg')
  info.size = size
  path = tmp_path / 'a.tar'
  path.write_bytes(info.tobuf(tarfile.GNU_FORMAT).ljust(10240, b'\0'))
  assert error_of(path) == message


@pytest.mark.parametrize(
    'record', [b'99 path=x\n', b'x path=x\n', b'2 \n', b'-5 path=x\n', b'1' * 9])
def test_a_broken_extended_header_is_refused(tmp_path, record):
  info = tarfile.TarInfo('header')
  info.type, info.size = tarfile.XHDTYPE, len(record)
  path = tmp_path / 'a.tar'
  path.write_bytes((info.tobuf() + record.ljust(512, b'\0')).ljust(10240, b'\0'))
  assert error_of(path).startswith('the header at byte 0 is broken (')


@pytest.mark.parametrize('size, message', [
    ('3', ''), ('-600', 'the header at byte 1024 is broken (it states -600 bytes)'),
    ('x', "the header at byte 0 is broken (invalid literal for int() with base 10: 'x')")])
def test_the_size_in_an_extended_header_is_the_size(tmp_path, size, message):
  record = f'{len(size) + 9} size={size}\n'.encode()
  record = f'{len(record)} size={size}\n'.encode()
  header, info = tarfile.TarInfo('header'), tarfile.TarInfo('0.jpg')
  header.type, header.size, info.size = tarfile.XHDTYPE, len(record), 0
  path = tmp_path / 'a.tar'
  path.write_bytes((
      header.tobuf() + record.ljust(512, b'\0') + info.tobuf() + b'abc').ljust(10240, b'\0'))
  if message:
    assert error_of(path) == message
  else:
    assert walked(path) == [('0', {'.jpg': b'abc'})]


def test_whatever_bytes_are_changed_it_is_walked_or_refused(tmp_path):
  path = write_tar(tmp_path / 'a.tar', *MEMBERS, ('\u00e9' * 120 + '.jpg', b'last'))
  with open(path, 'rb') as file:
    sound = file.read()
  outcomes = {'walked': 0, 'refused': 0}
  rng = np.random.default_rng(0)
  for _ in range(400):
    data = bytearray(sound)
    for _ in range(rng.integers(1, 4)):
      data[rng.integers(len(data))] = rng.integers(256)
    (tmp_path / 'b.tar').write_bytes(data[:rng.integers(1, len(data) + 1)])
    try:
      for sample in tar.samples(str(tmp_path / 'b.tar')):
        for member in tar.members(sample.payload):
          assert 0 < member.start <= member.stop <= len(sample.payload)
      outcomes['walked'] += 1
    except tfrecord.CorruptFileError as error:
      assert '\n' not in str(error)
      outcomes['refused'] += 1
  assert min(outcomes.values()) > 20
