"""Mixtures `palm_e` and `rt2_palm_e`: PaLM-E's twelve sources with its published weights.

The weights are those of PaLM-E's "full mixture" (PaLM-E, table 6). `rt2_palm_e` is co-fine-tuning:
RT-2 weights robot data to about 66 % of the whole (section 3.2); set
`mixtures.cofinetune.share.robot = 0.66`, as gin/experiments/rt2_palm_e_12b.gin does.

Captions and question generation are asked as PaLI asks; questions as PaLM-E does ('Q: ... A:').
Plans of the mobile manipulator, of Language-Table and of task and motion planning are questions and
answers about an image as well. What has no files leaves its weight to the others.
"""

import functools

from mixtures import cofinetune
from mixtures import robot
from mixtures import sources
from rt2_train.data import caption_files
from rt2_train.data import image_text_records
from rt2_train.data import object_files
from rt2_train.data import question_files
from rt2_train.data import text_records

_add = functools.partial(sources.add, 'mixtures.palm_e')
_records = functools.partial(_add, reader=image_text_records.Records)
_answers = functools.partial(_records, judged=True, objective='palm_e_answer')

webli = _records('webli', task='palm_e_webli', objective='caption')
vq2a = _answers('vq2a', task='palm_e_vq2a')
vqg = _records('vqg', task='palm_e_vqg', objective='question')
cc3m = _records('cc3m', task='palm_e_cc3m', objective='caption')
object_aware = _add(
    'object_aware', object_files.CocoObjects, task='palm_e_object_aware', judged=True,
    objective='object_aware')
ok_vqa = _add(
    'ok_vqa', question_files.Vqa, task='palm_e_ok_vqa', judged=True, objective='palm_e_answer')
vqa_v2 = _add(
    'vqa_v2', question_files.Vqa, task='palm_e_vqa_v2', judged=True, objective='palm_e_answer')
coco = _add('coco', caption_files.CocoCaptions, task='palm_e_coco', objective='caption')
wikipedia = _add(
    'wikipedia', text_records.TextRecords, task='palm_e_wikipedia', objective='continuation')
mobile_manipulator = _answers('mobile_manipulator', task='palm_e_mobile_manipulator')
language_table = _answers('language_table', task='palm_e_language_table')
tamp = _answers('tamp', task='palm_e_tamp')

WEIGHTS = {
    'palm_e_webli': 100.0,
    'palm_e_vq2a': 25.0,
    'palm_e_vqg': 10.0,
    'palm_e_cc3m': 25.0,
    'palm_e_object_aware': 10.0,
    'palm_e_ok_vqa': 1.0,
    'palm_e_vqa_v2': 1.0,
    'palm_e_coco': 1.0,
    'palm_e_wikipedia': 1.0,
    'palm_e_mobile_manipulator': 6.0,
    'palm_e_language_table': 8.0,
    'palm_e_tamp': 3.0,
}

rates = sources.rates('mixtures.palm_e', WEIGHTS)
sources.add_mixture('palm_e', (lambda: 1.0, rates))
sources.add_mixture(
    'rt2_palm_e', (cofinetune.share, robot.rates), (lambda: 1 - cofinetune.share(), rates))
