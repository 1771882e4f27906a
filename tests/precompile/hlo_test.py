"""The parts of a program that the TPU compiler prints, in the shapes in which it prints them."""

import pytest

from rt2_train.precompile import hlo

TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=4

FileNames
1 "step.py"

StackFrames
1 {file_location_id=1 parent_frame_id=1}


%fused_computation (param_0: bf16[8,128], param_1: bf16[128,256]) -> (f32[8,256], bf16[8,128]) {
  %param_0 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)
  %convolution.1 = f32[8,256]{1,0:T(8,128)} convolution(%param_0, %param_1), dim_labels=bf_io->bf, metadata={op_name="jit(step)/mlp/dot_general" stack_frame_id=1}
  ROOT %tuple.1 = (f32[8,256]{1,0:T(8,128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%convolution.1, /*index=1*/%param_0)
}

ENTRY %main.0_spmd (x: bf16[8,128], w: bf16[32,256]) -> f32[8,256] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0), metadata={op_name="batch[\\'x\\']"}
  %w = bf16[32,256]{1,0:T(8,128)(2,1)} parameter(1)
  %constant.5 = s32[]{:T(128)} constant(48)
  %all-gather.6 = bf16[128,256]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=2, replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={0}, use_global_device_ids=true, metadata={op_name="w"}, backend_config={"flag_configs":[]}
  %fusion = (f32[8,256]{1,0:T(8,128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) fusion(%x, %all-gather.6), kind=kOutput, calls=%fused_computation, backend_config={"window_config":{"estimated_cycles":"9557568"}}
  ROOT %get-tuple-element = f32[8,256]{1,0:T(8,128)} get-tuple-element(%fusion), index=0
  %copy-done = bf16[8]{0} copy-done(%constant.5)
}
"""


def test_computations_keep_the_order_of_the_schedule():
  module = hlo.parse(TEXT)
  assert list(module.computations) == ['fused_computation', 'main.0_spmd']
  assert module.entry == 'main.0_spmd'
  assert [one.opcode for one in module.computations['main.0_spmd']] == [
      'parameter', 'parameter', 'constant', 'all-gather', 'fusion', 'get-tuple-element', 'copy-done'
  ]


def test_an_instruction_has_arrays_operands_and_attributes():
  _, _, constant, gather, fusion, _, _ = hlo.parse(TEXT).computations['main.0_spmd']
  assert constant.arguments == '48' and constant.arrays == (hlo.Array('s32', ()),)
  assert gather.operands == ('w',)
  assert gather.attribute('channel_id') == '2'
  assert gather.attribute('absent') is None
  assert gather.cycles is None and fusion.cycles == 9557568
  assert fusion.called == {'calls': ('fused_computation',)}
  assert fusion.operands == ('x', 'all-gather.6')


def test_arrays_know_their_bytes_and_where_they_lie():
  fusion = hlo.parse(TEXT).computations['main.0_spmd'][4]
  product, kept = fusion.arrays
  assert (str(product), product.bytes, product.memory_space) == ('f32[8,256]', 8192, 0)
  assert (kept.dtype, kept.dims, kept.bytes, kept.memory_space) == ('bf16', (8, 128), 2048, 1)
  assert fusion.bytes == 8192 + 2048
  assert hlo.Array('s4', (3,)).bytes == 2  # Half bytes are packed.


def test_an_unknown_type_is_no_guess():
  with pytest.raises(ValueError, match=r'f6\[8\] has an unknown type'):
    hlo.Array('f6', (8,)).bytes  # pylint: disable=expression-not-assigned


def test_operands_and_results_are_found():
  module = hlo.parse(TEXT)
  fusion = module.computations['main.0_spmd'][4]
  assert [one.name for one in module.operands('main.0_spmd', fusion)] == ['x', 'all-gather.6']
  # The result need not be scheduled last.
  assert module.root('main.0_spmd').name == 'get-tuple-element'
  assert module.root('fused_computation').opcode == 'tuple'


def test_names_in_the_traced_program_are_unescaped():
  module = hlo.parse(TEXT)
  assert module.computations['main.0_spmd'][0].op_name == "batch['x']"
  assert module.computations['fused_computation'][2].op_name == 'jit(step)/mlp/dot_general'


def test_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match='no ENTRY computation'):
    hlo.parse('HloModule jit_step\n')
