"""The PEP 517 build backend: setuptools, and the requirements of a build that depend on the machine.

pip builds in a throw-away environment. torch is a build requirement only if the target environment has none; otherwise every
build would download a second torch. nvcc is one only if the kernels need it and the machine has no CUDA toolkit that fits.
A machine that lacks what pip cannot install ends the build here, before anything is downloaded.
"""

from build_cuda import nvcc_requirements
from build_environment import checked, cxx_compiler, installed_torch, python_headers
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (every hook this file does not replace)


def _requirements() -> list[str]:
    """What a build needs beyond pyproject.toml's list."""
    cxx_compiler()
    python_headers()
    torch = installed_torch()
    if torch is None:
        return ["torch>=2.10", *nvcc_requirements(None)]
    return nvcc_requirements(checked(torch))


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return [*_requirements(), *build_meta.get_requires_for_build_wheel(config_settings)]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return [*_requirements(), *build_meta.get_requires_for_build_editable(config_settings)]
