"""What can be wrong with a record, how it is counted, and when it stops a run.

A fault is found once, when a dataset is indexed, and named: dataset, shard, episode, step,
reason. Whether it is an error or left out with a count is the reader's choice afterwards.
"""

from collections.abc import Mapping
import os
import struct

from rt2_train import images

REASONS = (
    'empty shard', 'truncated shard', 'record count', 'record CRC', 'not an Example',
    'missing feature', 'unequal lengths', 'step order', 'not an image', 'truncated image',
    'image size', 'missing image', 'bad action', 'bad text', 'empty instruction', 'empty text',
    'bad box', 'sample order', 'not JSON',
)
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HEAD, _TAIL = 1 << 16, 64  # Bytes of a file's two ends.
_LONGEST_TEXT = 1 << 16  # Bytes; it may be a file by mistake.
_REMEDY = "write the data again, or leave what is broken out with on_bad='skip'"
# Some datasets hold many of these by nature, more than any cap on broken data should allow.
_EMPTY = ('empty instruction', 'empty text')


class Fault(ValueError):
  """One broken step, record or shard.

  Attributes:
    reason: one of REASONS.
    step: the step within its record; None when the whole record (or shard) is lost.
    records: how many whole records are lost.
  """

  def __init__(self, reason: str, message: str, step: int | None = None, records: int = 0):
    super().__init__(message)
    self.reason, self.step, self.records = reason, step, records


def check_share(share: float):
  """Raises ValueError unless `share` is a share."""
  if not 0 <= share <= 1:
    raise ValueError(f'max_bad_share is {share}; it is a share, 0 to 1')


def enforce(header: Mapping, on_bad: str | Mapping[str, str], max_bad_share: float):
  """Applies a policy to the faults an index header counts.

  Args:
    header: `name`, `faults` (reason to count), `first_faults` (reason to its first messages),
      `steps`, `lost_steps`, `records` and `lost_records`.
    on_bad: 'error', or 'skip' to leave broken steps out; or a mapping of reason to either, in
      which a reason that is not named is an error.
    max_bad_share: the largest share of steps, and of records, that on_bad='skip' may leave out. A
      reason that a mapping names is left out whatever its share.

  Raises:
    ValueError: a fault that is not to be skipped, too many skipped, or an unknown policy.
  """
  policies = dict.fromkeys(REASONS, on_bad) if isinstance(on_bad, str) else dict(on_bad)
  for reason, policy in policies.items():
    if reason not in REASONS or policy not in ('error', 'skip'):
      raise ValueError(f"on_bad is {on_bad!r}; it takes 'error', 'skip', or one of them for each "
                       f'of {", ".join(REASONS)}')
  check_share(max_bad_share)
  found = header['faults']
  counts = ', '.join(f'{reason}: {n}' for reason, n in found.items())
  for reason in found:
    if policies.get(reason, 'error') == 'error':
      more = sum(found.values()) - 1
      also = f' (and {more} more; {counts})' if more else ''
      remedy = (f"write it, or leave such examples out with on_bad={{{reason!r}: 'skip'}}"
                if reason in _EMPTY else _REMEDY)
      raise ValueError(f'{header["first_faults"][reason][0]}{also}; {remedy}')
  if not isinstance(on_bad, str):
    return
  for unit in ('steps', 'records'):
    lost, total = header[f'lost_{unit}'], header[unit]
    if lost > max_bad_share * total:
      first = next(iter(header['first_faults'].values()))[0]
      raise ValueError(
          f'{header["name"]}: {lost} of {total} {unit} are broken, more than '
          f'max_bad_share={max_bad_share:g} allows ({counts}); first: {first}; write the data '
          'again, raise max_bad_share, or name the reasons in on_bad '
          f'({dict.fromkeys(found, "skip")})')


