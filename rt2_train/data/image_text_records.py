"""Images and texts about them in shards: TFRecords of tf.train.Example, and WebDataset tar files.

Both are indexed in place, so that any example costs one `pread` for its image; the texts of a
TFRecord stand in the index, those of a tar file stay where they are.
"""

from collections.abc import Mapping
import hashlib
import json

from rt2_train.data import faults
from rt2_train.data import image_text
from rt2_train.data import index
from rt2_train.data import objectives
from rt2_train.data import record_formats
from rt2_train.data import shards
from rt2_train.processor import Processor


class Records(image_text.Examples):
  """Image-text shards; with several texts about an image, one example each.

  What lies where:
    TFRecord: each role of the objective is a key of the Example, `image_key` holds the image.
    tar: members of one name are a sample, as img2dataset writes them; the image is .jpg, .jpeg,
      .png or .webp, a role is a suffix ('.txt') or else a key of the sample's .json.
  """

  roles = ('caption', 'question', 'answer', 'ocr')

  def __init__(
      self,
      pattern: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'caption',
      keys: Mapping[str, str] | None = None,
      image_key: str = 'image',
      lang_key: str = 'lang',
      lang: str = 'EN',
      name: str | None = None,
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the files, indexing them first if need be.

    Args:
      pattern: of the files, such as '/data/captions-train.tfrecord-*' or '/data/cc3m/*.tar'.
      processor: of the model.
      objective: what is made of the texts, a name in `objectives.OBJECTIVES`.
      keys: role to where its texts lie, such as {'caption': 'txt'}. A role that is not named lies
        under its own name; in tar files a caption lies in '.txt'.
      image_key: of an Example: one encoded image.
      lang_key: of an Example, or of a sample's .json: the language of each text or of all (may be
        missing).
      lang: language of what does not say.
      name: what errors call it; how the files' names begin when None.
      index_dir: where the index goes; `.rt2_index` beside the files when None.
      on_bad, max_bad_share: what broken records may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: no file matches, or one of its '-of-' siblings is missing.
      ValueError: the objective takes what such records do not hold, or records are broken beyond
        the policy.
    """
    name = name or shards.name_of(pattern)
    super().__init__(processor, objective, name)
    keys = dict(keys or {})
    if unknown := set(keys) - set(self.objective.roles):
      raise ValueError(f'{name}: keys names {", ".join(sorted(unknown))}, objective '
                       f'{self.objective.name!r} takes {", ".join(self.objective.roles)}')
    files, form = shards.find(pattern, ('tfrecord', 'tar'))
    caption = '.txt' if form == 'tar' else 'caption'
    keys = {role: keys.get(role, caption if role == 'caption' else role)
            for role in self.objective.roles}
    if len(set(keys.values())) < len(keys):
      raise ValueError(f'{name}: keys is {keys}; each role lies in a place of its own')
    if form == 'tar':
      self._format = record_formats.Samples(keys, lang_key, self.objective.joined)
    else:
      self._format = record_formats.TfExamples(keys, image_key, lang_key, self.objective.joined)
    self._lang = lang
    joined = ['joined'] if self.objective.joined else []
    self._index = index.open_index(
        name, files, self._format.read, spec=self._format.spec, unit=self._format.unit,
        records=self._format.records,
        path=shards.index_path(pattern, index_dir, [*keys.values(), *joined]))
    header = self._index.header
    faults.enforce(header, on_bad, max_bad_share)
    self.note = faults.note(header)
    if not len(self._index):
      raise ValueError(
          f'{pattern} has no usable example in {header["records"]} {header["unit"]}s ({self.note})')
    self.report = {'examples': len(self._index), 'index': self._index.path, **{
        key: value for key, value in header.items() if key not in ('source', 'texts', 'unit')}}
    # The same records make other examples under another objective or language.
    asked = json.dumps([self._index.fingerprint, self.objective.name, lang])
    self.fingerprint = hashlib.sha256(asked.encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._index)

  def example_id(self, i: int) -> str:
    return self._index.example_id(i)

  def _read(self, i: int) -> tuple[bytes, str, str]:
    known, lang = self._format.texts(self._index, i)
    prompt, answer = self.objective(known, (lang or self._lang).upper(), self.example_id(i))
    return self._index.image(i), prompt, answer
