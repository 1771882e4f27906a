"""What a server measures of itself, for Prometheus."""

import prometheus_client

_SECONDS = (.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10)


class Metrics:
  """The counters of one server, in a registry of its own."""

  content_type = prometheus_client.CONTENT_TYPE_LATEST

  def __init__(self):
    self._registry = registry = prometheus_client.CollectorRegistry()
    self.requests = prometheus_client.Counter(
        'rt2_requests', 'Requests that were answered or refused, by status.',
        ['protocol', 'status'], registry=registry)
    self.request_seconds = prometheus_client.Histogram(
        'rt2_request_seconds', 'From the whole request to its answer.', ['protocol'],
        buckets=_SECONDS, registry=registry)
    self.queue_seconds = prometheus_client.Histogram(
        'rt2_queue_seconds', 'From the arrival at the queue to the beginning of the batch.',
        buckets=_SECONDS, registry=registry)
    self._inference_seconds = prometheus_client.Histogram(
        'rt2_inference_seconds', 'Of a batch.', buckets=_SECONDS, registry=registry)
    self._batch_size = prometheus_client.Histogram(
        'rt2_batch_size', 'Requests that were answered together, without padding.',
        buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry)
    self.connections = prometheus_client.Gauge(
        'rt2_connections', 'Robots and requests that are connected.', registry=registry)
    self.checkpoint_step = prometheus_client.Gauge(
        'rt2_checkpoint_step', 'Of the parameters that answer.', registry=registry)
    self.reload_errors = prometheus_client.Counter(
        'rt2_reload_errors', 'Newer checkpoints that could not be taken.', registry=registry)

  def batch(self, size: int, seconds: float) -> None:
    """Notes a batch that was answered."""
    self._batch_size.observe(size)
    self._inference_seconds.observe(seconds)

  def text(self) -> bytes:
    """All of them, as Prometheus reads them."""
    return prometheus_client.generate_latest(self._registry)
