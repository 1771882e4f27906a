"""Trips, FLOPs and bytes of hand-made programs, against numbers worked out by hand."""

import pytest

from rt2_train.precompile import hlo
from rt2_train.precompile import hlo_work

LOOP = """
%body (state: (f32[8,8], s32[])) -> (f32[8,8], s32[]) {{
  %state = (f32[8,8]{{1,0}}, s32[]) parameter(0)
  %x = f32[8,8]{{1,0}} get-tuple-element(%state), index=0
  %i = s32[] get-tuple-element(%state), index=1
  %one = s32[] constant({step})
  %next = s32[] add(%i, %one)
  %kept = s32[] copy(%next)
  ROOT %result = (f32[8,8]{{1,0}}, s32[]) tuple(%x, %kept)
}}

%condition (state.1: (f32[8,8], s32[])) -> pred[] {{
  %limit = s32[] constant({limit})
  %state.1 = (f32[8,8]{{1,0}}, s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=1
  %more = pred[] compare(%i.1, %limit), direction=LT
  %going = pred[] get-tuple-element(%state.1), index=0
  ROOT %and = pred[] and(%more, %going)
}}

ENTRY %main (x.0: f32[8,8]) -> (f32[8,8], s32[]) {{
  %x.0 = f32[8,8]{{1,0}} parameter(0)
  %start = s32[] constant({start})
  %copied = s32[] copy(%start)
  %begin = (f32[8,8]{{1,0}}, s32[]) tuple(%x.0, %copied)
  ROOT %while = (f32[8,8]{{1,0}}, s32[]) while(%begin), condition=%condition, body=%body{known}
}}
"""


def trips(start: int = 0, limit: int = 50, step: int = 1, known: str = '') -> int:
  module = hlo.parse(LOOP.format(start=start, limit=limit, step=step, known=known))
  return hlo_work.trips(module, 'main', module.root('main'))


def test_a_loop_runs_from_its_start_to_its_limit():
  assert trips() == 50
  assert trips(start=1, limit=9) == 8  # The first token was written before.


def test_a_loop_that_the_compiler_unrolled_counts_in_its_steps():
  assert trips(limit=8, step=2) == 4
  assert trips(limit=9, step=2) == 5


def test_a_known_number_of_trips_is_believed():
  assert trips(known=', backend_config={"known_trip_count":{"n":"7"}}') == 7


def test_a_loop_without_a_limit_is_an_error_and_no_guess():
  text = LOOP.format(start=0, limit=9, step=1, known='').replace('direction=LT', 'direction=NE')
  module = hlo.parse(text)
  with pytest.raises(ValueError, match='the trips of loop while in main cannot be read'):
    hlo_work.trips(module, 'main', module.root('main'))


def flops(operation: str) -> float:
  module = hlo.parse(f'ENTRY %main () -> f32[] {{\n{operation}\n}}\n')
  return sum(hlo_work.flops(module)['main'].values())


def test_a_dot_counts_what_it_contracts():
  assert flops("""
  %a = f32[2,8,16] parameter(0)
  %b = f32[2,16,4] parameter(1)
  ROOT %dot = f32[2,8,4] dot(%a, %b), lhs_batch_dims={0}, rhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_contracting_dims={1}
""") == 2 * (2 * 8 * 4) * 16


def test_a_matrix_product_written_as_a_convolution_counts_the_same():
  assert flops("""
  %a = bf16[16,8] parameter(0)
  %b = bf16[16,4] parameter(1)
  ROOT %convolution = bf16[8,4] convolution(%a, %b), dim_labels=fb_io->bf
""") == 2 * (8 * 4) * 16


def test_a_batch_of_products_written_as_a_convolution_does_not_count_its_padding():
  # [3] x [8, 16] x [16, 4]: the batch is a dilated axis, and each window meets one entry.
  assert flops("""
  %a = bf16[3,8,16] parameter(0)
  %b = bf16[3,16,4] parameter(1)
  ROOT %convolution = bf16[3,8,4] convolution(%a, %b), window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf
""") == 2 * (3 * 8 * 4) * 16


