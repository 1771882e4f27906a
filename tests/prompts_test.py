"""The wording of the papers, letter by letter."""

import string

import pytest

from rt2_train import prompts


@pytest.mark.parametrize('prompt, text', [
    (prompts.robot('pick apple'), 'Q: what action should the robot take to pick apple? A:'),
    (prompts.given_images(prompts.robot('pick apple'), 1),
     'Given <img>. Q: what action should the robot take to pick apple? A:'),
    (prompts.plan("I'm hungry."), "Instruction: I'm hungry."),
    (prompts.plan_target('pick rxbar chocolate'), 'Plan: pick rxbar chocolate. Action:'),
    (prompts.vqa('What is red?'), 'Answer in EN: What is red?'),
    (prompts.vqa('Was ist rot?', lang='DE'), 'Answer in DE: Was ist rot?'),
    (prompts.palm_e_vqa('What is red?'), 'Q: What is red? A:'),
    (prompts.given_images(prompts.palm_e_vqa('What is red?'), 1),
     'Given <img>. Q: What is red? A:'),
    (prompts.caption(), 'Generate caption in EN'),
    (prompts.split_caption('a red', 3, 'FR'), 'Generate the alt_text in FR at 3: a red'),
    (prompts.ocr(), 'Generate the ocr_text in EN:'),
    (prompts.question('two'), 'Generate a question in EN for two:'),
    (prompts.list_objects(), 'Answer in EN: List the objects present'),
    (prompts.is_present('can'), 'Answer in EN: Is can in the image?'),
    (prompts.which_present(['can', 'cup']), 'Answer in EN: Which of can, cup are in the image?'),
    (prompts.detect(['can', 'cup']), 'detect can and cup'),
    (prompts.table_instruction(), 'Q: what is the instruction? A:'),
    (prompts.table_arm(), 'Q: where is the robot arm? A:'),
    (prompts.table_steps(), 'Q: how many steps between the images? A:'),
    (prompts.table_success('push it'), 'Q: was the task "push it" successful? A:'),
])
def test_a_prompt_reads_as_the_paper_writes_it(prompt, text):
  assert prompt == text


def test_every_template_has_a_function_that_fills_it():
  fields = dict.fromkeys(
      ['instruction', 'plan', 'lang', 'question', 'position', 'beginning', 'answer', 'name',
       'names', 'images', 'prompt'], 'x')
  for name, template in prompts.TEMPLATES.items():
    assert callable(getattr(prompts, name))
    assert {field for _, field, _, _ in string.Formatter().parse(template) if field} <= set(fields)


def test_braces_in_an_instruction_are_just_text():
  assert '{red}' in prompts.robot('pick {red} can')


def test_a_plan_ends_in_the_marker_that_its_grammar_waits_for():
  assert prompts.plan_target('go').endswith(prompts.ACTION_MARKER)


def test_detection_counts_a_thousand_cells():
  boxes = [('can', (0.0, 0.25, 0.5, 1.0)), ('cup', (0.1, 0.1, 0.1, 0.9999))]
  assert prompts.detection_target(boxes) == '0 250 500 999 can and 100 100 100 999 cup'


@pytest.mark.parametrize('box', [
    (0.5, 0, 0.4, 1), (0, 0, 1.01, 1), (-0.1, 0, 1, 1), (0, float('nan'), 1, 1)])
def test_a_box_outside_the_picture_is_refused(box):
  with pytest.raises(ValueError, match='box of can'):
    prompts.detection_target([('can', box)])
