"""NF4 against the paper's levels written out here, and against bitsandbytes' own functions."""

import pytest
import torch
from bitsandbytes import functional
from torch.nn.functional import linear

from nsr_fast.bench.saved import SavedBytes
from nsr_fast.model.nf4 import dequantize, nf4_linear, packed_shapes, quantize

LEVELS = torch.tensor(  # arXiv 2305.14314, appendix E
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def reference(matrix):
    """(codes [out, in], absmax [out, in / 64]): the nearest level of each block's share."""
    blocks = matrix.float().unflatten(-1, (-1, 64))
    absmax = blocks.abs().amax(-1)
    share = blocks / absmax.clamp(min=1e-30)[..., None]
    return (share[..., None] - LEVELS).abs().argmin(-1).flatten(1), absmax


def values(codes, absmax, dtype):
    """In float32, then rounded once."""
    return (LEVELS[codes].unflatten(-1, (-1, 64)) * absmax[..., None]).flatten(1).to(dtype)


@pytest.fixture(params=[(96, 128), (5, 64), (7, 320)], ids=str)
def matrix(request):
    torch.manual_seed(0)
    matrix = torch.randn(request.param) * torch.rand(request.param[0], 1) * 0.05
    matrix[0, :64] = 0.0  # a block of nothing
    matrix[1, 3] = 1.0  # an outlier
    return matrix


@BOTH
def test_it_is_the_nearest_level_bit_for_bit(matrix, dtype):
    matrix = matrix.to(dtype)
    packed, absmax = quantize(matrix)
    codes, largest = reference(matrix)
    assert torch.equal(absmax, largest)
    held = torch.stack((packed >> 4, packed & 15), -1).flatten(1)  # the first in the high half
    assert torch.equal(held[codes != 7], codes[codes != 7].to(torch.uint8))
    assert torch.equal(dequantize(packed, absmax, dtype), values(codes, largest, dtype))


@BOTH
def test_it_is_what_bitsandbytes_makes_of_its_own_bytes(matrix, dtype):
    matrix = matrix.to(dtype)
    theirs, state = functional.quantize_4bit(
        matrix, blocksize=64, quant_type="nf4", compress_statistics=False
    )
    packed, absmax = quantize(matrix)
    assert torch.equal(packed.flatten(), theirs.flatten())
    want = functional.dequantize_4bit(theirs, state)
    got = dequantize(packed, absmax, dtype)
    assert got.dtype == dtype and torch.equal(got, want)


def test_row_slices_of_the_bytes_are_row_slices_of_the_matrix(matrix):
    packed, absmax = quantize(matrix)
    whole = dequantize(packed, absmax, torch.float32)
    for rows in (slice(0, 2), slice(1, 5), slice(4, None)):
        part = quantize(matrix[rows])
        assert torch.equal(packed[rows], part[0]) and torch.equal(absmax[rows], part[1])
        got = dequantize(packed[rows], absmax[rows], torch.float32)
        assert torch.equal(got, whole[rows])


def test_a_parameter_takes_4_5_bits(matrix):
    packed, absmax = quantize(matrix)
    assert (packed.shape, absmax.shape) == packed_shapes(*matrix.shape)
    assert packed.nbytes + absmax.nbytes == 0.5625 * matrix.numel()
    with pytest.raises(ValueError, match="expected a multiple of 64 columns, got 96"):
        packed_shapes(4, 96)


@BOTH
def test_the_product_and_its_gradient_are_those_of_the_dequantised_matrix(dtype):
    torch.manual_seed(1)
    packed, absmax = quantize((torch.randn(96, 128) * 0.1).to(dtype))
    x, bias = torch.randn(2, 5, 128).to(dtype).requires_grad_(), torch.randn(96).to(dtype)
    grad = torch.randn(2, 5, 96).to(dtype)
    results = []
    for product in (
        lambda: nf4_linear(x, packed, absmax, bias),
        lambda: linear(x, dequantize(packed, absmax, dtype)) + bias,
    ):
        y = product()
        results.append((y.detach(), *torch.autograd.grad(y, x, grad)))
    assert all(torch.equal(got, want) for got, want in zip(*results))


def test_nothing_but_the_bytes_is_kept_for_the_backward_pass():
    packed, absmax = quantize(torch.randn(96, 128))
    x = torch.randn(300, 128, requires_grad=True)
    with SavedBytes() as saved:
        y = nf4_linear(x, packed, absmax)
    assert y.requires_grad and saved.bytes == packed.nbytes + absmax.nbytes


def test_it_moves_a_normal_matrix_by_nine_hundredths_of_its_norm():
    """What docs/lora.md says of the policy that quantising leaves."""
    torch.manual_seed(0)
    matrix = torch.randn(256, 512) * 0.02
    error = dequantize(*quantize(matrix), torch.float32) - matrix
    assert 0.085 < float(error.norm() / matrix.norm()) < 0.1