def test_heads_split_off_by_a_reversed_full_window_count_once():
  # The compiler's way of writing bf16[2,4,6] x bf16[6,5,7] -> [2,4,5,7].
  assert flops("""
  %a = bf16[2,4,6,1] parameter(0)
  %b = bf16[6,5,7,1] parameter(1)
  ROOT %convolution = bf16[2,4,5,7] convolution(%a, %b), window={size=1x5 pad=0_0x4_4 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f
""") == 2 * (2 * 4 * 5 * 7) * 6


def test_a_strided_convolution_counts_its_windows():
  assert flops("""
  %a = bf16[2,8,8,3] parameter(0)
  %b = bf16[4,4,3,10] parameter(1)
  ROOT %convolution = bf16[2,2,2,10] convolution(%a, %b), window={size=4x4 stride=4x4}, dim_labels=b01f_01io->b01f
""") == 2 * (2 * 2 * 2 * 10) * (4 * 4 * 3)


FUSIONS = """
%inner (p.3: bf16[50,8,128]) -> bf16[1,8,128] {
  %p.3 = bf16[50,8,128] parameter(0)
  %i.3 = s32[] constant(0)
  ROOT %slice.3 = bf16[1,8,128] dynamic-slice(%p.3, %i.3), dynamic_slice_sizes={1,8,128}
}

%reads (p.0: bf16[50,8,128], p.1: bf16[8,128]) -> bf16[8,8] {
  %p.0 = bf16[50,8,128] parameter(0)
  %p.1 = bf16[8,128] parameter(1)
  %nested = bf16[1,8,128] fusion(%p.0), kind=kLoop, calls=%inner
  %one = bf16[8,128] bitcast(%nested)
  ROOT %product = bf16[8,8] convolution(%one, %p.1), dim_labels=bf_oi->bf
}

%writes (p.4: bf16[50,8,128], p.5: bf16[8,128]) -> bf16[50,8,128] {
  %p.4 = bf16[50,8,128] parameter(0)
  %p.5 = bf16[8,128] parameter(1)
  %i.4 = s32[] constant(3)
  %row = bf16[1,8,128] bitcast(%p.5)
  ROOT %changed = bf16[50,8,128] dynamic-update-slice(%p.4, %row, %i.4)
}

%fetched (p.6: bf16[50,8,128]) -> bf16[2,8,128] {
  %p.6 = bf16[50,8,128] parameter(0)
  ROOT %two = bf16[2,8,128]{2,1,0:T(8,128)(2,1)S(1)} slice(%p.6), slice={[0:2], [0:8], [0:128]}
}

ENTRY %main (stack: bf16[50,8,128], x: bf16[8,128]) -> bf16[50,8,128] {
  %stack = bf16[50,8,128] parameter(0)
  %some = ((bf16[50,8,128]), bf16[2,8,128]{2,1,0:T(8,128)(2,1)S(1)}, s32[]) async-start(%stack), calls=%fetched
  %some.done = bf16[2,8,128]{2,1,0:T(8,128)(2,1)S(1)} async-done(%some)
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %fetch = (bf16[8,128]{1,0:S(1)}, bf16[8,128], u32[]) copy-start(%stack)
  %product.1 = bf16[8,8] fusion(%stack, %x), kind=kOutput, calls=%reads
  ROOT %stored = bf16[50,8,128] fusion(%stack, %x), kind=kLoop, calls=%writes
}
"""


def test_a_fusion_reads_and_writes_the_layer_that_it_takes_of_a_stack():
  moved = hlo_work.hbm_bytes(hlo.parse(FUSIONS))['main']
  layer = 8 * 128 * 2
  assert moved['product.1'] == layer + 8 * 8 * 2  # `x` is on the chip already.
  assert moved['stored'] == layer
  assert moved['stack'] == 0


def test_what_is_brought_to_the_chip_is_read_once():
  moved = hlo_work.hbm_bytes(hlo.parse(FUSIONS))['main']
  assert moved['fetch'] == 50 * 8 * 128 * 2
  assert moved['some'] == 2 * 8 * 128 * 2
  assert moved['some.done'] == 0
