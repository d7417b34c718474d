"""Fuzzes the code that reads files: `python3 tests/fuzz --seconds 60`, half of it the coder in C++, half the decoder.

The coder runs under AddressSanitizer and UndefinedBehaviorSanitizer, guided by coverage with clang (libFuzzer; Debian:
`apt install clang`, with libclang-rt), else with g++ by chance alone. An input with a finding stays in --out; `--again FILE`
runs a .dkic file of it once more.
"""

import argparse
import faulthandler
import signal
import sys
import time
from pathlib import Path

import torch
from coder_target import fuzz_coder
from decoder_target import DecoderTarget, Finding

HANG_SECONDS = 600


def fuzz_decoder(out: Path, seconds: float, seed: int, hang_seconds: int) -> int:
    """1 if a file was found that is decoded wrongly; it is written to `out`."""
    target, end, number = DecoderTarget(seed), time.monotonic() + seconds, 0
    kept = out / "file.dkic"
    faulthandler.register(signal.SIGPROF, chain=True)  # says where it hangs, and then the signal ends the process
    while time.monotonic() < end:
        signal.setitimer(signal.ITIMER_PROF, hang_seconds)  # of the processor's time, unlike faulthandler's own timer
        kept.write_bytes(b"")
        try:
            data = target.make(number)
            kept.write_bytes(data)
            target.run(data)
        except Exception as error:
            print(f"file {number} of seed {seed}, {kept}: {type(error).__name__}: {error}", file=sys.stderr)
            if not isinstance(error, Finding):
                raise
            return 1
        number += 1
    signal.setitimer(signal.ITIMER_PROF, 0)
    kept.unlink(missing_ok=True)
    print(f"{number} files: {dict(target.outcomes)}")
    memory = f"at most {target.largest / 2**20:.0f} MB more than before" if target.largest else "this system does not tell memory"
    print(f"at most {target.slowest:.2f} s a KB, {memory}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=("coder", "decoder"), help="One of them, for all the time.")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="Folder for inputs and what is built.")
    parser.add_argument("--again", type=Path, metavar="FILE", help="Decode one file, as the decoder's target does.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.again:
        print(DecoderTarget().run(options.again.read_bytes()))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    targets = {"coder": fuzz_coder, "decoder": fuzz_decoder}
    if options.target:
        targets = {options.target: targets[options.target]}
    out, seconds = options.out.resolve(), options.seconds / len(targets)
    return int(any([fuzz(out, seconds, options.seed, HANG_SECONDS) for fuzz in targets.values()]))


if __name__ == "__main__":
    sys.exit(main())
