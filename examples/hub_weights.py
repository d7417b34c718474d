"""Saves the weights of a codec to a folder, as for the Hugging Face Hub, and loads them from there.

python examples/hub_weights.py FOLDER [--model small] [--push owner/name]
"""

import argparse
from pathlib import Path

from PIL import Image

import dkic
from dkic.demo import PHOTO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--model", default="small", help="shipped weights, a path, or a repository owner/name, which is downloaded"
    )
    parser.add_argument("--push", metavar="owner/name", help="also upload to this repository")
    arguments = parser.parse_args()

    codec = dkic.load(arguments.model)
    codec.save_pretrained(arguments.folder)
    print("saved", *sorted(path.name for path in arguments.folder.iterdir()))

    copy = dkic.Codec.from_pretrained(arguments.folder)
    image, quality = Image.open(PHOTO).crop((0, 0, 128, 96)), copy.qualities[0]
    same = copy.compress(image, quality) == codec.compress(image, quality)
    print(f"qualities {copy.qualities}: the files are {'equal' if same else 'different'}")

    if arguments.push:
        print("uploaded to", codec.push_to_hub(arguments.push))


if __name__ == "__main__":
    main()
