"""Builds dkic's native code: writes one build.ninja and runs ninja; everything else is in pyproject.toml.

`build/native/` is kept between builds, so that only what changed is compiled again. The libraries go into
dkic/_native/ in an editable install, else into the wheel. Environment: CXX, CXXFLAGS, LDFLAGS and MAX_JOBS
mean what they usually do; DKIC_WERROR=1 makes warnings errors (in a build folder of its own).
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
from build_backend import cxx_compiler, python_headers, stop, torch_to_build_with  # noqa: E402

# ---- What is built: the one table of sources ----

# A kernel source is compiled once per instruction set; which of them runs is chosen at run time. The plainest
# comes first here, and so at the linker, which keeps the first of an inline function's several definitions.
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", *ISA_FLAGS["avx2"]]


@dataclass(frozen=True)
class Library:
    """One shared library."""

    path: str
    against: str  # "torch" (the stable ABI) or "python" (pybind11)
    sources: list[str]
    sources_per_isa: list[str] = field(default_factory=list)


LIBRARIES = [
    Library(
        "dkic/_native/libdkic_cpu.so",
        against="torch",
        sources=[
            "csrc/cpu_capability.cpp",
            "csrc/deform_conv2d_cpu.cpp",
            "csrc/gaussian_likelihood_cpu.cpp",
            "csrc/gaussian_symbols_cpu.cpp",
            "csrc/ldcn_cpu.cpp",
        ],
        sources_per_isa=[
            "csrc/deform_conv2d_kernel.cpp",
            "csrc/gaussian_likelihood_kernel.cpp",
            "csrc/gaussian_symbols_kernel.cpp",
            "csrc/ldcn_kernel.cpp",
        ],
    ),
    Library(
        "dkic/_native/_rans" + sysconfig.get_config_var("EXT_SUFFIX"),
        against="python",
        sources=["csrc/rans.cpp", "csrc/rans_python.cpp"],
    ),
]

# ---- How it is built ----

CXX_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# The stable ABI of torch 2.10: what is built here runs with every later torch too.
TORCH_DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
# No rpath: Python imports torch first, and the loader then knows the library by its name.
TORCH_LIBRARIES = ["-Wl,--no-undefined", "-ltorch_cpu"]

RULES = """\
ninja_required_version = 1.5
builddir = {folder}

rule compile
  command = {cxx} -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = compile $in $isa

rule link
  command = {cxx} -shared $in -o $out $flags
  description = link $out
"""


def stable_path(folder: Path, name: str, target: Path) -> str:
    """A link in the build folder to `target`, a package that often lies in pip's throw-away environment.

    The link's name holds no more than the package's version. So the compiler's command, by which ninja judges
    what is out of date, is the same in the next throw-away environment, and another one for another version.
    """
    link = folder / "against" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return str(link.relative_to(ROOT))


def flags_against(what: str, folder: Path) -> tuple[list[str], list[str]]:
    """The compiler's and the linker's flags for building against torch or Python."""
    if what == "torch":
        torch = torch_to_build_with()
        path = stable_path(folder, f"torch-{torch.version}", torch.folder)
        return ["-isystem", f"{path}/include", *TORCH_DEFINES], [f"-L{path}/lib", *TORCH_LIBRARIES]
    import pybind11

    path = stable_path(folder, f"pybind11-{pybind11.__version__}", Path(pybind11.get_include()))
    return ["-isystem", path, "-isystem", str(python_headers())], []


def ninja_file(folder: Path, extra_flags: list[str]) -> str:
    """The text of build.ninja; every path in it is relative to the root of the project."""

    def quoted(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    where = folder.relative_to(ROOT)
    user_flags, link_flags = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    text = RULES.format(folder=where, cxx=quoted(cxx_compiler()))
    for library in LIBRARIES:
        compile_against, link_against = flags_against(library.against, folder)
        units = [(source, "", []) for source in library.sources]
        for source in library.sources_per_isa:
            units += [(source, isa, [f"-DDKIC_ISA={isa}", *flags]) for isa, flags in ISA_FLAGS.items()]
        objects = []
        for source, isa, isa_flags in units:
            objects.append(f"{where}/{Path(source).stem}{isa and '.' + isa}.o")
            flags = quoted([*CXX_FLAGS, *extra_flags, *compile_against, *isa_flags, *user_flags])
            text += f"\nbuild {objects[-1]}: compile {source}\n  flags = {flags}\n  isa = {isa}\n"
        flags = quoted([*link_against, *link_flags])
        text += f"\nbuild {where}/{library.path}: link {' '.join(objects)}\n  flags = {flags}\n"
    return text


class BuildNative(build_ext):
    """setuptools' build_ext, with ninja in the place of its compiler driver."""

    def run(self) -> None:
        if sys.platform != "linux":
            stop(f"dkic is built on Linux only, and this is {sys.platform}.")
        ninja = shutil.which("ninja", path=f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}")
        if ninja is None:
            stop("dkic is built with ninja and found none: run `python3 -m pip install ninja` first.")
        strict = os.environ.get("DKIC_WERROR", "") not in ("", "0")
        folder = ROOT / "build" / "native" / (sys.implementation.cache_tag + ("-werror" if strict else ""))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(folder, ["-Werror"] if strict else []))
        command = [ninja, "-f", str((folder / "build.ninja").relative_to(ROOT))]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            stop("dkic's C++ sources did not compile: the compiler's own messages are above.")
        for library in LIBRARIES:
            self.place(folder / library.path, self.destination(library.path))

    def destination(self, path: str) -> Path:
        return (ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()) / path

    def place(self, built: Path, destination: Path) -> None:
        """Copies by renaming: a process that has the old library mapped keeps it."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
            os.replace(shutil.copy2(built, folder), destination)

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / library.path) for library in LIBRARIES]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install finds them in the source tree

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in takes the whole of csrc


setup(
    # setuptools needs to know no more than that there are some: the wheel is for this platform and Python.
    ext_modules=[Extension(library.path.split(".")[0].replace("/", "."), []) for library in LIBRARIES],
    cmdclass={"build_ext": BuildNative},
)
