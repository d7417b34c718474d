"""Builds dkic's native code: writes one build.ninja and runs ninja; everything else is in pyproject.toml.

`build/native/` is kept between builds, so that only what changed is compiled again. The libraries go into
dkic/_native/ in an editable install, else into the wheel. Environment: CXX, CXXFLAGS, LDFLAGS, CUDA_HOME, MAX_JOBS and
TORCH_CUDA_ARCH_LIST mean what they usually do; DKIC_WERROR=1 makes warnings errors (in a build folder of its own). CUDA
kernels are built where csrc/build_support/build_cuda.py finds what that takes: DKIC_CUDA=0 leaves them out, DKIC_CUDA=1 insists.
"""

import ast
import json
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
sys.path.insert(0, str(ROOT / "csrc" / "build_support"))
from build_cuda import Cuda, Nvcc, cuda_to_build_with  # noqa: E402
from build_environment import cxx_compiler, python_headers, stop, torch_to_build_with  # noqa: E402

# ---- What is built: the one table of sources ----

# A kernel source is compiled once per instruction set; which of them runs is chosen at run time. The plainest
# comes first here, and so at the linker, which keeps the first of an inline function's several definitions.
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", *ISA_FLAGS["avx2"]]

# A CUDA source is compiled once per type of the data, side by side.
SCALAR_FLAGS = {scalar: [f"-DDKIC_SCALAR={scalar}"] for scalar in ("f32", "f64", "f16", "bf16")}


@dataclass(frozen=True)
class Library:
    """One shared library. Sources in {build} are written by `write_schemas`."""

    path: str
    against: str  # "torch" (the stable ABI), "torch and CUDA" or "python" (pybind11)
    sources: list[str]
    sources_per_isa: list[str] = field(default_factory=list)
    sources_per_scalar: list[str] = field(default_factory=list)


LIBRARIES = [
    Library(
        "dkic/_native/libdkic_cpu.so",
        against="torch",
        sources=[
            "csrc/rans/cdf_coder.cpp",
            "csrc/cpu/cdf_coder_cpu.cpp",
            "csrc/cpu/cpu_capability.cpp",
            "csrc/cpu/deform_conv2d_cpu.cpp",
            "csrc/cpu/quantized_conv2d_cpu.cpp",
            "csrc/cpu/factorized_likelihood_cpu.cpp",
            "csrc/cpu/gaussian_indexes_cpu.cpp",
            "csrc/cpu/gaussian_likelihood_cpu.cpp",
            "csrc/cpu/gaussian_symbols_cpu.cpp",
            "csrc/cpu/ldcn_cpu.cpp",
            "csrc/cpu/raster_context_cpu.cpp",
            "csrc/cpu/requantize_cpu.cpp",
            "{build}/schemas.cpp",
        ],
        sources_per_isa=[
            "csrc/cpu/deform_conv2d_kernel.cpp",
            "csrc/cpu/quantized_conv2d_kernel.cpp",
            "csrc/cpu/factorized_likelihood_kernel.cpp",
            "csrc/cpu/gaussian_likelihood_kernel.cpp",
            "csrc/cpu/gaussian_symbols_kernel.cpp",
            "csrc/cpu/ldcn_kernel.cpp",
            "csrc/cpu/raster_context_kernel.cpp",
            "csrc/cpu/requantize_kernel.cpp",
        ],
    ),
    Library(
        "dkic/_native/_rans" + sysconfig.get_config_var("EXT_SUFFIX"),
        against="python",
        sources=["csrc/rans/rans.cpp", "csrc/rans/rans_python.cpp"],
    ),
]
CUDA_LIBRARY = Library(
    "dkic/_native/libdkic_cuda.so",
    against="torch and CUDA",
    sources=["csrc/cuda/ldcn_cuda.cpp"],
    sources_per_scalar=["csrc/cuda/ldcn_cuda.cu"],
)
# What became of it, for dkic.ops.backends: {"architectures": [...], "compiler": ...} or {"reason": ..., "repair": ...}.
CUDA_RECORD = "dkic/_native/cuda_build.json"

# ---- How it is built ----

