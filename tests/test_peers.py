"""benchmarks/peers.py: the inputs of packages that the tests can't run."""

import torch
from nn.dcn_reference import aggregation, unpacked
from ops.op_cases import LdcnCase

from benchmarks.peers import dcnv4_inputs, dcnv4_order
from dkic.ops import ldcn


def test_dcnv4_gets_the_samples_of_ldcn():
    case = LdcnCase("three groups", groups=3, depth=4, kernel_size=(3, 3))
    x, offset, mask = case.tensors()
    value, packed = dcnv4_inputs(x, offset, mask, dcnv4_order(case.groups, case.kernel_size))
    assert packed.shape[-1] == 88  # 3 groups of 27 channels are 81
    y = aggregation(value, *unpacked(packed, case.groups, case.taps), *case.geometry.values(), case.groups, 1.0, False)
    torch.testing.assert_close(y.permute(0, 3, 1, 2), ldcn(x, offset, mask, **case.geometry))
