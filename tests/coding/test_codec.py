"""Round trips of the codec: inputs, outputs, sizes, profiles, exactness between processes and the bits of files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from coding.image_files import DISPLAY_P3, SRGB
from command_line import dkic_process
from photographs import crop, photograph
from PIL import Image

import dkic
from dkic.coding import latent as latent_module
from dkic.coding.color_profile import Curve, make_profile
from dkic.coding.container import crc32c, icc_section_bytes, pack, unpack
from dkic.coding.image_data import ImageData
from dkic.coding.image_reading import read_image
from dkic.coding.latent import coded_parts
from dkic.coding.transforms import analyze
from dkic.entropy.tables import SCALES
from dkic.errors import DkicError
from dkic.evaluation.classical import by_pillow
from dkic.evaluation.metrics import batch, ms_ssim, psnr
from dkic.ops.reference import gaussian_bits

SIZES = [(1, 1), (1, 200), (200, 1), (63, 65), (64, 64), (70, 130)]  # height, width


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_image_size_is_preserved(codec, height, width):
    image = crop(height, width)
    data = codec.compress(image)
    decoded = codec.decompress(data, "numpy")
    assert decoded.dtype == np.uint8 and decoded.shape == image.shape
    header = unpack(data).header
    assert (header.height, header.width, header.quality, header.arithmetic) == (height, width, codec.qualities[-1], 2)


def test_every_input_type_gives_the_same_file(codec, tmp_path):
    image = crop(48, 80)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    inputs = [
        image,
        Image.fromarray(image),
        tensor,
        tensor.float() / 255,
        tensor.double() / 255,
        path,
        str(path),
        ImageData(image),
    ]
    inputs += [np.asfortranarray(image), tensor.contiguous()]
    assert len({codec.compress(given) for given in inputs}) == 1


@pytest.mark.parametrize("flipped", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1]], ids=str)
@pytest.mark.parametrize("height", [1, 40])
def test_arrays_with_negative_strides_are_accepted(codec, flipped, height):
    """Views with negative strides, which torch does not accept."""
    pixels = crop(height, 50)
    for image in (pixels[flipped], ImageData(pixels[flipped])):
        assert codec.compress(image) == codec.compress(pixels[flipped].copy())


def test_every_output_type_has_the_same_pixels(codec, small):
    pixels = codec.decompress(small, "numpy")
    image = codec.decompress(small)
    assert isinstance(image, Image.Image) and image.mode == "RGB"
    tensor = codec.decompress(small, "torch")
    assert tensor.dtype == torch.uint8 and tensor.shape == (3, 64, 64)
    assert np.array_equal(image, pixels)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(codec.decompress(small, "image_data").pixels, pixels)
    assert np.array_equal(codec.decompress(memoryview(small), "numpy"), pixels)


def test_grayscale_stays_grayscale(codec):
    gray = Image.fromarray(crop(50, 70)).convert("L")
    data = codec.compress(gray)
    assert unpack(data).header.grayscale
    decoded = codec.decompress(data)
    assert decoded.mode == "L" and decoded.size == gray.size
    pixels = codec.decompress(data, "numpy")
    assert np.array_equal(pixels, np.repeat(np.asarray(decoded)[:, :, None], 3, axis=2))
    assert data == codec.compress(np.asarray(gray))


def test_the_icc_profile_is_kept(codec):
    image = Image.fromarray(crop(40, 40))
    image.info["icc_profile"] = DISPLAY_P3
    assert codec.decompress(codec.compress(image)).info["icc_profile"] == DISPLAY_P3
    without = codec.compress(crop(40, 40))
    assert codec.decompress(without, "image_data").icc is None
    assert codec.compress(image, icc="drop") == without
    with pytest.raises(DkicError, match="icc: must be keep or drop, not 'no'"):
        codec.compress(image, icc="no")


def test_autocast_does_not_change_the_file(codec):
    data = codec.compress(crop(64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        assert codec.compress(crop(64, 64)) == data
        inside = codec.decompress(data, "numpy")
    assert np.array_equal(inside, codec.decompress(data, "numpy"))


def test_an_srgb_profile_is_not_stored(codec):
    image = Image.fromarray(crop(40, 40))
    image.info["icc_profile"] = SRGB
    assert codec.compress(image) == codec.compress(crop(40, 40))


def test_the_error_names_a_profile_that_makes_the_target_unreachable(codec):
    image = Image.fromarray(crop(64, 64))
    image.info["icc_profile"] = DISPLAY_P3
    least = min(len(codec.compress(crop(64, 64), quality, qstep=qstep)) for quality, qstep in codec.points.all())
    target = (least + 20) * 8 / 64**2
    with pytest.raises(DkicError, match=r"of it for an ICC profile of 2\d\d bytes; drop it with --icc drop") as caught:
        codec.compress(image, target_bpp=target)
    size = icc_section_bytes(DISPLAY_P3)
    assert f"{size * 8 / 64**2:.6g} of it for an ICC profile of {size} bytes" in str(caught.value)
    assert len(codec.compress(image, target_bpp=target, icc="drop")) <= least + 20


def test_a_profile_of_another_color_space_in_an_older_file_is_dropped(codec):
    file = unpack(codec.compress(crop(40, 40)))
    data = pack(replace(file, icc=make_profile(Curve(2.2), None)))
    with pytest.warns(UserWarning, match="ICC profile is for GRAY pixels, and these are RGB; it was dropped"):
        assert "icc_profile" not in codec.decompress(data).info
    assert codec.decompress(data, "image_data").notes


@pytest.mark.parametrize(
    ("threads", "environment"),
    [("1", {}), ("2", {"OMP_WAIT_POLICY": "passive"}), ("1", {"DKIC_CPU_CAPABILITY": "default"})],
    ids=["one thread", "two threads", "baseline instructions"],
)
def test_a_fresh_process_decodes_every_symbol(tmp_path, threads, environment):
    """The files hold their latents' checksum; a pixel may round to its neighbor where sums are taken in another order."""
    codec, expected = dkic.load(), {}
    for height, width in [*SIZES, (200, 260)]:
        data = codec.compress(crop(height, width))
        (tmp_path / f"{height}x{width}.dkic").write_bytes(data)
        expected[f"{height}x{width}"] = codec.decompress(data, "numpy")
    done = dkic_process("decompress", *tmp_path.glob("*.dkic"), "-o", tmp_path / "out", "--threads", threads, **environment)
    assert done.status == 0, done.err
    for name, pixels in expected.items():
        decoded = read_image(tmp_path / "out" / f"{name}.png").pixels
        assert np.abs(decoded.astype(int) - pixels).max() <= 1, name


