"""The package as a library: public names, loaded on first use."""

import subprocess
import sys

import pytest

import liveavatar


def test_public_names_are_there() -> None:
    for name in liveavatar.__all__:
        assert getattr(liveavatar, name) is not None


def test_the_package_alone_is_light() -> None:
    code = "import sys, liveavatar; assert 'torch' not in sys.modules; assert liveavatar.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'render_engine'"):
        liveavatar.render_engine  # noqa: B018 (the access is what is tested)
