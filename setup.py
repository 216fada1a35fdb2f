"""What pyproject.toml cannot say: kernels/ is tsgen.kernels, and CMake builds tsgen._C."""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
FOUND = sorted([*ROOT.glob("csrc/**/*"), *ROOT.glob("cmake/*")])
NATIVE = [path.relative_to(ROOT) for path in FOUND if path.is_file()]


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        flags = [f"-D{name}={value}" for name, value in options.items()]
        flags += shlex.split(os.environ.get("CMAKE_ARGS", ""))  # e.g. -DTSGEN_CUDA=ON
        build = Path(self.build_temp).resolve()
        if not build.is_relative_to(ROOT):  # an editable install's, which is deleted after it
            build = ROOT / "build" / "editable"
        # a cache from before may name a deleted ninja (pip's isolated builds) or miss nvcc; objects
        # stay, which --fresh would delete too
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *flags]
        # cmake and ninja may come from the environment that runs this without being active
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        for command in (configure, ["cmake", "--build", build]):
            subprocess.run(command, check=True, env=os.environ | {"PATH": path})


setup(
    packages=[*find_packages(include=["tsgen", "tsgen.*"]), "tsgen.kernels"],
    package_dir={"tsgen": "tsgen", "tsgen.kernels": "kernels"},
    package_data={"tsgen": ["py.typed", "bundled/*/config.json", "bundled/*/*.safetensors"]},
    # no sources, CMake knows them; depends puts the files into the source distribution
    ext_modules=[
        Extension("tsgen._C", sources=[], depends=["CMakeLists.txt", *map(str, NATIVE)]),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
