"""Mixture `web`: image-text data that a lab can get, each in the files in which it is published.

Gin names files per split (see mixtures/sources.py), and weights in `mixtures.web.rates`; what has
no files leaves its weight to the others. gin/data/web.gin is a template with all of them.

  import mixtures.web
  mixtures.web.coco_captions.annotations = {'train': '/coco/annotations/captions_train2017.json'}
  mixtures.web.coco_captions.image_dir = {'train': '/coco/train2017'}
"""

import functools

from mixtures import sources
from rt2_train.data import caption_files
from rt2_train.data import image_text_records
from rt2_train.data import object_files
from rt2_train.data import question_files

_add = functools.partial(sources.add, 'mixtures.web')

# Captions: TFRecords or WebDataset tar files (CC3M, LAION), COCO's JSON, Crossmodal-3600.
captions = _add('captions', image_text_records.Records)
coco_captions = _add('coco_captions', caption_files.CocoCaptions)
xm3600 = _add('xm3600', caption_files.Xm3600)

# Questions and answers: TFRecords or tar files, VQAv2 and OK-VQA (one form), TextVQA, GQA, xGQA.
vqa_records = _add('vqa_records', image_text_records.Records, judged=True, objective='answer')
vqa = _add('vqa', question_files.Vqa, judged=True)
ok_vqa = _add('ok_vqa', question_files.Vqa, judged=True)
text_vqa = _add('text_vqa', question_files.TextVqa, judged=True)
gqa = _add('gqa', question_files.Gqa, judged=True)
xgqa = _add('xgqa', question_files.Gqa, judged=True)

# Objects in COCO's form: their boxes, and which of them there are.
detection = _add('detection', object_files.CocoObjects, judged=True)
object_aware = _add('object_aware', object_files.CocoObjects, judged=True, objective='object_aware')

TASKS = (
    'captions', 'coco_captions', 'xm3600', 'vqa_records', 'vqa', 'ok_vqa', 'text_vqa', 'gqa',
    'xgqa', 'detection', 'object_aware')

rates = sources.rates('mixtures.web', dict.fromkeys(TASKS, 1.0))
sources.add_mixture('web', (lambda: 1.0, rates))