def note(header: Mapping) -> str:
  """What a dataset goes without, by reason, for people; '' when nothing. Takes enforce's header."""
  parts = []
  for words, counts in (('left out', header['left_out']), ('skipped', header['faults'])):
    if counts:
      listed = ', '.join(f'{reason} {count}' for reason, count in sorted(counts.items()))
      parts.append(f'{words}: {listed}')
  if header['lost_records']:
    parts.append(f'{header["lost_records"]} of {header["records"]} records lost')
  return '; '.join(parts)


def text(data: bytes, start: int, stop: int, what: str) -> str:
  """The text that lies in `data[start:stop]`, stripped.

  Raises:
    Fault: it is not UTF-8, or far longer than any text about an image; says so of `what`.
  """
  if stop - start > _LONGEST_TEXT:
    raise Fault('bad text', f'{what} has {stop - start} bytes, the limit is {_LONGEST_TEXT}')
  try:
    return data[start:stop].decode().strip()
  except UnicodeDecodeError as e:
    raise Fault('bad text', f'{what} is not UTF-8 ({e})') from e


def image_size(data: bytes, start: int, stop: int) -> tuple[int, int]:
  """Height and width of the encoded image that lies in `data[start:stop]`.

  Looks at both ends of a JPEG or PNG without decoding it; decodes the rarer formats.

  Raises:
    Fault: the bytes are no image, an image that was cut short, or one too large for memory.
  """
  height, width = _image_size(data, start, stop)
  if height * width > images.MOST_PIXELS:
    raise Fault('image size', f'image is {height}x{width}, the limit is {images.MOST_PIXELS} pixels')
  return height, width


def _image_size(data: bytes, start: int, stop: int) -> tuple[int, int]:
  if start >= stop:
    raise Fault('not an image', 'image is empty (0 bytes)')
  if data.startswith(b'\xff\xd8', start):
    # The marker may be followed by padding; only then the whole scan is searched.
    if (data.rfind(b'\xff\xd9', max(start, stop - 64), stop) < 0
        and data.rfind(b'\xff\xd9', start, stop) <= data.rfind(b'\xff\xda', start, stop)):
      raise Fault('truncated image', f'JPEG truncated ({stop - start} bytes, no end marker)')
    return _jpeg_size(data, start, stop)
  if data.startswith(b'\x89PNG\r\n\x1a\n', start) and stop - start >= 45:
    if data[stop - 8:stop - 4] != b'IEND':
      raise Fault('truncated image', f'PNG truncated ({stop - start} bytes, no end chunk)')
    width, height = struct.unpack_from('>II', data, start + 16)
    return height, width
  try:
    return images.decode(data[start:stop]).shape[:2]
  except ValueError as e:
    raise Fault('not an image', str(e)) from e


def check_file(path: str) -> int | Fault:
  """The size of a sound image file, or what is wrong with it; reads its two ends."""
  try:
    with open(path, 'rb') as file:
      size = os.fstat(file.fileno()).st_size
      head = file.read(_HEAD)
      file.seek(max(_HEAD, size - _TAIL))
      ends = head + file.read()
      try:
        image_size(ends, 0, len(ends))
      except Fault:
        # A long header, trailing bytes or a rare format: only the whole file tells.
        file.seek(0)
        image_size(file.read(), 0, size)
      return size
  except FileNotFoundError:
    return Fault('missing image', f'{path} is missing')
  except OSError as e:
    return Fault('missing image', f'{path} cannot be read ({e.strerror})')
  except Fault as fault:
    return Fault(fault.reason, f'{path}: {fault}')


def _jpeg_size(data: bytes, start: int, stop: int) -> tuple[int, int]:
  """Walks the marker segments up to the frame header."""
  position = start + 2
  while position + 9 <= stop and data[position] == 0xFF:
    marker = data[position + 1]
    if marker in _FRAME_MARKERS:
      height, width = struct.unpack_from('>HH', data, position + 5)
      if height and width:
        return height, width
      break
    if marker == 0xDA:
      break
    # A marker may be preceded by fill bytes, which are 0xFF too.
    position += 1 if marker == 0xFF else 2 + struct.unpack_from('>H', data, position + 2)[0]
  raise Fault('not an image', f'JPEG has no frame header ({stop - start} bytes)')
