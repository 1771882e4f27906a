"""A short run with all that several processes do together: train, evaluate, save, keep the best."""

from rt2_train.training import evaluators


def run(c, directory, **settings):
  """Trains 6 steps in `directory`; `c` is this folder's conftest."""

  class Judge:
    """Says how many points the answers to the first batch are worth."""

    def evaluate(self, predict):
      return {'robot': {'score': float(predict(c.batch_of(0)).sum())}}

  return c.run(
      directory, model=c.Model(dropout_rate=0.3), ema_decay=0.9, log_period=1, eval_period=2,
      checkpoint_period=2, keep=1, keep_best_metric='inference_eval/robot/score',
      assets=c.assets(), **settings,
      evaluators={
          'training_eval': lambda: evaluators.TrainingEval(c.Loader, num_batches=2),
          'inference_eval': lambda: evaluators.InferenceEval(Judge),
      },
  )  # pyformat: disable
