"""What pyproject.toml cannot say: a wheel carries bundles/, configs/ and docs/ inside the package.

They stay at the repository's root, where people look for them; volseg/installation.py finds them in either.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

CARRIED = ("bundles/*.json", "bundles/*.conf", "configs/*.json", "docs/*.md")


class BuildWithFiles(build_py):
    """Copies the carried files beside the modules, unless the package is used where it lies."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in CARRIED for path in sorted(Path().glob(pattern))):
            target = Path(self.build_lib, "volseg", path)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(packages=find_packages(include=["volseg*"]), cmdclass={"build_py": BuildWithFiles})
