"""List the extension modules and print how they are built; everything else stands in pyproject.toml.

Environment
-----------
PINSTRIPE_LZ4=system
    Link the system's liblz4 instead of taking the LZ4 functions from the ``lz4`` package at import.
PINSTRIPE_DEBUG=1
    Bounds checks, assertions, ``-O1 -g``; built in ``build/debug``, so that it never mixes with the normal build.
PINSTRIPE_SANITIZE=address,undefined
    With PINSTRIPE_DEBUG: compile with these sanitizers.
"""

import os
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("PINSTRIPE_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("PINSTRIPE_SANITIZE", "") if DEBUG else ""
SYSTEM_LZ4 = os.environ.get("PINSTRIPE_LZ4", "") == "system"
BUILD = "build/debug" if DEBUG else "build"
MODULES = sorted(glob("ext/_*.pyx"))


def extensions() -> list[Extension]:
    if not MODULES:
        print("pinstripe: no ext/_*.pyx: building without kernels")
        return []
    from Cython import __version__ as cython_version
    from Cython.Build import cythonize

    # No -march=native: one binary runs everywhere and picks its instructions at run time.
    compile_args = ["-std=gnu11", "-fvisibility=hidden", "-pthread"]
    link_args = ["-pthread"]
    if DEBUG:
        compile_args += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
    else:
        compile_args += ["-O3"]
    if SANITIZE:
        compile_args += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
        link_args += [f"-fsanitize={SANITIZE}"]

    # Written only when it changes, which then rebuilds everything.
    settings = Path(BUILD, "settings.txt")
    environment = [os.environ.get(name, "") for name in ("CC", "CFLAGS", "LDFLAGS")]
    text = f"{compile_args} {link_args} lz4={SYSTEM_LZ4} cython={cython_version} {environment}\n"
    if not settings.exists() or settings.read_text() != text:
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(text)
    newest_setting = max(os.path.getmtime(path) for path in ("setup.py", settings))
    generated = [Path(BUILD, "cython", source).with_suffix(".c") for source in MODULES]

    modules = [
        Extension(
            f"pinstripe.kernels.{Path(source).stem}",
            sources=[source, *sorted(glob("ext/*.c"))],  # each object is compiled once, and is part of each module
            include_dirs=["ext"],
            depends=[*sorted(glob("ext/*.h")), "setup.py", str(settings)],
            define_macros=[("PINSTRIPE_LZ4_SYSTEM", "1")] if SYSTEM_LZ4 else [],
            libraries=["lz4"] if SYSTEM_LZ4 else [],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for source in MODULES
    ]
    print("pinstripe: LZ4 from", "the system's liblz4" if SYSTEM_LZ4 else "the lz4 package, at import")
    print("pinstripe:", "debug" if DEBUG else "release", "build", f"with sanitizers {SANITIZE}" if SANITIZE else "")
    return cythonize(
        modules,
        force=any(path.exists() and path.stat().st_mtime <= newest_setting for path in generated),
        build_dir=f"{BUILD}/cython",  # not beside the .pyx: ext/*.c holds what people wrote
        include_path=["ext"],
        emit_linenums=DEBUG,
        compiler_directives={
            "language_level": "3",
            "autotestdict": False,  # no __test__, which the stub would have to name
            "boundscheck": DEBUG,
            "initializedcheck": DEBUG,
            "wraparound": False,
        },
    )


class BuildChanged(build_ext):
    """Compile only the sources that changed, in a folder that stays, under ``pip install -e .`` too."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = f"{BUILD}/objects-{sys.implementation.cache_tag}"

    def build_extension(self, ext: Extension) -> None:
        compile_always = self.compiler._compile
        newest_shared = max(os.path.getmtime(path) for path in ext.depends)

        def compile_changed(obj: str, source: str, *rest: object) -> None:
            newest = max(newest_shared, os.path.getmtime(source))
            if self.force or not os.path.exists(obj) or os.path.getmtime(obj) <= newest:
                compile_always(obj, source, *rest)

        self.compiler._compile = compile_changed
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_always


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildChanged},
    options={"build": {"build_base": BUILD}},
)
