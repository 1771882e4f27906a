"""Every prompt and target template of the papers, as data, and one function for each.

A template that a checkpoint was trained with must be spelt the same when it is asked, so all of
them live here and nowhere else. Sources: RT-2 section 3.2 (robot), 4.4 (plan) and appendix D;
PaLI (captions, OCR, VQA, question generation, object-aware VQA, detection); PaLM-E (its robot
prompt, its form of VQA). Language-Table's five are ours, in the style of RT-2's: the paper gives
only "X Y".
"""

from collections.abc import Sequence

TEMPLATES = {
    'robot': 'Q: what action should the robot take to {instruction}? A:',
    'given_images': 'Given {images}. {prompt}',
    'plan': 'Instruction: {instruction}',
    'plan_target': 'Plan: {plan}. Action:',
    'vqa': 'Answer in {lang}: {question}',
    'palm_e_vqa': 'Q: {question} A:',
    'caption': 'Generate caption in {lang}',
    'split_caption': 'Generate the alt_text in {lang} at {position}: {beginning}',
    'ocr': 'Generate the ocr_text in {lang}:',
    'question': 'Generate a question in {lang} for {answer}:',
    'list_objects': 'Answer in EN: List the objects present',
    'is_present': 'Answer in EN: Is {name} in the image?',
    'which_present': 'Answer in EN: Which of {names} are in the image?',
    'detect': 'detect {names}',
    'table_instruction': 'Q: what is the instruction? A:',
    'table_arm': 'Q: where is the robot arm? A:',
    'table_steps': 'Q: how many steps between the images? A:',
    'table_success': 'Q: was the task "{instruction}" successful? A:',
}

# Where an image's tokens go in a prompt whose model reads them inside the text.
IMAGE = '<img>'

# What stands between a plan and its action; the grammar of a plan waits for it.
ACTION_MARKER = 'Action:'

# Detection writes coordinates as integers on this grid, whatever the size of the picture (PaLI).
DETECTION_GRID = 1000


def robot(instruction: str) -> str:
  """The prompt that is answered with an action (RT-2, section 3.2)."""
  return TEMPLATES['robot'].format(instruction=instruction)


def given_images(prompt: str, num_images: int) -> str:
  """`prompt` with `IMAGE` at each place where an image's tokens go (PaLM-E, section 4)."""
  images = ' '.join([IMAGE] * num_images)
  return TEMPLATES['given_images'].format(images=images, prompt=prompt)


def plan(instruction: str) -> str:
  """The prompt that is answered with a plan and then an action (RT-2, section 4.4)."""
  return TEMPLATES['plan'].format(instruction=instruction)


def plan_target(steps: str) -> str:
  """What the answer to `plan` says before its action integers, up to `ACTION_MARKER`."""
  return TEMPLATES['plan_target'].format(plan=steps)


def plan_of(written: str) -> str:
  """The steps in what a model wrote before `ACTION_MARKER`: 'Plan: pick sun.' says 'pick sun'."""
  before, after = TEMPLATES['plan_target'].removesuffix(f' {ACTION_MARKER}').split('{plan}')
  return written.strip().removeprefix(before.strip()).removesuffix(after).strip()


def vqa(question: str, lang: str = 'EN') -> str:
  """A question about the image (PaLI)."""
  return TEMPLATES['vqa'].format(lang=lang, question=question)


def palm_e_vqa(question: str) -> str:
  """A question about the image, or a step of a plan that is asked for (PaLM-E, section 4)."""
  return TEMPLATES['palm_e_vqa'].format(question=question)


def caption(lang: str = 'EN') -> str:
  """Asks for a whole caption (RT-2, appendix D)."""
  return TEMPLATES['caption'].format(lang=lang)


def split_caption(beginning: str, position: int, lang: str = 'EN') -> str:
  """Asks for the rest of an alt-text of which `beginning` is known (PaLI's SplitCap)."""
  return TEMPLATES['split_caption'].format(lang=lang, position=position, beginning=beginning)


def ocr(lang: str = 'EN') -> str:
  """Asks for the text that can be read in the image (PaLI)."""
  return TEMPLATES['ocr'].format(lang=lang)


def question(answer: str, lang: str = 'EN') -> str:
  """Asks for a question whose answer is `answer` (PaLI's VQG)."""
  return TEMPLATES['question'].format(lang=lang, answer=answer)


def list_objects() -> str:
  """Asks for the names of everything in the image (PaLI's object-aware VQA)."""
  return TEMPLATES['list_objects']


def is_present(name: str) -> str:
  """Asks whether `name` is in the image (PaLI's object-aware VQA)."""
  return TEMPLATES['is_present'].format(name=name)


def which_present(names: Sequence[str]) -> str:
  """Asks which of `names` are in the image (PaLI's object-aware VQA)."""
  return TEMPLATES['which_present'].format(names=', '.join(names))


def detect(names: Sequence[str]) -> str:
  """Asks for the boxes of `names` (PaLI)."""
  return TEMPLATES['detect'].format(names=' and '.join(names))


def detection_target(objects: Sequence[tuple[str, tuple[float, float, float, float]]]) -> str:
  """What `detect` is answered with: 'y0 x0 y1 x1 name', joined by ' and '.

  Args:
    objects: name and box (y0, x0, y1, x1) of each, as shares of height and width in 0..1.

  Raises:
    ValueError: a coordinate is outside 0..1, or a box ends before it begins.
  """
  answers = []
  for name, box in objects:
    y0, x0, y1, x1 = box
    if not (0 <= y0 <= y1 <= 1 and 0 <= x0 <= x1 <= 1):
      raise ValueError(
          f'box of {name} is {tuple(box)}; it must be (y0, x0, y1, x1) as shares in 0..1, rising')
    # The last cell also holds its far edge, so that 1.0 is 999.
    cells = [min(int(share * DETECTION_GRID), DETECTION_GRID - 1) for share in box]
    answers.append(' '.join([*map(str, cells), name]))
  return ' and '.join(answers)


def table_instruction() -> str:
  """Language-Table: asks for the instruction that the frames carry out."""
  return TEMPLATES['table_instruction']


def table_arm() -> str:
  """Language-Table: asks for the arm's place, answered 'X Y'."""
  return TEMPLATES['table_arm']


def table_steps() -> str:
  """Language-Table: asks for the number of steps between two frames."""
  return TEMPLATES['table_steps']


def table_success(instruction: str) -> str:
  """Language-Table: asks whether the frames fulfil `instruction`, answered yes or no."""
  return TEMPLATES['table_success'].format(instruction=instruction)
