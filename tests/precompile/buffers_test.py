"""The buffer assignment as XLA dumps it."""

from rt2_train.precompile import buffers

TEXT = """BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <2 add.1 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 134217728, page 0, parameter 1, shape |bf16[8192,8192]| at ShapeIndex {}:
 value: <20 param @0> (size=134217728,offset=0): bf16[8192,8192]{1,0:T(8,128)(2,1)}
allocation 2: size 33554432, page 0, parameter 0, shape |bf16[2048,8192]| at ShapeIndex {}, maybe-live-out:
 value: <21 param.1 @0> (size=33554432,offset=0): bf16[2048,8192]{1,0:T(8,128)(2,1)}
allocation 6: size 268435456, page 0, preallocated-temp:
 value: <22 all-gather.6 @0> (size=134217728,offset=0): bf16[8192,8192]{1,0:T(8,128)(2,1)}
 value: <23 while.5{2} @1> (size=100663296,offset=134217728): f32[8192,3072]{1,0:T(8,128)}
 value: <24 fusion @0> (size=134217728,offset=0): bf16[8192,8192]{1,0:T(8,128)(2,1)}
allocation 7: size 1048576, color 1, page 0, preallocated-temp:
 value: <25 copy-done @0> (size=1048576,offset=0): bf16[512,1024]{1,0:T(8,128)(2,1)S(1)}
"""


def test_arguments_and_temporaries_are_told_apart_and_what_is_on_the_chip_is_left_out():
  assignment = buffers.parse(TEXT)
  assert assignment.arguments == 134217728 + 33554432
  assert assignment.temporaries == 512 + 268435456
  assert assignment.total == assignment.arguments + assignment.temporaries


def test_the_largest_come_first_and_those_that_take_turns_in_one_place_count_once():
  largest = buffers.parse(TEXT).largest
  assert [(one.bytes, one.shape, one.instruction) for one in largest[:3]] == [
      (134217728, 'bf16[8192,8192]', 'param'),
      (134217728, 'bf16[8192,8192]', 'all-gather.6'),
      (100663296, 'f32[8192,3072]', 'while.5'),
  ]
