"""Everything is in setup.cfg, but for one thing: the man page is built from the parser when the wheel is."""

import sys
from pathlib import Path

from build_manpages import build_manpages, get_build_py_cmd, get_install_cmd
from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))  # where the parser is
setup(cmdclass={"build_manpages": build_manpages, "build_py": get_build_py_cmd(), "install": get_install_cmd()})