def test_the_same_image_gives_the_same_file(codec, small):
    assert codec.compress(crop(64, 64)) == small


def test_verify_detects_symbols_that_decode_differently(codec, small, monkeypatch):
    image = crop(64, 64)
    assert codec.compress(image, verify=True) == codec.compress(image)
    from dkic.coding import codec as module

    right = module.encode_latent
    monkeypatch.setattr(module, "encode_latent", lambda y, *arguments: right(y + 1, *arguments)[:-1] + b"\x55")
    with pytest.raises(DkicError, match="verification failed: .*image section: .*report this"):
        codec.compress(image, verify=True)


def test_encoder_and_decoder_release_memory_equally_often(codec, monkeypatch):
    calls = []
    monkeypatch.setattr(latent_module, "give_back_freed_memory", lambda: calls.append(1))
    codec.decompress(codec.compress(crop(100, 200)))
    assert calls == []
    monkeypatch.setattr(latent_module, "_LARGE", 8 * 16 - 1)  # positions of such an image's latent, less one
    data = codec.compress(crop(100, 200))
    encoding = len(calls)
    codec.decompress(data)
    assert encoding == 13 and len(calls) == 2 * encoding  # once for each pass


def test_the_input_is_not_modified(codec):
    image = crop(30, 30)
    codec.compress(image)
    assert np.array_equal(image, crop(30, 30))


@torch.inference_mode()
def test_estimated_bits_equal_the_file_size(codec, demo_file):
    weights = codec.weights_of(codec.qualities[-1])
    x = torch.from_numpy(photograph().copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
    z, *y = coded_parts(*analyze(x, weights), weights, weights.quality)
    estimate = bits = weights.tables.ideal_bits(z.symbols.numpy(), z.indexes.numpy())
    scales = torch.from_numpy(SCALES)
    for part in y:
        estimate += gaussian_bits(part.symbols.double(), scales[part.indexes.long()]).sum().item()
        bits += weights.tables.ideal_bits(part.symbols.numpy(), part.indexes.numpy())
    payload = len(unpack(demo_file).image)
    assert abs(payload - bits / 8) <= 0.001 * bits / 8 + 16  # 16: the latents' checksum and the coder's state
    assert abs(payload - estimate / 8) <= 0.02 * estimate / 8 + 16  # far out in a Gaussian's tails a table costs less
    assert len(demo_file) - payload <= 40


@torch.inference_mode()
def test_the_checksum_is_that_of_the_latents_in_coding_order(codec, small):
    weights = codec.weights_of(codec.qualities[-1])
    x = torch.from_numpy(crop(64, 64)).permute(2, 0, 1).unsqueeze(0).float() / 255
    parts = coded_parts(*analyze(x, weights), weights, weights.quality)
    latents = np.concatenate([part.values.numpy() + 0.0 for part in parts]).astype("<f4")
    assert unpack(small).image[:4] == crc32c(latents.tobytes()).to_bytes(4, "little")


def test_the_photograph_is_better_than_jpeg_at_the_same_or_a_higher_rate(codec, demo_file):
    # A difficult image: bristles in saturated colors. Untrained or broken weights give less than 20 dB. (The model was trained
    # for what images look like, and at this rate JPEG has the better PSNR.)
    jpeg = by_pillow("jpeg")
    other = next(data for quality in range(1, 96) if len(data := jpeg.encode(photograph(), quality)) >= len(demo_file))
    x, x_hat = batch(photograph(), photograph()), batch(codec.decompress(demo_file, "numpy"), jpeg.decode(other))
    assert psnr(x, x_hat).min() > 25
    assert ms_ssim(x, x_hat)[0] > ms_ssim(x, x_hat)[1]


def test_results_are_writable_arrays(codec, demo_file):
    small = codec.compress(crop(16, 16))
    tensor, array = codec.decompress(small, "torch"), codec.decompress(small, "numpy")
    assert not tensor.is_inference() and torch.equal(tensor.permute(1, 2, 0), torch.from_numpy(array))
    added = tensor.clone().add_(1)  # modulo 256
    assert torch.equal(tensor.add_(1), added)
    array[:] = 0
    assert not array.any() and torch.equal(tensor, added)  # they share no memory