CXX_FLAGS = ["-Icsrc", "-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-Icsrc", "-std=c++20", "-O3", "-DNDEBUG", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
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
  description = compile $in $variant

rule compile_cuda
  command = {nvcc} -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = compile $in $variant

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


def flags_against(what: str, folder: Path, cuda: Cuda | None) -> tuple[list[str], list[str]]:
    """The C++ compiler's and the linker's flags for building against torch, torch and CUDA, or Python."""
    if what == "python":
        import pybind11

        path = stable_path(folder, f"pybind11-{pybind11.__version__}", Path(pybind11.get_include()))
        return ["-isystem", path, "-isystem", str(python_headers())], []
    torch = torch_to_build_with()
    path = stable_path(folder, f"torch-{torch.version}", torch.folder)
    compile_flags, link_flags = ["-isystem", f"{path}/include", *TORCH_DEFINES], [f"-L{path}/lib", *TORCH_LIBRARIES]
    if cuda is None or what == "torch":
        return compile_flags, link_flags
    cudart = stable_path(folder, f"cudart-{torch.version}", cuda.cudart.parent)
    return [*compile_flags, "-DUSE_CUDA"], [*link_flags, "-ltorch_cuda", f"-L{cudart}", f"-l:{cuda.cudart.name}"]


def nvcc_command(nvcc: Nvcc, folder: Path) -> list[str]:
    """The command of nvcc. The headers of one in a throw-away environment are system headers, which are no dependencies of a
    file: newly installed ones would compile everything again."""
    if nvcc.packages is None:
        return [nvcc.path]
    path = stable_path(folder, f"nvcc-{nvcc.version}", nvcc.packages)
    return [f"{path}/bin/nvcc", "-isystem", f"{path}/include"]


def nvcc_flags(cuda: Cuda, strict: bool) -> list[str]:
    """nvcc's flags, with the C++ compiler that it calls."""
    compiler, *options = cxx_compiler()
    forwarded = [f"-Xcompiler={option}" for option in options]
    werror = ["-Werror=all-warnings", "-Xcompiler=-Werror"] if strict else []
    return [f"-ccbin={compiler}", *forwarded, *NVCC_FLAGS, *cuda.flags, *werror]


def write_schemas(folder: Path) -> None:
    """Writes schemas.cpp, the definitions in dkic/ops/schemas.py for a program without Python; only where they changed."""
    tree = ast.parse((ROOT / "dkic/ops/schemas.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "library.define"]
    definitions = "".join(f"  m.def({json.dumps(ast.literal_eval(call.args[0]))});\n" for call in calls)
    text = f"#include <torch/csrc/stable/library.h>\n\nSTABLE_TORCH_LIBRARY(dkic, m) {{\n{definitions}}}\n"
    path = folder / "schemas.cpp"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def ninja_file(folder: Path, libraries: list[Library], cuda: Cuda | None, strict: bool) -> str:
    """The text of build.ninja; every path in it is relative to the root of the project."""

    def quoted(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    where = folder.relative_to(ROOT)
    user_flags, user_link_flags = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    nvcc = nvcc_command(cuda.nvcc, folder) if cuda else ["nvcc"]
    text = RULES.format(folder=where, cxx=quoted(cxx_compiler()), nvcc=quoted(nvcc))
    for library in libraries:
        compile_against, link_against = flags_against(library.against, folder, cuda)
        cxx_flags = [*CXX_FLAGS, *(["-Werror"] if strict else []), *compile_against]
        units = [("compile", source.format(build=where), "", [*cxx_flags, *user_flags]) for source in library.sources]
        for source in library.sources_per_isa:
            for isa, flags in ISA_FLAGS.items():
                units.append(("compile", source, isa, [*cxx_flags, f"-DDKIC_ISA={isa}", *flags, *user_flags]))
        for source in library.sources_per_scalar if cuda else []:
            for scalar, flags in SCALAR_FLAGS.items():
                units.append(("compile_cuda", source, scalar, [*nvcc_flags(cuda, strict), *flags]))
        objects = []
        for rule, source, variant, flags in units:
            objects.append(f"{where}/{Path(source).name}{variant and '.' + variant}.o")
            text += f"\nbuild {objects[-1]}: {rule} {source}\n  flags = {quoted(flags)}\n  variant = {variant}\n"
        flags = quoted([*link_against, *user_link_flags])
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
        found = cuda_to_build_with(torch_to_build_with())
        cuda = found if isinstance(found, Cuda) else None
        libraries = [*LIBRARIES, CUDA_LIBRARY] if cuda else LIBRARIES
        write_schemas(folder)
        (folder / "build.ninja").write_text(ninja_file(folder, libraries, cuda, strict))
        command = [ninja, "-f", str((folder / "build.ninja").relative_to(ROOT))]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            hint = " (DKIC_CUDA=0 leaves out the CUDA sources, .cu)" if cuda else ""
            stop(f"dkic's sources did not compile: the compiler's own messages are above{hint}.")
        if not cuda:
            self.destination(CUDA_LIBRARY.path).unlink(missing_ok=True)  # an earlier build's
        (folder / CUDA_RECORD).write_text(json.dumps(found.record) + "\n")
        for path in (*(library.path for library in libraries), CUDA_RECORD):
            self.place(folder / path, self.destination(path))

    def destination(self, path: str) -> Path:
        return (ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()) / path

    def place(self, built: Path, destination: Path) -> None:
        """Copies by renaming: a process that has the old library mapped keeps it."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
            os.replace(shutil.copy2(built, folder), destination)

    def get_outputs(self) -> list[str]:
        cuda = Path(self.build_lib) / CUDA_LIBRARY.path
        paths = [*(library.path for library in LIBRARIES), CUDA_RECORD, *([CUDA_LIBRARY.path] if cuda.exists() else [])]
        return [str(Path(self.build_lib) / path) for path in paths]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install finds them in the source tree

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in takes the whole of csrc


setup(
    # setuptools needs to know no more than that there are some: the wheel is for this platform and Python.
    ext_modules=[Extension(library.path.split(".")[0].replace("/", "."), []) for library in LIBRARIES],
    cmdclass={"build_ext": BuildNative},
)
