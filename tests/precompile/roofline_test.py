"""Which transfers a schedule hides, on hand-made programs in the compiler's notation.

The chips are v5e: 197 TFLOP/s, 819 GB/s of HBM, and 45 GB/s one way along each of two torus axes,
of which `data` is the first and `model` the second. A product of [N, N] x [N, N] with N = 2^13
takes 5.58 ms, the gathering of a [N, N] in bfloat16 over two chips 1.49 ms.
"""

import pytest

from rt2_train.precompile import collectives
from rt2_train.precompile import hlo
from rt2_train.precompile import roofline
from rt2_train.precompile import topologies

TOPOLOGY = topologies.parse('v5e:2x2')
WIRES = collectives.Interconnect(
    TOPOLOGY, {'data': 2, 'model': 2}, [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
SQUARE = 'bf16[8192,8192]{1,0:T(8,128)(2,1)}'
PART = 'bf16[4096,8192]{1,0:T(8,128)(2,1)}'
PRODUCT = 2 * 8192**3 / 197e12
SENT = 4096 * 8192 * 2  # By each of the two chips of a group.
GATHER = SENT / 45e9
DATA = "replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, dimensions={0}"
MODEL = 'replica_groups={{0,1},{2,3}}, dimensions={0}'

COMPUTATIONS = f"""
%product (a: {SQUARE}, b: {SQUARE}) -> {SQUARE} {{
  %a = {SQUARE} parameter(0)
  %b = {SQUARE} parameter(1)
  ROOT %convolution = {SQUARE} convolution(%a, %b), dim_labels=bf_io->bf
}}

%all-reduce-scatter.1 (input: {SQUARE}) -> {PART} {{
  %input = {SQUARE} parameter(0)
  %all-reduce.9 = {SQUARE} all-reduce(%input), channel_id=9, replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add
  %offset = u32[] constant(0)
  ROOT %dynamic-slice = {PART} dynamic-slice(%all-reduce.9, %offset, %offset), dynamic_slice_sizes={{4096,8192}}
}}

%gather_start (p: {PART}) -> ({PART}, {SQUARE}) {{
  %p = {PART} parameter(0)
  %all-gather.1 = {SQUARE} all-gather(%p), channel_id=7, {DATA}
  ROOT %mark = ({PART}, {SQUARE}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%product_and_gather (p.1: {PART}, a.1: {SQUARE}, b.1: {SQUARE}) -> ({SQUARE}, {SQUARE}) {{
  %p.1 = {PART} parameter(0)
  %a.1 = {SQUARE} parameter(1)
  %b.1 = {SQUARE} parameter(2)
  %convolution.1 = {SQUARE} convolution(%a.1, %b.1), dim_labels=bf_io->bf
  %all-gather.2 = {SQUARE} all-gather(%p.1), channel_id=7, {DATA}
  ROOT %both = ({SQUARE}, {SQUARE}) tuple(%convolution.1, %all-gather.2)
}}

%gather_done (p.2: {PART}) -> {SQUARE} {{
  %p.2 = {PART} parameter(0)
  %all-gather.3 = {SQUARE} all-gather(%p.2), channel_id=7, {DATA}
  ROOT %mark.1 = {SQUARE} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}}

%offloaded (p.3: {PART}) -> {SQUARE} {{
  %p.3 = {PART} parameter(0)
  ROOT %all-gather.4 = {SQUARE} all-gather(%p.3), channel_id=8, {DATA}
}}

%wrapped (p.4: {PART}) -> {SQUARE} {{
  %p.4 = {PART} parameter(0)
  ROOT %custom-call.1 = {SQUARE} custom-call(%p.4), custom_call_target="Offloaded", called_computations={{%offloaded}}
}}, execution_thread="sparsecore"

%body (state: ({PART}, s32[])) -> ({PART}, s32[]) {{
  %state = ({PART}, s32[]) parameter(0)
  %layer = {PART} get-tuple-element(%state), index=0
  %i = s32[] get-tuple-element(%state), index=1
  %weights = {SQUARE} all-gather(%layer), channel_id=5, {DATA}
  %out = {SQUARE} fusion(%weights, %weights), kind=kOutput, calls=%product
  %one = s32[] constant(2)
  %next = s32[] add(%i, %one)
  ROOT %state.1 = ({PART}, s32[]) tuple(%layer, %next)
}}

%condition (state.2: ({PART}, s32[])) -> pred[] {{
  %state.2 = ({PART}, s32[]) parameter(0)
  %i.2 = s32[] get-tuple-element(%state.2), index=1
  %limit = s32[] constant(50)
  ROOT %more = pred[] compare(%i.2, %limit), direction=LT
}}
"""


def bound(schedule: str) -> roofline.Timeline:
  return roofline.bound(module(schedule), WIRES, TOPOLOGY.chip)


def module(schedule: str) -> hlo.Module:
  return hlo.parse(f"""{COMPUTATIONS}
ENTRY %main (part: {PART}, square: {SQUARE}) -> {SQUARE} {{
  %part = {PART} parameter(0)
  %square = {SQUARE} parameter(1)
{schedule}
}}
""")


def product(name: str) -> str:
  return f'  %{name} = {SQUARE} fusion(%square, %square), kind=kOutput, calls=%product\n'


def start(name: str, groups: str = DATA) -> str:
  return f'  %{name} = ({PART}, {SQUARE}) all-gather-start(%part), channel_id=3, {groups}\n'


def done(name: str) -> str:
  return f'  %{name}.done = {SQUARE} all-gather-done(%{name})\n'


def test_a_synchronous_collective_is_exposed_and_counted_by_its_mesh_axis():
  line = bound(f'  %gathered = {SQUARE} all-gather(%part), channel_id=1, {DATA}\n' + product('x'))
  assert line.bytes == {('all-gather', 'data'): SENT}
  assert line.exposed == {('all-gather', 'data'): pytest.approx(GATHER)}
  assert line.compute == pytest.approx(PRODUCT)
  assert line.seconds == pytest.approx(PRODUCT + GATHER)
  assert line.overlapped_seconds == pytest.approx(PRODUCT)


def test_work_between_start_and_end_hides_a_transfer():
  line = bound(start('a') + product('x') + done('a'))
  assert line.exposed == {('all-gather', 'data'): 0.0}
  assert line.bytes == {('all-gather', 'data'): SENT}


def test_what_the_work_is_too_short_for_is_exposed():
  line = bound(product('x') + start('a') + done('a'))
  assert sum(line.exposed.values()) == pytest.approx(GATHER)


def test_transfers_on_one_torus_axis_run_one_after_the_other():
  five = [start(f'a{i}') for i in range(5)]
  line = bound(''.join(five) + product('x') + ''.join(done(f'a{i}') for i in range(5)))
  assert sum(line.exposed.values()) == pytest.approx(5 * GATHER - PRODUCT)


def test_transfers_on_different_torus_axes_run_together():
  starts = start('a') + start('b') + start('c', MODEL) + start('d', MODEL)
  line = bound(starts + ''.join(done(name) for name in 'abcd'))
  assert sum(line.exposed.values()) == pytest.approx(2 * GATHER)
  assert line.busy == {0: pytest.approx(2 * GATHER), 1: pytest.approx(2 * GATHER)}
  assert line.overlapped_seconds == pytest.approx(2 * GATHER)


def test_a_fused_reduction_and_scattering_counts_as_a_reduce_scatter_and_is_exposed():
  line = bound(
      f'  %fusion.2 = {PART} fusion(%square), kind=kCustom, calls=%all-reduce-scatter.1\n')
  assert line.bytes == {('reduce-scatter', 'data'): SENT}
  assert line.exposed == {('reduce-scatter', 'data'): pytest.approx(GATHER)}


def test_a_collective_spread_over_fusions_counts_once_and_hides_behind_their_products():
  pieces = [
      f'  %s = ({PART}, {SQUARE}) fusion(%part), kind=kCustom, calls=%gather_start\n',
      f'  %m = ({SQUARE}, {SQUARE}) fusion(%part, %square, %square), kind=kOutput, '
      'calls=%product_and_gather\n',
      f'  %e = {SQUARE} fusion(%part), kind=kCustom, calls=%gather_done\n',
  ]
  line = bound(''.join(pieces))
  assert line.bytes == {('all-gather', 'data'): SENT}
  assert line.exposed == {('all-gather', 'data'): 0.0}
  assert line.compute == pytest.approx(PRODUCT)
  assert sum(bound(pieces[0] + pieces[2]).exposed.values()) == pytest.approx(GATHER)


@pytest.mark.parametrize(
    'thread, called, waits',
    [('sparsecore', 'wrapped', GATHER), ('collectives', 'offloaded', 0.0)],
)
def test_what_runs_on_the_sparse_core_is_exposed_whatever_runs_beside_it(thread, called, waits):
  line = bound(
      f'  %s = (({PART}), {SQUARE}, u32[]) async-start(%part), '
      f'async_execution_thread="{thread}", calls=%{called}\n'
      + product('x')
      + f'  %u = (({PART}), {SQUARE}, u32[]) async-update(%s)\n'
      + f'  %d = {SQUARE} async-done(%u)\n')
  assert line.bytes == {('all-gather', 'data'): SENT}
  assert sum(line.exposed.values()) == pytest.approx(waits)


def test_hosts_carry_sums_between_slices_while_chips_work():
  slices = collectives.Interconnect(
      topologies.parse('v5e:1x1', 2), {'replica': 2, 'data': 1}, [[0, 0, 0, 0], [0, 0, 0, 1]])
  rendezvous = (
      'channel_id=34, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name='
      '"xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.4_0",'
      '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}')
  schedule = f"""  %token = token[] after-all()
  %send = ({PART}, u32[], token[]) send(%part, %token), {rendezvous}
  %recv = ({PART}, u32[], token[]) recv(%token), {rendezvous}
{product('x')}  %send-done = token[] send-done(%send), channel_id=34
  %recv-done = ({PART}, token[]) recv-done(%recv), channel_id=33
"""
  line = roofline.bound(module(schedule), slices, TOPOLOGY.chip)
  assert line.bytes == {('all-reduce', 'replica'): SENT}  # Two slices: half of it, to and fro.
  assert sum(line.exposed.values()) == pytest.approx(SENT / 3.125e9 - PRODUCT)


def test_a_loop_multiplies_what_its_body_does():
  line = bound(f"""  %zero = s32[] constant(0)
  %begin = ({PART}, s32[]) tuple(%part, %zero)
  %while = ({PART}, s32[]) while(%begin), condition=%condition, body=%body
""")
  # Fifty layers in steps of two.
  assert line.compute == pytest.approx(25 * PRODUCT)
  assert line.bytes == {('all-gather', 'data'): 25 * SENT}
  assert sum(line.exposed.values()) == pytest.approx(25 * GATHER)


def test_a_loop_hides_what_was_started_before_it():
  line = bound(start('a') + f"""  %zero = s32[] constant(48)
  %begin = ({PART}, s32[]) tuple(%part, %zero)
  %while = ({PART}, s32[]) while(%begin), condition=%condition, body=%body
""" + done('a'))
  assert sum(line.exposed.values()) == pytest.approx(GATHER)  # That of the loop's only trip.


def test_a_loop_delays_what_is_under_way_on_its_wires():
  loop = f"""  %zero = s32[] constant(48)
  %begin = ({PART}, s32[]) tuple(%part, %zero)
  %while = ({PART}, s32[]) while(%begin), condition=%condition, body=%body
"""
  starts, ends = (''.join(make(f'a{i}') for i in range(9)) for make in (start, done))
  line = bound(starts + loop + ends)
  assert sum(line.exposed.values()) == pytest.approx(10 * GATHER - PRODUCT)


def test_of_branches_the_longest_counts():
  line = bound(f"""  %which = s32[] constant(0)
  %zero = s32[] constant(0)
  %state.9 = ({PART}, s32[]) tuple(%part, %zero)
  %branch = ({PART}, s32[]) conditional(%which, %state.9, %part), branch_computations={{%body, %offloaded}}
""")
  assert line.compute == pytest.approx(PRODUCT)


def test_memory_bounds_a_program_that_multiplies_little():
  line = bound(f'  %copied = {SQUARE} copy(%square)\n')
  assert line.compute == 0
  assert line.seconds == pytest.approx(2 * 8192 * 8192 * 2 / 819e9)  # Read and written.


def test_the_estimate_counts_the_compilers_cycles_and_hides_transfers_behind_them():
  cycles = ', backend_config={"window_config":{"estimated_cycles":"1500000"}}'
  schedule = start('a') + product('x').rstrip() + cycles + '\n' + done('a')
  line = roofline.estimate(module(schedule), WIRES, TOPOLOGY.chip)
  assert line.compute == pytest.approx(1.5e6 / 1.5e9)
  assert sum(line.exposed.values()) == pytest.approx(GATHER - 1e-3)
  assert line.seconds == pytest.approx(GATHER)
