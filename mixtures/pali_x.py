"""Mixtures `pali` and `rt2_pali_x`: what PaLI-X was trained on, as far as it is published.

PaLI-X's weights are not public. PaLI's published sizes stand in for them (PaLI, section 3.2, in
millions of examples; 1,566 in all), and so do its objectives and prompts. RT-2 leaves out Episodic
WebLI (appendix B); `ABSENT` names what else PaLI-X has and this mixture has not. `rt2_pali_x` is
co-fine-tuning: about half of each batch is robot data (RT-2, section 3.2).

WebLI itself is not public either: name files in its form, of your own or of an open set such as
LAION, CC3M or mC4. What has no files leaves its weight to the others.
"""

import functools

from mixtures import cofinetune
from mixtures import robot
from mixtures import sources
from rt2_train.data import image_text_records
from rt2_train.data import object_files
from rt2_train.data import text_records

_add = functools.partial(sources.add, 'mixtures.pali_x')

split_caption = _add(
    'split_caption', image_text_records.Records, task='pali_split_caption',
    objective='split_caption')
span_corruption = _add(
    'span_corruption', text_records.TextRecords, task='pali_span_corruption',
    objective='span_corruption')
ocr = _add('ocr', image_text_records.Records, task='pali_ocr', objective='ocr')
cc3m_35l = _add('cc3m_35l', image_text_records.Records, task='pali_cc3m_35l', objective='caption')
vq2a = _add(
    'vq2a', image_text_records.Records, task='pali_vq2a', judged=True, objective='answer')
vqg = _add('vqg', image_text_records.Records, task='pali_vqg', objective='question')
object_aware = _add(
    'object_aware', object_files.CocoObjects, task='pali_object_aware', judged=True,
    objective='object_aware')
detection = _add(
    'detection', object_files.CocoObjects, task='pali_detection', judged=True,
    objective='detection')

# Millions of examples in PaLI's mixture.
SIZES = {
    'pali_split_caption': 1000.0,
    'pali_span_corruption': 100.0,
    'pali_ocr': 100.0,
    'pali_cc3m_35l': 100.0,
    'pali_vq2a': 100.0,
    'pali_vqg': 100.0,
    'pali_object_aware': 50.0,
    'pali_detection': 16.0,
}

# Objectives of PaLI-X that are not built; mixture reports list them.
ABSENT = {
    'pali_pix2struct': 'screenshots to HTML (pix2struct) are not built',
    'pali_video': 'captions and questions about video are not built',
    'pali_masked_image': 'masked image tokens (ViT-VQGAN) are not built',
    'pali_episodic_vqa': 'four questions about several images are not built',
    'pali_episodic_webli': 'RT-2 leaves Episodic WebLI out (appendix B)',
}
for _task, _why in ABSENT.items():
  sources.absent(_task, _why)

rates = sources.rates('mixtures.pali_x', {**SIZES, **dict.fromkeys(ABSENT, 0.0)})
sources.add_mixture('pali', (lambda: 1.0, rates))
sources.add_mixture(
    'rt2_pali_x', (cofinetune.share, robot.rates), (lambda: 1 - cofinetune.share(), rates))
