"""Files and arguments that `Codec.decompress` refuses."""

import random
from dataclasses import replace

import pytest
from photographs import crop

from dkic.coding.codec import Codec
from dkic.coding.container import pack, unpack
from dkic.errors import DkicError, FormatError


def altered(data: bytes, image: bytes | None = None, **header: object) -> bytes:
    """A changed file with valid checksums."""
    file = unpack(data)
    return pack(replace(file, header=replace(file.header, **header), image=file.image if image is None else image))


def refusal(codec: Codec, data: bytes, error: type[DkicError] = FormatError) -> str:
    with pytest.raises(error) as caught:
        codec.decompress(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_of_an_unknown_model_names_it_and_the_known_ones(codec, two_qualities):
    data = two_qualities.compress(crop(8, 8), quality=2)
    message = refusal(codec, data, DkicError)
    assert message.startswith(f"model {unpack(data).header.model_hash.hex()}: ") and "neither shipped (small)" in message
    assert f"nor loaded ({', '.join(codec.model_hash(quality).hex() for quality in codec.qualities)})" in message


@pytest.mark.parametrize(("arithmetic", "name"), [(0, "number 0"), (1, "float64-1"), (15, "number 15")])
def test_another_arithmetic_mode_is_refused(codec, small, arithmetic, name):
    header = unpack(small).header
    message = refusal(codec, altered(small, arithmetic=arithmetic))
    assert message.startswith("header: ") and name in message and f"{header.model_hash.hex()} has exact-1" in message


def test_latents_that_differ_from_the_encoded_ones_are_refused(codec, small):
    image = unpack(small).image
    message = refusal(codec, altered(small, bytes([image[0] ^ 1]) + image[1:]))
    assert message.startswith("image section: the file was encoded with other arithmetic") and "checksum" in message


def test_a_changed_stream_with_a_valid_section_checksum_is_refused(codec, small):
    image = unpack(small).image
    chosen = random.Random(0)
    for position in chosen.sample(range(4, len(image)), 12):
        changed = bytearray(image)
        changed[position] ^= chosen.randrange(1, 256)
        assert refusal(codec, altered(small, bytes(changed))).startswith(
            "image section: the file was encoded with other arithmetic"
        )


@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 65), (640, 640)])
def test_a_stream_of_another_size_is_refused(codec, small, width, height):
    assert refusal(codec, altered(small, width=width, height=height)).startswith("image section: ")


def test_a_larger_images_stream_is_refused(codec, small):
    assert refusal(codec, altered(codec.compress(crop(128, 64)), height=64)).startswith("image section: ")


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 9])
def test_a_truncated_stream_is_refused(codec, small, length):
    assert refusal(codec, altered(small, unpack(small).image[:length])).startswith("image section: ")


@pytest.mark.parametrize("data", [None, "DKIC", 7, [1, 2]])
def test_input_that_is_not_bytes_is_refused(codec, data):
    assert "bytes" in refusal(codec, data, DkicError)


def test_an_unknown_output_is_refused(codec, small):
    with pytest.raises(DkicError, match="pil, numpy, torch or image_data, not jax"):
        codec.decompress(small, "jax")
